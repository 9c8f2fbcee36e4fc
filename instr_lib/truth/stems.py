"""Stems as ground truth: which instrument owns which cell of the spectrogram.

A *cell* is a time-frequency bin of the log-mel spectrogram, one band and one frame. **Ownership** is the ideal ratio mask
on mel power: each stem's share of a cell. An instrument's **own cells** are the ideal binary mask at
``OWNERSHIP_THRESHOLD``: those in which it has at least that share. A **pair** is a clip and an instrument that plays in it.

Conventions: stems are float32 (k, 220_500) and add up to the mix; heatmaps are signed float (n, 128, 431), one for each
pair; ``owned_mask`` is bool (n, 128, 431), the pairs' own cells. Chapters 7 to 9 use all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from ..constants import FLOOR_DB, SAMPLE_RATE
from ..data.dataset import clip_score
from ..data.spectrogram import check_audio, log_mel, mel_power, to_db
from ..errors import AudioError, InputError, ScoreError
from ..music.instruments import INSTRUMENTS, instrument_index
from ..music.score import Note, Score
from ..music.synth import Synth, SynthOverrides

OWNERSHIP_THRESHOLD = 0.8  # share of a cell's power that makes it an instrument's own


def ownership(stems: np.ndarray) -> np.ndarray:
    """Each stem's share of each cell's mel power (the ideal ratio mask), 0 where the mix is silent.

    Parameters
    ----------
    stems : float32 (k, 220_500)
        The sound of each instrument alone, as from :meth:`instr_lib.Synth.render_stems`.

    Returns
    -------
    float32 (k, 128, 431)
        Between 0 and 1; over the stems they add up to 1 where the mix sounds and to 0 where it does not.

    Raises
    ------
    AudioError
        If the stems are not k clips, or contain NaN.
    """
    stems = np.asarray(stems)
    if stems.ndim != 2:
        raise AudioError(f"stems must have shape (instruments, samples), not {stems.shape}")
    power = mel_power(stems)
    total = power.sum(axis=0)
    sounds = (to_db(mel_power(stems.sum(axis=0))) > FLOOR_DB) & (total > 0)
    return np.divide(power, total, out=np.zeros_like(power), where=sounds)


class Pairs(NamedTuple):
    """Spectrograms of clips, and n pairs of a clip and an instrument that plays in it.

    Attributes
    ----------
    mels : float32 (clips, 128, 431), dB
    clips : int (n,), the pair's row of ``mels``
    classes : int (n,), the pair's instrument, as an index
    shares : float32 (n, 128, 431), the instrument's ownership
    others : n bool arrays (k, 128, 431), the own cells of each of the clip's other instruments
    level : float (n,), level of the instrument's stem relative to the rest of the mix, dB
    n_instruments : int (n,), how many instruments play in the clip
    sources : (Score, Synth) of each clip if it was rendered from notes, else empty
    """

    mels: np.ndarray
    clips: np.ndarray
    classes: np.ndarray
    shares: np.ndarray
    others: list[np.ndarray]
    level: np.ndarray
    n_instruments: np.ndarray
    sources: tuple = ()

    @property
    def owned_mask(self) -> np.ndarray:
        """The pairs' own cells, bool (n, 128, 431)."""
        return self.shares >= OWNERSHIP_THRESHOLD


def render_pairs(
    n_clips: int, seed: int = 0, split: str = "test", synth: Synth | None = None, progress: bool = True
) -> Pairs:
    """The pairs of the first clips of a stream in which two or more instruments play, rendered stem by stem.

    Parameters
    ----------
    n_clips : int
        At least one; about three pairs per clip.
    seed, split : as for :func:`instr_lib.generate`
    synth : Synth, optional
    progress : bool

    Raises
    ------
    InputError
        If ``n_clips`` is not positive.
    SynthError, SoundfontError
        As :class:`instr_lib.Synth`.
    """
    if n_clips < 1:
        raise InputError(f"n_clips must be at least 1, not {n_clips}")
    synth, pairs, index = synth or Synth(), [], -1
    with tqdm(total=n_clips, desc="clips with stems", disable=not progress) as bar:
        while len(pairs) < n_clips:
            index += 1
            score = clip_score(index, seed, split)
            if len(score.instruments) < 2:
                continue
            stems = synth.render_stems(score)
            rendered = pairs_from_stems(stems.sum(0), stems, score.instruments)
            pairs.append(rendered._replace(sources=((score, synth),)))
            bar.update()
    return concatenate_pairs(pairs)


def pairs_from_stems(
    mix: np.ndarray,
    stems: np.ndarray,
    instruments: Sequence[int | str],
    targets: Sequence[int | str] | None = None,
) -> Pairs:
    """The pairs of one clip of your own, given as a mix and the stems that it is the sum of.

    Parameters
    ----------
    mix : float32 (220_500,)
    stems : float32 (k, 220_500)
    instruments : k names or indices, the instrument of each stem
    targets : names or indices of the instruments that pairs are made of; by default all

    Raises
    ------
    AudioError
        If mix or stems have the wrong shape or contain NaN, or the stems do not add up to the mix (to a thousandth of its
        peak).
    InputError
        If the number of instruments is not that of the stems, or a target does not play.
    """
    mix, stems, active = _check_stems(mix, stems, instruments)
    targets = active if targets is None else [instrument_index(i) for i in targets]
    for index in targets:
        if index not in active:
            names = ", ".join(INSTRUMENTS[i].name for i in active)
            raise InputError(f"{INSTRUMENTS[index].name} does not play in this clip and owns no cell: choose among {names}")
    shares = ownership(stems)
    owned_mask, rows = shares >= OWNERSHIP_THRESHOLD, [active.index(index) for index in targets]
    power = (stems.astype(float) ** 2).sum(1)
    rest = ((mix - stems) ** 2).sum(1, dtype=float)
    return Pairs(
        log_mel(mix)[None],
        np.zeros(len(targets), int),
        np.array(targets),
        shares[rows],
        [np.delete(owned_mask, row, 0) for row in rows],
        10 * np.log10(np.maximum(power, 1e-12) / np.maximum(rest, 1e-12))[rows],
        np.full(len(targets), len(stems)),
    )


def _check_stems(mix, stems, instruments) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Mix, stems and instrument indices of a clip, if they belong together."""
    mix, stems, active = check_audio(mix), check_audio(stems), [instrument_index(i) for i in instruments]
    if stems.ndim != 2 or mix.ndim != 1:
        raise AudioError(f"a clip is a mix (samples,) and stems (instruments, samples), not {mix.shape} and {stems.shape}")
    if len(active) != len(stems) or len(set(active)) != len(active):
        raise InputError(f"{len(stems)} stems need as many different instruments, not {len(active)}: {list(instruments)}")
    check_sum(mix, stems, "stems")
    return mix, stems, active


def check_sum(mix: np.ndarray, parts: np.ndarray, what: str):
    """Raises AudioError if parts (k, samples), called ``what``, do not add up to a mix (samples,)."""
    error, peak = np.abs(parts.sum(0) - mix), np.abs(mix).max()
    if error.max() > 1e-3 * peak:
        raise AudioError(
            f"the {what} do not add up to the mix: at {error.argmax() / SAMPLE_RATE:.2f} s they differ by "
            f"{error.max():.2g} and the mix peaks at {peak:.2g}: give all {what}, as they are in the mix, "
            "without effects on their sum"
        )


def concatenate_pairs(parts: Sequence[Pairs]) -> Pairs:
    """Pairs of several clips as one."""
    first_rows = np.cumsum([0, *(len(part.mels) for part in parts)])
    mels, clips, classes, shares, others, level, n_instruments, sources = zip(*parts, strict=True)
    return Pairs(
        np.concatenate(mels),
        np.concatenate([rows + first for rows, first in zip(clips, first_rows, strict=False)]),
        np.concatenate(classes),
        np.concatenate(shares),
        [masks for part in others for masks in part],
        np.concatenate(level),
        np.concatenate(n_instruments),
        tuple(source for clips in sources for source in clips) if all(sources) else (),
    )


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, doi:10.1109/ICASSP.2019.8683855).

    .. math:: 10 \\log_{10} \\frac{|a s|^2}{|a s - e|^2}, \\quad a = \\frac{e \\cdot s}{|s|^2}

    for an estimate e of the sound s. From minus to plus infinity, independent of loudness; NaN if either is silent.

    Parameters
    ----------
    estimate, reference : float (samples,)

    Raises
    ------
    AudioError
        If the shapes differ.
    """
    estimate, reference = np.asarray(estimate, float), np.asarray(reference, float)
    if estimate.shape != reference.shape or estimate.ndim != 1:
        raise AudioError(f"estimate {estimate.shape} and reference {reference.shape} must be two sounds of one length")
    if not estimate.any() or not reference.any():
        return float("nan")
    target = estimate @ reference / (reference @ reference) * reference
    error = target - estimate
    with np.errstate(divide="ignore"):
        return float(10 * np.log10((target @ target) / (error @ error)))


@dataclass(frozen=True)
class Clip:
    """A clip and an instrument that plays in it, rendered: what :mod:`instr_lib.truth.edits` are functions of.

    Attributes
    ----------
    score : Score
    instrument : int, index (a name is accepted too)
    synth : Synth
    stem : float32 (220_500,), the instrument's sound
    rest : float32 (220_500,), the sound of all other instruments, or silence

    Raises
    ------
    ScoreError
        If the instrument does not play in this score.
    """

    score: Score
    instrument: int
    synth: Synth
    stem: np.ndarray = field(init=False, repr=False)
    rest: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "instrument", instrument_index(self.instrument))
        active = self.score.instruments
        if self.instrument not in active:
            names = ", ".join(INSTRUMENTS[i].name for i in active)
            raise ScoreError(f"{INSTRUMENTS[self.instrument].name} does not play in this clip: choose among {names}")
        stems = self.synth.render_stems(self.score)
        own = active.index(self.instrument)
        object.__setattr__(self, "stem", stems[own])
        object.__setattr__(self, "rest", np.delete(stems, own, 0).sum(0))

    @property
    def notes(self) -> list[Note]:
        """The instrument's notes, by onset."""
        return [note for note in self.score.notes if note.instrument == self.instrument]

    def play(self, notes: Iterable[Note], overrides: SynthOverrides | None = None) -> np.ndarray:
        """A stem that plays other notes, all of one instrument: float32 (220_500,)."""
        score = Score(tuple(notes))
        return self.synth.render(score, None if overrides is None else dict.fromkeys(score.instruments, overrides))

    def resynthesise(self, instrument: str | int) -> np.ndarray:
        """A stem that plays the same notes with another instrument: float32 (220_500,)."""
        index = instrument_index(instrument)
        return self.play(note._replace(instrument=index) for note in self.notes)


def clips(
    instrument: str | int,
    n_clips: int,
    n_instruments: Sequence[int] = (1, 2, 3, 4),
    notes: int = 1,
    seed: int = 0,
    split: str = "test",
    synth: Synth | None = None,
) -> Iterator[Clip]:
    """The first clips of a stream in which an instrument plays, one after the other.

    Parameters
    ----------
    instrument : name or index
    n_clips : int
    n_instruments : numbers of instruments that may play in a clip
    notes : least number of notes that the instrument plays in a clip
    seed, split : as for :func:`instr_lib.generate`
    synth : Synth, optional

    Yields
    ------
    Clip
    """
    target, synth, index = instrument_index(instrument), synth or Synth(), 0
    while n_clips > 0:
        score = clip_score(index, seed, split)
        index += 1
        enough = sum(note.instrument == target for note in score.notes) >= notes
        if enough and len(score.instruments) in n_instruments:
            yield Clip(score, target, synth)
            n_clips -= 1
