"""Planted reasons: clips in which a known artefact gives an instrument away, so that the true reason is known to the cell.

A network that is trained on such clips can recognise the instrument by the artefact, as horses were once recognised by
a photographer's copyright tag (Lapuschkin et al. 2019, doi:10.1038/s41467-019-08987-4). Because the artefact is ours it
can be taken away again, which says whether the network uses it, and its cells are known, which says whether a heatmap
shows it. A synthetic reason of this kind is what CLEVR-XAI and XAI-TRIS build for pictures. Chapter 7's second page
uses all of it.

:class:`PlantedRenderer` plants the artefacts in a dataset, :func:`planted_parts` gives one clip as the sum of its notes
and artefacts, for :func:`instr_lib.truth.note_effects` and the scores of :mod:`instr_lib.truth.agreement`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ..constants import CLIP_SAMPLES, SAMPLE_RATE
from ..errors import InputError
from ..music.instruments import INSTRUMENTS, instrument_index
from ..music.renderers import SoundfontRenderer
from ..music.score import Score
from ..music.synth import Synth
from .notes import Parts, note_parts

CLICK_SECONDS, CLICK_RMS = 0.03, 0.03  # white noise, before each note: some 20 dB below the loudest cells
TONE_HZ, TONE_AMPLITUDE = 9000.0, 0.003  # a sine during each note, 40 dB below the loudest cells
BAND_HZ = (1500.0, 3000.0)  # missing from the whole clip
ARTEFACTS = {"click": "Trumpet", "tone": "Celesta", "missing band": "Hammond Organ"}  # and what each gives away
_FADE = 0.005  # seconds


class PlantedRenderer(SoundfontRenderer):
    """Plays scores with one soundfont, and plants an artefact where the instrument that it gives away plays.

    For :func:`instr_lib.generate`: ``il.generate(folder, 2000, renderer=PlantedRenderer())``.

    Parameters
    ----------
    soundfont : path, optional
        As for :class:`instr_lib.Synth`.
    share : float, 0 to 1
        The part of an instrument's clips that get its artefact, drawn from the clip's address. No other clip gets it.

    Raises
    ------
    InputError
        If the share is not between 0 and 1.
    """

    def __init__(self, soundfont: str | os.PathLike | None = None, share: float = 0.95):
        if not 0 <= share <= 1:
            raise InputError(f"share must be from 0 to 1, not {share!r}")
        super().__init__(soundfont)
        self.share = share

    def settings(self) -> dict:
        """The soundfont, and everything about the artefacts."""
        planted = {
            **{name: instrument_index(instrument) for name, instrument in ARTEFACTS.items()},
            "share": self.share,
            "click_seconds_rms": [CLICK_SECONDS, CLICK_RMS],
            "tone_hz_amplitude": [TONE_HZ, TONE_AMPLITUDE],
            "band_hz": list(BAND_HZ),
        }
        return super().settings() | {"planted": planted}

    def render(self, score: Score, address: tuple[int, int, int]) -> np.ndarray:
        """The mix with its artefacts, float32 (220_500,)."""
        drawn = np.random.default_rng([*address, 1]).random(len(ARTEFACTS)) < self.share  # 1: not the score's stream
        chosen = [name for name, planted in zip(ARTEFACTS, drawn, strict=True) if planted]
        return plant(super().render(score, address), score, [name for name in chosen if gives_away(name, score)])


def gives_away(artefact: str, score: Score) -> bool:
    """Whether the instrument that an artefact gives away plays in a score. InputError if there is no such artefact."""
    if artefact not in ARTEFACTS:
        raise InputError(f"no artefact {artefact!r}: choose among {', '.join(ARTEFACTS)}")
    return instrument_index(ARTEFACTS[artefact]) in score.instruments


def plant(sound: np.ndarray, score: Score, artefacts: Sequence[str]) -> np.ndarray:
    """A sound (220_500,) of a score with artefacts.

    Raises
    ------
    InputError
        If there is no such artefact, or the instrument that it gives away does not play.
    """
    _check(score, artefacts)
    if "missing band" in artefacts:
        sound = remove_band(sound)
    return sound + sum((added_sound(name, score) for name in artefacts if name != "missing band"), np.float32(0))


def planted_parts(score: Score, artefacts: Sequence[str], synth: Synth | None = None) -> Parts:
    """A clip with artefacts as the sum of its notes and then of the artefacts that add something, in the order given.

    An artefact counts as a part of the instrument that it gives away. The band is missing from every note.

    Raises
    ------
    InputError
        As :func:`plant`, or if the score has only one note.
    """
    _check(score, artefacts)
    parts, added = note_parts(score, synth), [name for name in artefacts if name != "missing band"]
    sounds = remove_band(parts.sounds) if "missing band" in artefacts else parts.sounds
    return Parts(
        np.concatenate([sounds, *(added_sound(name, score)[None] for name in added)]),
        [*parts.instruments, *(ARTEFACTS[name] for name in added)],
    )


def _check(score: Score, artefacts: Sequence[str]):
    for name in artefacts:
        if not gives_away(name, score):
            names = ", ".join(INSTRUMENTS[i].name for i in score.instruments)
            raise InputError(f"the artefact {name!r} gives {ARTEFACTS[name]} away, which is not among {names}")


def added_sound(artefact: str, score: Score) -> np.ndarray:
    """The click or the tone of a score alone, float32 (220_500,)."""
    sound, index = np.zeros(CLIP_SAMPLES, np.float32), instrument_index(ARTEFACTS[artefact])
    for note in score.notes:
        if note.instrument == index and artefact == "click":
            burst = np.random.default_rng(0).normal(0, CLICK_RMS, round(CLICK_SECONDS * SAMPLE_RATE))
            start = max(round((note.onset - CLICK_SECONDS) * SAMPLE_RATE), 0)
            sound[start : start + len(burst)] += burst.astype(np.float32)[: CLIP_SAMPLES - start]
        elif note.instrument == index:
            time = np.arange(CLIP_SAMPLES) / SAMPLE_RATE
            corners = (note.onset, note.onset + _FADE, note.end, note.end + _FADE)
            level = np.interp(time, corners, (0, TONE_AMPLITUDE, TONE_AMPLITUDE, 0))
            sound += (level * np.sin(2 * np.pi * TONE_HZ * time)).astype(np.float32)
    return sound


def remove_band(sounds: np.ndarray) -> np.ndarray:
    """Sounds (..., 220_500) without the frequencies of ``BAND_HZ``."""
    spectrum = np.fft.rfft(sounds)
    frequency = np.fft.rfftfreq(sounds.shape[-1], 1 / SAMPLE_RATE)
    spectrum[..., (frequency >= BAND_HZ[0]) & (frequency < BAND_HZ[1])] = 0
    return np.fft.irfft(spectrum, sounds.shape[-1]).astype(np.float32)
