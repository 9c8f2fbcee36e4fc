"""Change the music, and ask the network again.

A *change* is a function of a :class:`Clip` that gives the asked instrument's stem anew; the other stems stay as they are.
:func:`ask` renders the mix before and after and compares what the networks say. Conventions: a stem is float32 (220_500,),
times are seconds after a note's onset, levels are dB. Chapter 8 uses all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage, signal
from scipy.stats import rankdata
from tqdm.auto import tqdm

from .dataset import clip_score
from .errors import InputError, ScoreError
from .evaluation import Interval, bootstrap, logits
from .instruments import INSTRUMENTS, instrument_index
from .relevance import relevance
from .score import CLIP_SECONDS, Note, Score
from .spectrogram import FLOOR_DB, HOP, log_mel
from .synth import CLIP_SAMPLES, SAMPLE_RATE, Playing, Synth

_FADE = 0.005  # seconds: cutting more sharply would click


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

    def play(self, notes: Iterable[Note], playing: Playing | None = None) -> np.ndarray:
        """The sound of some notes, all of one instrument, as a stem."""
        score = Score(tuple(notes))
        return self.synth.render(score, None if playing is None else dict.fromkeys(score.instruments, playing))

    def by(self, other: str | int) -> np.ndarray:
        """The same notes, played by another instrument, as a stem."""
        index = instrument_index(other)
        return self.play(note._replace(instrument=index) for note in self.notes)


Change = Callable[[Clip], np.ndarray]


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


# Changes of the sound of a stem.


def silenced(clip: Clip, after: float = 0.0, seconds: float = 0.1, notes: slice = slice(None)) -> np.ndarray:
    """The stem without a piece of some notes: from ``after`` their onsets on, for ``seconds``, with fades of 5 ms."""
    gain = np.ones(CLIP_SAMPLES, np.float32)
    fade = _samples(_FADE)
    edge = np.linspace(1, 0, fade, dtype=np.float32)
    for note in clip.notes[notes]:
        start, stop = _samples(note.onset + after), _samples(note.onset + after + seconds)
        hole = np.concatenate([edge, np.zeros(max(stop - start, 0), np.float32), edge[::-1]])
        first = max(start - fade, 0)
        part = gain[first : stop + fade]
        part *= hole[first - (start - fade) :][: len(part)]
    return clip.stem * gain


def quieter(clip: Clip, level: float) -> np.ndarray:
    """The stem at a level in dB against all other stems together.

    Raises
    ------
    InputError
        If nobody else plays.
    """
    others = (clip.rest**2).sum(dtype=float)
    if not others:
        raise InputError(f"{INSTRUMENTS[clip.instrument].name} plays alone in this clip: it has no level against others")
    return clip.stem * np.float32(10 ** (level / 20) * math.sqrt(others / (clip.stem**2).sum(dtype=float)))


def attack_by(clip: Clip, other: str | int, seconds: float = 0.1) -> np.ndarray:
    """The first ``seconds`` of every note by another instrument, as loud as it plays them, the rest as it was."""
    onsets = [_samples(note.onset) for note in clip.notes]
    theirs, fade = np.zeros(CLIP_SAMPLES, np.float32), _samples(0.01)
    for onset in onsets:
        theirs[onset : onset + _samples(seconds)] = 1
    theirs = np.convolve(theirs, np.ones(fade, np.float32) / fade, "same")
    return clip.stem * (1 - theirs) + clip.by(other) * theirs


def envelope_by(clip: Clip, other: str | int) -> np.ndarray:
    """The stem with the loudness over time of another instrument's notes; its mean level and its spectrum stay."""
    ours, theirs = (_loudness(stem) for stem in (clip.stem, clip.by(other)))
    return _as_loud_as(clip.stem, clip.stem * _ratio(theirs, ours))


def spectrum_by(clip: Clip, other: str | int) -> np.ndarray:
    """The stem with the mean strength of each harmonic of another instrument's notes; its level and envelope stay."""
    ours, theirs = (np.abs(_stft().stft(stem)) ** 2 for stem in (clip.stem, clip.by(other)))

    def gains(numbers, frames):
        strength = [np.sqrt(np.bincount(numbers, power[:, frames].sum(1))) for power in (theirs, ours)]
        return _ratio(*strength)[numbers]

    return _as_loud_as(clip.stem, _by_harmonic(clip, gains))


def without_harmonics(clip: Clip, lowest: int, highest: float = math.inf) -> np.ndarray:
    """The stem without the harmonics numbered ``lowest`` … ``highest`` of each note, the fundamental being 1."""
    return _by_harmonic(clip, lambda numbers, _: np.where((numbers >= lowest) & (numbers <= highest), 0, 1))


def without_band(clip: Clip, low: float = 0.0, high: float = math.inf) -> np.ndarray:
    """The stem without what lies between two frequencies in Hz."""
    transform = _stft()
    gone = (transform.f >= low) & (transform.f < high)
    return _back(transform.stft(clip.stem) * ~gone[:, None])


def random_spectrum(clip: Clip, spread: float = 12.0, seed: int = 0) -> np.ndarray:
    """The stem with each harmonic of each note louder or softer by chance (normal, ``spread`` dB); its level stays."""
    rng = np.random.default_rng(seed)
    louder = lambda numbers, _: 10 ** (rng.normal(0, spread, numbers.max() + 1) / 20)[numbers]  # noqa: E731
    return _as_loud_as(clip.stem, _by_harmonic(clip, louder))


def steady(clip: Clip, seconds: float = math.inf, back: bool = False) -> np.ndarray:
    """The stem without vibrato and slides: each note is stretched in time so that its fundamental keeps one pitch.

    Parameters
    ----------
    seconds : float
        Only within so long after the onset.
    back : bool
        Put the movement of the pitch back in: what then changes is damage done by stretching alone.
    """
    found = np.zeros(CLIP_SAMPLES, np.float32)
    for note in clip.notes:
        alone = clip.play([note])
        cents = pitch(alone, note)
        known = np.isfinite(cents)
        aim = np.median(cents[known]) if known.any() else 0.0
        start = _samples(note.onset)
        moves = known & (np.arange(CLIP_SAMPLES) < start + min(seconds, CLIP_SECONDS) * SAMPLE_RATE)
        rate = 2 ** (np.where(moves, cents - aim, 0) / 1200)  # how much faster than meant
        meant = start + np.concatenate([[0], np.cumsum(rate[start:-1])])  # when each sample should sound
        before = np.arange(start, CLIP_SAMPLES)
        there = np.interp(before, meant, before)  # which sample sounds when
        stretched = ndimage.map_coordinates(alone, [there], order=5, mode="constant")
        if back:
            stretched = ndimage.map_coordinates(stretched, [meant - start], order=5, mode="constant")
        found[start:] += stretched
    return found


def pitch(stem: np.ndarray, note: Note) -> np.ndarray:
    """How far the fundamental of a note that sounds alone is from its tempered pitch, at each sample, in cents.

    The frequency of the analytic signal within three semitones of the pitch, averaged over 20 ms; NaN before the onset, in
    the first 20 ms after it, after the end, and where the fundamental is more than 40 dB below its loudest.

    Returns
    -------
    float (220_500,)
    """
    tempered = _hertz(note.pitch)
    band = signal.butter(2, [tempered * 2 ** (-3 / 12), tempered * 2 ** (3 / 12)], "bandpass", fs=SAMPLE_RATE, output="sos")
    wave = signal.hilbert(signal.sosfiltfilt(band, stem.astype(float)))
    width = _samples(0.02)
    turns = np.gradient(np.unwrap(np.angle(wave))) / (2 * np.pi) * SAMPLE_RATE
    hertz = ndimage.uniform_filter1d(turns, width)
    cents = 1200 * np.log2(np.maximum(hertz, 1.0) / tempered)
    at = np.arange(len(stem))
    sounds = (np.abs(wave) > 0.01 * np.abs(wave).max()) & (np.abs(cents) < 250)
    return np.where(sounds & (at >= _samples(note.onset) + width) & (at < _samples(note.end)), cents, np.nan)


# Changes of how it is played, and of the notes.


def played(clip: Clip, playing: Playing) -> np.ndarray:
    """The stem with generators, controllers or a pitch bend of the synthesiser changed."""
    return clip.play(clip.notes, playing)


def transposed(clip: Clip, semitones: int) -> np.ndarray:
    """The notes higher or lower by so many semitones."""
    return clip.play(note._replace(pitch=note.pitch + semitones) for note in clip.notes)


def reordered(clip: Clip, seed: int = 0) -> np.ndarray:
    """The same onsets and durations with pitches and velocities in another order."""
    notes = clip.notes
    order = np.random.default_rng(seed).permutation(len(notes))
    return clip.play(
        note._replace(pitch=notes[n].pitch, velocity=notes[n].velocity) for note, n in zip(notes, order, strict=True)
    )


def shifted(clip: Clip, onset: float) -> np.ndarray:
    """The notes moved together so that the first begins at ``onset`` seconds.

    Raises
    ------
    ScoreError
        If the last would then end after the clip.
    """
    by = onset - clip.notes[0].onset
    return clip.play(note._replace(onset=note.onset + by) for note in clip.notes)


# Asking.


class Answers(NamedTuple):
    """What a network says about an instrument before and after a change, clip by clip.

    Attributes
    ----------
    instrument : int (n,), whom each clip is about
    before, after, without : float32 (n, 12)
        Logits for the clip, for the changed clip, and for the clip in which the instrument does not play at all.
    relevance, energy : float (n,)
        What of the instrument's relevance, and of the level above silence, lay on power that the change removed.
    """

    instrument: np.ndarray
    before: np.ndarray
    after: np.ndarray
    without: np.ndarray
    relevance: np.ndarray
    energy: np.ndarray

    def own(self, logits: np.ndarray) -> np.ndarray:
        """Of logits (n, 12) those of the instrument that each clip is about, (n,)."""
        return logits[np.arange(len(logits)), self.instrument]

    @property
    def drop(self) -> np.ndarray:
        """By how much the instrument's logit fell, (n,)."""
        return self.own(self.before - self.after)

    @property
    def evidence(self) -> np.ndarray:
        """By how much the logit falls if the instrument is taken out altogether, (n,)."""
        return self.own(self.before - self.without)


def ask(
    networks: Mapping[str, torch.nn.Module],
    clips: Iterable[Clip],
    changes: Mapping[str, Change],
    progress: str = "",
    composite: str = "epsilon_plus",
) -> dict[str, dict[str, Answers]]:
    """Play each clip with each change, and ask each network about the instrument.

    Parameters
    ----------
    networks : by name
    clips : each about an instrument
    changes : by name
    progress : what to write beside the progress bar; without it there is none
    composite : of :func:`instr_lib.relevance`

    Returns
    -------
    Answers by network and change

    Raises
    ------
    InputError
        If there are no clips, or a change gives something that is no stem.
    """
    rows = {network: {change: [] for change in changes} for network in networks}
    for clip in tqdm(clips, progress, disable=not progress):
        mels = log_mel(
            np.stack([clip.rest + clip.stem, clip.rest, *(clip.rest + _stem(clip, *c) for c in changes.items())])
        )
        power = 10 ** (mels / 10)
        removed = np.where(mels[0] > FLOOR_DB, 1 - power[2:] / power[0], 0).clip(min=0)  # (changes, 128, 431)
        energy = (removed * (mels[0] - FLOOR_DB)).sum((1, 2))
        for network, model in networks.items():
            before, without, *after = logits(model, mels)
            heat = relevance(model, mels[:1], [clip.instrument], composite)[0]
            moved = (removed * heat).sum((1, 2))
            for n, change in enumerate(changes):
                rows[network][change].append((clip.instrument, before, after[n], without, moved[n], energy[n]))
    if not all(found for by_change in rows.values() for found in by_change.values()):
        raise InputError("there are no clips, networks or changes to ask about")
    return {
        network: {change: Answers(*map(np.array, zip(*found, strict=True))) for change, found in by_change.items()}
        for network, by_change in rows.items()
    }


def _stem(clip: Clip, name: str, change: Change) -> np.ndarray:
    stem = np.asarray(change(clip))
    if stem.shape != (CLIP_SAMPLES,) or not np.isfinite(stem).all():
        raise InputError(f"the change {name!r} gave {stem.shape} or NaN, not a stem of {CLIP_SAMPLES} samples")
    return stem.astype(np.float32, copy=False)


def sweep(
    networks: Mapping[str, torch.nn.Module], clips: Iterable[Clip], levels: Sequence[float], progress: str = ""
) -> dict[str, np.ndarray]:
    """Whether each network recognises the instrument at each level (dB) against all others, bool (clips, levels)."""
    rows = {network: [] for network in networks}
    for clip in tqdm(clips, progress, disable=not progress):
        mels = log_mel(clip.rest + np.stack([quieter(clip, level) for level in levels]))
        for network, model in networks.items():
            rows[network].append(logits(model, mels)[:, clip.instrument] > 0)
    return {network: np.array(found) for network, found in rows.items()}


def lost(answers: Answers, minus: Answers | None = None) -> Interval:
    """Which share of the evidence for the instrument a change takes away, with a 95 % bootstrap interval over clips.

    The sum of drops as a share of the sum of drops if the instrument is taken out altogether: 0 if nothing changes, 1 if it
    is as good as gone, negative if it is heard better. With ``minus``, how much more than another change of the same clips.
    """
    drops = answers.drop if minus is None else answers.drop - minus.drop
    return _ratio_of_sums(drops, answers.evidence)


def gained(answers: Answers, others: Sequence[str | int]) -> Interval:
    """How far the logit of another instrument rises, one a clip, in logits, with a 95 % bootstrap interval over clips."""
    rows, indices = np.arange(len(answers.after)), [instrument_index(other) for other in others]
    return mean((answers.after - answers.before)[rows, indices])


def recognised(answers: Answers, before: bool = False) -> Interval:
    """In which share of the clips the instrument is still recognised, with a 95 % bootstrap interval over clips."""
    return mean(answers.own(answers.before if before else answers.after) > 0)


def mean(values: np.ndarray) -> Interval:
    """Mean with a 95 % bootstrap interval over clips."""
    return bootstrap(np.asarray(values, float), np.arange(len(values)))


def predicted(answers: Answers, by: str = "relevance") -> Interval:
    """How well relevance, or energy, on what was removed tells in which clips the logit falls most.

    Spearman's rank correlation over clips with a 95 % bootstrap interval; NaN where one of the two is the same everywhere.
    """
    told, drop = getattr(answers, by), answers.drop

    def spearman(rows):
        ranks = rankdata(told[rows]), rankdata(drop[rows])
        spread = np.std(ranks[0]) * np.std(ranks[1])
        return np.cov(*ranks, ddof=0)[0, 1] / spread if spread else np.nan

    draws = _draws(len(drop))
    ends = np.nanpercentile([spearman(rows) for rows in draws], (2.5, 97.5)) if np.ptp(told) else (np.nan, np.nan)
    return Interval(float(spearman(np.arange(len(drop)))), *map(float, ends))


def lost_below(levels: Sequence[float], heard: np.ndarray) -> Interval:
    """The level at which half of the clips are still recognised, with a 95 % bootstrap interval over clips.

    Parameters
    ----------
    levels : dB, descending
    heard : bool (clips, levels)

    Returns
    -------
    Interval
        Interpolated between levels. ``-inf`` if at the lowest level more than half are recognised still, NaN if at the
        highest not even half are.
    """
    levels = np.asarray(levels, float)

    def half(rate):
        if rate[0] < 0.5:
            return np.nan
        under = np.flatnonzero(rate < 0.5)
        if not len(under):
            return -np.inf
        n = under[0]
        return levels[n] + (levels[n - 1] - levels[n]) * (0.5 - rate[n]) / (rate[n - 1] - rate[n])

    drawn = np.sort([half(heard[rows].mean(0)) for rows in _draws(len(heard))])
    ends = drawn[[int(0.025 * len(drawn)), int(0.975 * len(drawn))]]
    return Interval(float(half(heard.mean(0))), *map(float, ends))


def summary(
    answers: Mapping[str, Mapping[str, Answers]], controls: Mapping[str, str] | None = None
) -> dict[str, dict[str, dict[str, Interval]]]:
    """All that is worth keeping of answers, by network and change.

    ``lost``, ``recognised`` and ``recognised before``, how well ``relevance`` and ``energy`` predicted the drop, and, for
    changes named in ``controls``, ``beyond control``: how much more is lost than by the change named there.
    """
    found = {}
    for network, by_change in answers.items():
        found[network] = {}
        for change, given in by_change.items():
            row = {
                "lost": lost(given),
                "recognised": recognised(given),
                "recognised before": recognised(given, before=True),
                "relevance": predicted(given, "relevance"),
                "energy": predicted(given, "energy"),
            }
            if change in (controls or {}):
                row["beyond control"] = lost(given, minus=by_change[controls[change]])
            found[network][change] = row
    return found


def streaks(heats: np.ndarray) -> np.ndarray:
    """How long relevance stays on in a band: the mean length of its streaks in seconds, (n,).

    A streak is a run of frames in one band that all belong to the fewest cells that hold half of the positive relevance;
    each counts with the relevance on it. NaN for a heatmap with nothing positive.
    """
    heats, found = np.asarray(heats, float).clip(min=0), []
    for heat in heats:
        size = np.sort(heat, axis=None)[::-1]
        if not size[0]:
            found.append(np.nan)
            continue
        strong = heat >= size[np.searchsorted(size.cumsum(), size.sum() / 2)]
        runs, _ = ndimage.label(strong, [[0, 0, 0], [1, 1, 1], [0, 0, 0]])
        lengths, weights = np.bincount(runs.ravel())[1:], np.bincount(runs.ravel(), heat.ravel())[1:]
        found.append(np.average(lengths, weights=weights) * HOP / SAMPLE_RATE)
    return np.array(found)


def negative(found: Interval) -> Interval:
    """The same estimate with the other sign."""
    return Interval(-found.value, -found.high, -found.low)


def apart(one: Interval, other: Interval) -> Interval:
    """Difference of two estimates from different clips; the half-widths of their intervals add in squares."""
    difference = one.value - other.value
    down = math.hypot(one.value - one.low, other.high - other.value)
    up = math.hypot(one.high - one.value, other.value - other.low)
    return Interval(difference, difference - down, difference + up)


def verdict(effect: Interval, least: float = 0.0) -> str:
    """``"supported"`` if all of the interval is above ``least``, ``"refuted"`` if all is below, else ``"undecided"``."""
    if effect.low > least:
        return "supported"
    return "refuted" if effect.high < least else "undecided"


def _draws(n: int, n_resamples: int = 1000) -> np.ndarray:
    return np.random.default_rng(0).integers(0, n, (n_resamples, n))


def _ratio_of_sums(above: np.ndarray, below: np.ndarray) -> Interval:
    draws = _draws(len(above))
    ends = np.percentile(above[draws].sum(1) / below[draws].sum(1), (2.5, 97.5))
    return Interval(float(above.sum() / below.sum()), *map(float, ends))


# Plumbing.


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def _hertz(pitch: float) -> float:
    return 440 * 2 ** ((pitch - 69) / 12)


def _stft() -> signal.ShortTimeFFT:
    return signal.ShortTimeFFT(signal.windows.hann(4096, sym=False), 1024, SAMPLE_RATE)


def _back(transform: np.ndarray) -> np.ndarray:
    return _stft().istft(transform, k1=CLIP_SAMPLES).astype(np.float32)


def _by_harmonic(clip: Clip, gains: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """The stem with each bin of each note turned up or down.

    ``gains`` is asked for each note, with the number of the harmonic that each bin is nearest to (bins,) and the frames in
    which the note is the last that began. The fundamental is 1, what lies below half of it 0.
    """
    transform = _stft()
    notes, found = clip.notes, transform.stft(clip.stem)
    last = np.searchsorted([note.onset for note in notes], transform.t(CLIP_SAMPLES), "right") - 1
    for n, note in enumerate(notes):
        frames = np.flatnonzero(np.maximum(last, 0) == n)
        found[:, frames] *= gains(np.rint(transform.f / _hertz(note.pitch)).astype(int), frames)[:, None]
    return _back(found)


def _loudness(stem: np.ndarray) -> np.ndarray:
    """Root mean square over 20 ms, at each sample."""
    return np.sqrt(ndimage.uniform_filter1d(stem.astype(float) ** 2, _samples(0.02)).clip(min=0))


def _ratio(above, below):
    """Their ratio, at most 40 dB up or down, and 1 where both are silent."""
    quiet = 1e-6
    return np.clip((above + quiet) / (below + quiet), 0.01, 100)


def _as_loud_as(stem: np.ndarray, changed: np.ndarray) -> np.ndarray:
    power = (changed.astype(float) ** 2).sum()
    gain = math.sqrt((stem.astype(float) ** 2).sum() / power) if power else 0.0
    return (changed * gain).astype(np.float32)
