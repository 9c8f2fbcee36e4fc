"""Change the music, and ask the network again.

A *change* is a function of a :class:`Clip` that gives the asked instrument's stem anew; the other stems stay as they are.
:func:`ask` renders the mix before and after and compares what the networks say. Conventions: a stem is float32 (220_500,),
times are seconds after a note's onset, levels are dB. Chapter 8 uses all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import ndimage, signal

from ..constants import CLIP_SAMPLES, CLIP_SECONDS, SAMPLE_RATE
from ..errors import InputError
from ..music.instruments import INSTRUMENTS
from ..music.score import Note
from ..music.synth import SynthOverrides
from .stems import Clip

_FADE = 0.005  # seconds: cutting more sharply would click
Change = Callable[[Clip], np.ndarray]


def gate(clip: Clip, after: float = 0.0, seconds: float = 0.1, notes: slice = slice(None)) -> np.ndarray:
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


def set_level(clip: Clip, level: float) -> np.ndarray:
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


def swap_attack(clip: Clip, other: str | int, seconds: float = 0.1) -> np.ndarray:
    """The first ``seconds`` of every note by another instrument, as loud as it plays them, the rest as it was."""
    onsets = [_samples(note.onset) for note in clip.notes]
    theirs, fade = np.zeros(CLIP_SAMPLES, np.float32), _samples(0.01)
    for onset in onsets:
        theirs[onset : onset + _samples(seconds)] = 1
    theirs = np.convolve(theirs, np.ones(fade, np.float32) / fade, "same")
    return clip.stem * (1 - theirs) + clip.by(other) * theirs


def swap_envelope(clip: Clip, other: str | int) -> np.ndarray:
    """The stem with the loudness over time of another instrument's notes; its mean level and its spectrum stay."""
    ours, theirs = (_loudness(stem) for stem in (clip.stem, clip.by(other)))
    return _as_loud_as(clip.stem, clip.stem * _ratio(theirs, ours))


def swap_spectrum(clip: Clip, other: str | int) -> np.ndarray:
    """The stem with the mean strength of each harmonic of another instrument's notes; its level and envelope stay."""
    ours, theirs = (np.abs(_stft().stft(stem)) ** 2 for stem in (clip.stem, clip.by(other)))

    def gains(numbers, frames):
        strength = [np.sqrt(np.bincount(numbers, power[:, frames].sum(1))) for power in (theirs, ours)]
        return _ratio(*strength)[numbers]

    return _as_loud_as(clip.stem, _by_harmonic(clip, gains))


def remove_harmonics(clip: Clip, lowest: int, highest: float = math.inf) -> np.ndarray:
    """The stem without the harmonics numbered ``lowest`` … ``highest`` of each note, the fundamental being 1."""
    return _by_harmonic(clip, lambda numbers, _: np.where((numbers >= lowest) & (numbers <= highest), 0, 1))


def band_stop(clip: Clip, low: float = 0.0, high: float = math.inf) -> np.ndarray:
    """The stem without what lies between two frequencies in Hz."""
    transform = _stft()
    gone = (transform.f >= low) & (transform.f < high)
    return _back(transform.stft(clip.stem) * ~gone[:, None])


def randomise_spectrum(clip: Clip, spread: float = 12.0, seed: int = 0) -> np.ndarray:
    """The stem with each harmonic of each note louder or softer by chance (normal, ``spread`` dB); its level stays."""
    rng = np.random.default_rng(seed)
    louder = lambda numbers, _: 10 ** (rng.normal(0, spread, numbers.max() + 1) / 20)[numbers]  # noqa: E731
    return _as_loud_as(clip.stem, _by_harmonic(clip, louder))


def remove_vibrato(clip: Clip, seconds: float = math.inf, back: bool = False) -> np.ndarray:
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


def with_overrides(clip: Clip, overrides: SynthOverrides) -> np.ndarray:
    """The stem with generators, controllers or a pitch bend of the synthesiser changed."""
    return clip.play(clip.notes, overrides)


def transpose(clip: Clip, semitones: int) -> np.ndarray:
    """The notes higher or lower by so many semitones."""
    return clip.play(note._replace(pitch=note.pitch + semitones) for note in clip.notes)


def permute_notes(clip: Clip, seed: int = 0) -> np.ndarray:
    """The same onsets and durations with pitches and velocities in another order."""
    notes = clip.notes
    order = np.random.default_rng(seed).permutation(len(notes))
    return clip.play(
        note._replace(pitch=notes[n].pitch, velocity=notes[n].velocity) for note, n in zip(notes, order, strict=True)
    )


def shift(clip: Clip, onset: float) -> np.ndarray:
    """The notes moved together so that the first begins at ``onset`` seconds.

    Raises
    ------
    ScoreError
        If the last would then end after the clip.
    """
    by = onset - clip.notes[0].onset
    return clip.play(note._replace(onset=note.onset + by) for note in clip.notes)


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
