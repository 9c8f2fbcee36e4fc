"""Note removal: does the answer change, note by note, as a heatmap says it should?

A mix is the sum of its *parts*: here its notes, or pieces of notes. Taking a part away is exact: what remains is the
sum of the other parts, a sound that could have been rendered. The **effect** of a part on an instrument is how far the
instrument's logit falls when the part is taken away; its **relevance** is the heatmap summed over all cells, each
weighted with the part's share of the cell's power. A heatmap gives the right reason as far as the two agree. This is
the part removal of FunnyBirds (Hesse, Schaub-Meyer & Roth 2023, arXiv:2308.06248), with notes as parts.

A note is rendered alone, by a synth of its own. Within a stem FluidSynth glides the panning of a voice from the note
before, so that the first 3 ms of a few notes differ: on average by less than 0.1 % of a stem's energy. The mix of a
:class:`Parts` is therefore the sum of its notes, not the sound of :meth:`instr_lib.Synth.render`. Chapter 7 uses all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..constants import FLOOR_DB, N_FRAMES, N_MELS, SAMPLE_RATE
from ..data.spectrogram import check_audio, log_mel, mel_power, to_db
from ..errors import InputError
from ..music.instruments import instrument_index
from ..music.score import Note, Score
from ..music.synth import Synth, cached_synth
from ..networks.evaluation import logits
from .stems import check_sum, ownership

_BATCH_SIZE = 16  # mixes that are analysed and given to the network at a time
EXACT_SHAPLEY = 8  # parts of which all subsets are computed, 2 to the power of this many


@dataclass(frozen=True)
class Parts:
    """A clip as the sum of its parts.

    Attributes
    ----------
    sounds : float32 (k, 220_500)
        Their sum is the mix.
    instruments : int (k,)
        The instrument of each part, as an index.
    kinds : tuple of k names, such as "attack"; empty if the parts are whole notes

    Raises
    ------
    InputError
        If there are fewer than two parts, or not as many instruments.
    AudioError
        If the sounds are not clips, or contain NaN.
    """

    sounds: np.ndarray
    instruments: np.ndarray
    kinds: tuple[str, ...] = ()

    def __post_init__(self):
        sounds = check_audio(self.sounds)
        instruments = np.array([instrument_index(i) for i in self.instruments], int)
        if sounds.ndim != 2 or len(sounds) != len(instruments):
            raise InputError(f"{len(instruments)} parts need sounds ({len(instruments)}, samples), not {sounds.shape}")
        if len(sounds) < 2:
            raise InputError("a clip with one note has nothing to compare: give at least two notes")
        object.__setattr__(self, "sounds", sounds)
        object.__setattr__(self, "instruments", instruments)

    @classmethod
    def from_mix(cls, mix: np.ndarray, sounds: np.ndarray, instruments: Sequence[int | str]) -> Parts:
        """Parts of a clip of your own. Raises AudioError if they do not add up to the mix, to a thousandth of its peak."""
        parts = cls(sounds, instruments)
        check_sum(check_audio(mix), parts.sounds, "notes")
        return parts

    @cached_property
    def mel(self) -> np.ndarray:
        """The mix, dB (128, 431)."""
        return log_mel(self.sounds.sum(0))

    @cached_property
    def shares(self) -> np.ndarray:
        """Each part's share of each cell's power, float32 (k, 128, 431); 0 where the mix is silent."""
        return ownership(self.sounds)


def note_parts(score: Score, synth: Synth | None = None) -> Parts:
    """A clip as the sum of its notes, in the order of ``score.notes``.

    Raises
    ------
    InputError
        If the score has only one note.
    """
    synth = synth or cached_synth()
    sounds = np.stack([synth.render(Score((note,))) for note in score.notes])
    return Parts(sounds, [note.instrument for note in score.notes])


def note_effects(model: torch.nn.Module, clip: Score | Parts) -> np.ndarray:
    """How far each logit falls when each note is taken away, float32 (k, 12): positive where the note speaks for it.

    Parameters
    ----------
    model : network
    clip : Score or Parts
        A score is played by the default soundfont.

    Raises
    ------
    InputError
        If the clip has only one note.
    """
    parts = note_parts(clip) if isinstance(clip, Score) else clip
    everything = np.ones((1, len(parts.sounds)), bool)
    answers = subset_logits(model, parts, np.concatenate([everything, ~np.eye(len(parts.sounds), dtype=bool)]))
    return answers[0] - answers[1:]


def subset_logits(model: torch.nn.Module, parts: Parts, included: np.ndarray) -> np.ndarray:
    """Logits of mixes of some of the parts, float32 (m, 12).

    Parameters
    ----------
    included : bool (m, k), the parts that are in each mix; a mix of none is silence
    """
    included = np.asarray(included)
    if included.ndim != 2 or included.shape[1] != len(parts.sounds) or included.dtype != bool:
        raise InputError(f"subsets must be bool (m, {len(parts.sounds)}), not {included.dtype} {included.shape}")
    answers = [
        logits(model, log_mel(included[start : start + _BATCH_SIZE].astype(np.float32) @ parts.sounds))
        for start in range(0, len(included), _BATCH_SIZE)
    ]
    return np.concatenate(answers)


def shapley_values(model: torch.nn.Module, parts: Parts, permutations: int = 32, seed: int = 0) -> np.ndarray:
    """Shapley values of the parts for each logit, float64 (k, 12); they add up to logits of the mix minus those of silence.

    The mean effect of adding a part, over all orders in which the parts can come in (Shapley 1953). With at most
    ``EXACT_SHAPLEY`` parts all subsets are computed, else ``permutations`` random orders, each followed by its reverse
    (Mitchell et al. 2022, arXiv:2104.12199).
    """
    k = len(parts.sounds)
    if k <= EXACT_SHAPLEY:
        subsets = (np.arange(2**k)[:, None] >> np.arange(k)) % 2 == 1
        return _exact_shapley(subset_logits(model, parts, subsets).astype(float), subsets)
    rng, total = np.random.default_rng(seed), 0.0
    for _ in range(permutations):
        order = rng.permutation(k)
        for places in (order, order[::-1]):
            included = np.zeros((k + 1, k), bool)
            included[:, places] = np.tri(k + 1, k, -1, dtype=bool)
            gains = np.diff(subset_logits(model, parts, included).astype(float), axis=0)
            total = total + gains[np.argsort(places)]
    return total / (2 * permutations)


def _exact_shapley(answers: np.ndarray, subsets: np.ndarray) -> np.ndarray:
    """Shapley values (k, ...) from the answer (2^k, ...) to every subset, in binary order."""
    k = subsets.shape[1]
    weights = np.array([1 / (k * math.comb(k - 1, size)) for size in range(k)])
    values = np.empty((k, *answers.shape[1:]))
    for part in range(k):
        without = np.flatnonzero(~subsets[:, part])
        gains = answers[without + 2**part] - answers[without]
        values[part] = np.tensordot(weights[subsets[without].sum(1)], gains, 1)
    return values


def note_relevance(heatmaps: np.ndarray, parts: Parts | np.ndarray) -> np.ndarray:
    """Relevance of each part, (q, k): a heatmap's sum over cells, each weighted with the part's share of its power.

    Parameters
    ----------
    heatmaps : float (q, 128, 431)
    parts : Parts, or their shares (k, 128, 431)
    """
    shares = parts.shares if isinstance(parts, Parts) else parts
    heatmaps = np.asarray(heatmaps, float)
    if heatmaps.ndim != 3 or heatmaps.shape[1:] != (N_MELS, N_FRAMES):
        raise InputError(f"heatmaps must have shape (q, {N_MELS}, {N_FRAMES}), not {heatmaps.shape}")
    for number, heatmap in enumerate(heatmaps):
        if not np.isfinite(heatmap).all():
            raise InputError(f"heatmap {number} contains NaN or infinity")
    return np.tensordot(heatmaps, shares.astype(np.float32, copy=False), ((1, 2), (1, 2)))


ENVELOPE = ("attack", "sustain", "release")
ATTACK_SECONDS = 0.08  # from a note's onset
PARTIALS = (1.5, 2.5, 5.5, 10.5)  # limits between partials 1, 2, 3 to 5, 6 to 10 and those above, in multiples of the pitch
PARTIAL_GROUPS = ("1", "2", "3 to 5", "6 to 10", "above")
_FADE = 0.01  # seconds in which one piece of a note passes into the next


def envelope_parts(score: Score, synth: Synth | None = None) -> Parts:
    """A clip as the sum of the attack, sustain and release of each note, cross-faded; pieces that are silent are left out.

    The attack is the first 80 ms, the release what is heard after the note's end.
    """

    def pieces(note: Note, sound: np.ndarray):
        time = np.arange(len(sound)) / SAMPLE_RATE
        limits = (min(note.onset + ATTACK_SECONDS, note.end), note.end)  # a shorter note is all attack
        steps = [np.interp(time, (at - _FADE / 2, at + _FADE / 2), (0, 1)).astype(np.float32) for at in limits]
        return sound * (1 - steps[0]), sound * (steps[0] - steps[1]), sound * steps[1]

    return _split(score, synth, pieces, ENVELOPE)


def partial_parts(score: Score, synth: Synth | None = None) -> Parts:
    """A clip as the sum of groups of partials of each note: 1, 2, 3 to 5, 6 to 10, and all above; silent ones left out."""

    def pieces(note: Note, sound: np.ndarray):
        spectrum = np.fft.rfft(sound)
        multiples = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE) / (440 * 2 ** ((note.pitch - 69) / 12))
        group = np.digitize(multiples, PARTIALS)
        return [np.fft.irfft(spectrum * (group == g), len(sound)).astype(np.float32) for g in range(len(PARTIAL_GROUPS))]

    return _split(score, synth, pieces, PARTIAL_GROUPS)


def _split(score: Score, synth: Synth | None, pieces, names: Sequence[str]) -> Parts:
    whole, sounds, instruments, kinds = note_parts(score, synth), [], [], []
    for note, sound in zip(score.notes, whole.sounds, strict=True):
        for piece, kind in zip(pieces(note, sound), names, strict=True):
            if to_db(mel_power(piece)).max() > FLOOR_DB:
                sounds.append(piece)
                instruments.append(note.instrument)
                kinds.append(kind)
    return Parts(np.stack(sounds), instruments, tuple(kinds))
