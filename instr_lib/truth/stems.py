"""Stems as ground truth: which instrument owns which cell, and how true a heatmap is by that.

Conventions: heatmaps are float (n, 128, 431), signed, one for each *pair* of a clip and an instrument that plays in it;
``owned_mask`` are bool arrays of the same shape, the cells of which the instrument has at least ``OWNERSHIP_THRESHOLD`` of the power. A score
that is not defined for a pair (a heatmap without anything positive, an instrument that owns no cell) is NaN. Chapter 7 uses
all of it.
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

OWNERSHIP_THRESHOLD = 0.8  # share of a cell's power from which on it is an instrument's own


def ownership(stems: np.ndarray) -> np.ndarray:
    """Each stem's share of the mel power of a cell, 0 where the mix is silent.

    Parameters
    ----------
    stems : float32 (k, 220_500)
        The sound of each instrument alone, as from :meth:`instr_lib.Synth.render_stems`.

    Returns
    -------
    float32 (k, 128, 431)
        Between 0 and 1; over the stems they add up to 1 where the mix sounds, to 0 where it does not.

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
    """Clips with their stems, and one row for each instrument that plays in one.

    Attributes
    ----------
    mels : float32 (clips, 128, 431), dB
    clips : int (n,), row of ``mels``
    classes : int (n,), instrument indices
    shares : float32 (n, 128, 431), the instrument's share of each cell's power
    others : n bool arrays (k, 128, 431), cells owned by each of the clip's other instruments
    level : float (n,), level of the instrument's stem relative to the rest of the mix, dB
    together : int (n,), how many instruments play
    """

    mels: np.ndarray
    clips: np.ndarray
    classes: np.ndarray
    shares: np.ndarray
    others: list[np.ndarray]
    level: np.ndarray
    together: np.ndarray

    @property
    def owned_mask(self) -> np.ndarray:
        """Cells in which the instrument has at least ``OWNERSHIP_THRESHOLD`` of the power, bool (n, 128, 431)."""
        return self.shares >= OWNERSHIP_THRESHOLD


def render_pairs(
    n_clips: int, seed: int = 0, split: str = "test", synth: Synth | None = None, progress: bool = True
) -> Pairs:
    """The first clips of a stream in which two instruments or more play, rendered stem by stem.

    Parameters
    ----------
    n_clips : int
        At least one. About 3 pairs come from each.
    seed, split : as for :func:`instr_lib.generate`
    synth : Synth, optional

    Raises
    ------
    InputError
        If ``n_clips`` is not positive.
    SynthError, SoundfontError
        As :class:`instr_lib.Synth`.
    """
    if n_clips < 1:
        raise InputError(f"n_clips must be at least 1, not {n_clips}")
    synth, found, index = synth or Synth(), [], -1
    with tqdm(total=n_clips, desc="clips with stems", disable=not progress) as bar:
        while len(found) < n_clips:
            index += 1
            score = clip_score(index, seed, split)
            if len(score.instruments) < 2:
                continue
            stems = synth.render_stems(score)
            found.append(pairs_from_stems(stems.sum(0), stems, score.instruments))
            bar.update()
    return concatenate_pairs(found)


def pairs_from_stems(
    mix: np.ndarray,
    stems: np.ndarray,
    instruments: Sequence[int | str],
    targets: Sequence[int | str] | None = None,
) -> Pairs:
    """The pairs of one clip of your own: its mix and the stems that it was mixed of.

    Parameters
    ----------
    mix : float32 (220_500,)
    stems : float32 (k, 220_500)
    instruments : k names or indices, what plays each stem
    targets : names or indices of those to ask about; by default all

    Raises
    ------
    AudioError
        If mix or stems are not as they should be, or the stems do not add up to the mix (to a thousandth of its peak).
    InputError
        If there is not one instrument a stem, or one is asked about that does not play.
    """
    mix, stems, players = check_audio(mix), check_audio(stems), [instrument_index(i) for i in instruments]
    if stems.ndim != 2 or mix.ndim != 1:
        raise AudioError(f"a clip is a mix (samples,) and stems (instruments, samples), not {mix.shape} and {stems.shape}")
    if len(players) != len(stems) or len(set(players)) != len(players):
        raise InputError(f"{len(stems)} stems need as many different instruments, not {len(players)}: {list(instruments)}")
    error, peak = np.abs(stems.sum(0) - mix), np.abs(mix).max()
    if error.max() > 1e-3 * peak:
        raise AudioError(
            f"the stems do not add up to the mix: at {error.argmax() / SAMPLE_RATE:.2f} s they differ by {error.max():.2g} "
            f"and the mix peaks at {peak:.2g}: give all stems, as they are in the mix, without effects on their sum"
        )
    targets = players if targets is None else [instrument_index(i) for i in targets]
    for index in targets:
        if index not in players:
            here = ", ".join(INSTRUMENTS[i].name for i in players)
            raise InputError(f"{INSTRUMENTS[index].name} does not play in this clip, so no cell can be its own: {here} do")
    shares = ownership(stems)
    owned_mask, rows = shares >= OWNERSHIP_THRESHOLD, [players.index(index) for index in targets]
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


def concatenate_pairs(found: Sequence[Pairs]) -> Pairs:
    """Pairs of several clips as one."""
    before = np.cumsum([0, *(len(one.mels) for one in found)])
    mels, clips, classes, shares, others, level, together = zip(*found, strict=True)
    return Pairs(
        np.concatenate(mels),
        np.concatenate([one + n for one, n in zip(clips, before, strict=False)]),
        np.concatenate(classes),
        np.concatenate(shares),
        [mask for masks in others for mask in masks],
        np.concatenate(level),
        np.concatenate(together),
    )


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, doi:10.1109/ICASSP.2019.8683855).

    .. math:: 10 \\log_{10} \\frac{|a s|^2}{|a s - e|^2}, \\quad a = \\frac{e \\cdot s}{|s|^2}

    for an estimate e of the sound s. From minus to plus infinity; loudness does not count. NaN if either is silent.

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
    """A clip and an instrument that plays in it.

    Attributes
    ----------
    score : Score
    instrument : int, index
    synth : Synth
    stem : float32 (220_500,), the instrument's sound
    rest : float32 (220_500,), the sound of all others, or silence

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
        players = self.score.instruments
        if self.instrument not in players:
            here = ", ".join(INSTRUMENTS[i].name for i in players)
            raise ScoreError(f"{INSTRUMENTS[self.instrument].name} does not play in this clip: choose among {here}")
        stems = self.synth.render_stems(self.score)
        own = players.index(self.instrument)
        object.__setattr__(self, "stem", stems[own])
        object.__setattr__(self, "rest", np.delete(stems, own, 0).sum(0))

    @property
    def notes(self) -> list[Note]:
        """The instrument's notes, by onset."""
        return [note for note in self.score.notes if note.instrument == self.instrument]

    def play(self, notes: Iterable[Note], overrides: SynthOverrides | None = None) -> np.ndarray:
        """The sound of some notes, all of one instrument, as a stem."""
        score = Score(tuple(notes))
        return self.synth.render(score, None if overrides is None else dict.fromkeys(score.instruments, overrides))

    def by(self, other: str | int) -> np.ndarray:
        """The same notes, played by another instrument, as a stem."""
        index = instrument_index(other)
        return self.play(note._replace(instrument=index) for note in self.notes)


def clips(
    instrument: str | int,
    n_clips: int,
    players: Sequence[int] = (1, 2, 3, 4),
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
    players : how many instruments may play in it
    notes : how many notes the instrument plays in it at least
    seed, split : as for :func:`instr_lib.generate`
    synth : Synth, optional
    """
    index, synth, row = instrument_index(instrument), synth or Synth(), 0
    while n_clips > 0:
        score = clip_score(row, seed, split)
        row += 1
        enough = sum(note.instrument == index for note in score.notes) >= notes
        if enough and len(score.instruments) in players:
            yield Clip(score, index, synth)
            n_clips -= 1
