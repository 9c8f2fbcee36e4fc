"""Edits of the music: change one instrument's stem, leave the others as they are.

An *edit* is a function of a :class:`instr_lib.truth.stems.Clip` that returns the instrument's stem anew, float32
(220_500,). :func:`instr_lib.truth.experiments.run_interventions` renders the mix before and after and asks the networks.
Times are seconds after a note's onset, levels dB. Chapter 8 uses all of it.
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

_FADE = 0.005  # seconds: a sharper cut would click
Edit = Callable[[Clip], np.ndarray]


def gate(clip: Clip, after: float = 0.0, seconds: float = 0.1, notes: slice = slice(None)) -> np.ndarray:
    """The stem with part of some notes silenced: for ``seconds``, from ``after`` their onsets on, with fades of 5 ms."""
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
    """The stem at a level in dB relative to all other stems together.

    Raises
    ------
    InputError
        If no other instrument plays.
    """
    others = (clip.rest**2).sum(dtype=float)
    if not others:
        raise InputError(
            f"{INSTRUMENTS[clip.instrument].name} plays alone in this clip and has no level relative to others: "
            "take a clip with several instruments"
        )
    return clip.stem * np.float32(10 ** (level / 20) * math.sqrt(others / (clip.stem**2).sum(dtype=float)))


def swap_attack(clip: Clip, other: str | int, seconds: float = 0.1) -> np.ndarray:
    """The stem with the first ``seconds`` of every note played by another instrument, at that instrument's own level."""
    onsets = [_samples(note.onset) for note in clip.notes]
    gain, fade = np.zeros(CLIP_SAMPLES, np.float32), _samples(0.01)
    for onset in onsets:
        gain[onset : onset + _samples(seconds)] = 1
    gain = np.convolve(gain, np.ones(fade, np.float32) / fade, "same")
    return clip.stem * (1 - gain) + clip.resynthesise(other) * gain


def swap_envelope(clip: Clip, other: str | int) -> np.ndarray:
    """The stem with the loudness over time of another instrument that plays the notes; mean level and spectrum stay."""
    target, source = (_loudness(stem) for stem in (clip.stem, clip.resynthesise(other)))
    return _match_level(clip.stem, clip.stem * _ratio(source, target))


def swap_spectrum(clip: Clip, other: str | int) -> np.ndarray:
    """The stem with the mean strength of each harmonic as another instrument plays the notes; level and envelope stay."""
    target, source = (np.abs(_stft().stft(stem)) ** 2 for stem in (clip.stem, clip.resynthesise(other)))

    def gains(numbers, frames):
        strength = [np.sqrt(np.bincount(numbers, power[:, frames].sum(1))) for power in (source, target)]
        return _ratio(*strength)[numbers]

    return _match_level(clip.stem, _by_harmonic(clip, gains))


def remove_harmonics(clip: Clip, lowest: int, highest: float = math.inf) -> np.ndarray:
    """The stem without the harmonics numbered ``lowest`` … ``highest`` of each note, the fundamental being 1."""
    return _by_harmonic(clip, lambda numbers, _: np.where((numbers >= lowest) & (numbers <= highest), 0, 1))


def band_stop(clip: Clip, low: float = 0.0, high: float = math.inf) -> np.ndarray:
    """The stem without the frequencies from ``low`` up to ``high``, in Hz."""
    transform = _stft()
    stopped = (transform.f >= low) & (transform.f < high)
    return _istft(transform.stft(clip.stem) * ~stopped[:, None])


def randomise_spectrum(clip: Clip, spread: float = 12.0, seed: int = 0) -> np.ndarray:
    """The stem with a random gain on each harmonic of each note (normal, ``spread`` dB); its level stays."""
    rng = np.random.default_rng(seed)
    gains = lambda numbers, _: 10 ** (rng.normal(0, spread, numbers.max() + 1) / 20)[numbers]  # noqa: E731
    return _match_level(clip.stem, _by_harmonic(clip, gains))


def remove_vibrato(clip: Clip, seconds: float = math.inf, restore: bool = False) -> np.ndarray:
    """The stem without vibrato and slides: each note is stretched in time so that its fundamental keeps one pitch.

    Parameters
    ----------
    clip : Clip
    seconds : float
        Only this long after each onset.
    restore : bool
        Put the movement of the pitch back afterwards: a control, in which only the artefacts of stretching remain.
    """
    flattened = np.zeros(CLIP_SAMPLES, np.float32)
    for note in clip.notes:
        alone = clip.play([note])
        cents = pitch(alone, note)
        known = np.isfinite(cents)
        median = np.median(cents[known]) if known.any() else 0.0
        start = _samples(note.onset)
        moves = known & (np.arange(CLIP_SAMPLES) < start + min(seconds, CLIP_SECONDS) * SAMPLE_RATE)
        rate = 2 ** (np.where(moves, cents - median, 0) / 1200)  # how much too fast the fundamental turns
        warped = start + np.concatenate([[0], np.cumsum(rate[start:-1])])  # where each sample belongs
        samples = np.arange(start, CLIP_SAMPLES)
        inverse = np.interp(samples, warped, samples)  # which sample belongs where
        stretched = ndimage.map_coordinates(alone, [inverse], order=5, mode="constant")
        if restore:
            stretched = ndimage.map_coordinates(stretched, [warped - start], order=5, mode="constant")
        flattened[start:] += stretched
    return flattened


def pitch(stem: np.ndarray, note: Note) -> np.ndarray:
    """The pitch of a note that sounds alone, at each sample, in cents from its tempered pitch: float (220_500,).

    It is the frequency of the analytic signal within three semitones of the tempered pitch, averaged over 20 ms; NaN before
    the onset, in the first 20 ms after it, after the end, and where the fundamental is more than 40 dB below its maximum.
    """
    tempered = _hertz(note.pitch)
    band = signal.butter(2, [tempered * 2 ** (-3 / 12), tempered * 2 ** (3 / 12)], "bandpass", fs=SAMPLE_RATE, output="sos")
    wave = signal.hilbert(signal.sosfiltfilt(band, stem.astype(float)))
    width = _samples(0.02)
    frequency = np.gradient(np.unwrap(np.angle(wave))) / (2 * np.pi) * SAMPLE_RATE
    hertz = ndimage.uniform_filter1d(frequency, width)
    cents = 1200 * np.log2(np.maximum(hertz, 1.0) / tempered)
    sample = np.arange(len(stem))
    sounds = (np.abs(wave) > 0.01 * np.abs(wave).max()) & (np.abs(cents) < 250)
    return np.where(sounds & (sample >= _samples(note.onset) + width) & (sample < _samples(note.end)), cents, np.nan)


def weakened(edit: Edit, other: Edit) -> Edit:
    """An edit that takes away no more power than another one: what it removes is scaled down if it is more.

    Of two edits A and B, ``weakened(A, B)`` and ``weakened(B, A)`` remove the same power, that of the smaller of the two.
    """

    def weaker(clip: Clip) -> np.ndarray:
        removed, as_much_as = (clip.stem - each(clip) for each in (edit, other))
        power, limit = ((sound.astype(float) ** 2).sum() for sound in (removed, as_much_as))
        return clip.stem - removed * np.float32(math.sqrt(min(limit / power, 1)) if power else 0)

    return weaker


def with_overrides(clip: Clip, overrides: SynthOverrides) -> np.ndarray:
    """The stem as the synthesiser plays it with other generators, controllers or pitch bend."""
    return clip.play(clip.notes, overrides)


def transpose(clip: Clip, semitones: int) -> np.ndarray:
    """The stem with its notes moved up, or down if negative, by some semitones."""
    return clip.play(note._replace(pitch=note.pitch + semitones) for note in clip.notes)


def permute_notes(clip: Clip, seed: int = 0) -> np.ndarray:
    """The stem with its pitches and velocities in a random order; onsets and durations stay."""
    notes = clip.notes
    order = np.random.default_rng(seed).permutation(len(notes))
    return clip.play(
        note._replace(pitch=notes[n].pitch, velocity=notes[n].velocity) for note, n in zip(notes, order, strict=True)
    )


def shift(clip: Clip, onset: float) -> np.ndarray:
    """The stem with its notes moved in time so that the first begins at ``onset`` seconds.

    Raises
    ------
    ScoreError
        If the last note would then end after the clip.
    """
    seconds = onset - clip.notes[0].onset
    return clip.play(note._replace(onset=note.onset + seconds) for note in clip.notes)


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def _hertz(pitch: float) -> float:
    return 440 * 2 ** ((pitch - 69) / 12)


def _stft() -> signal.ShortTimeFFT:
    return signal.ShortTimeFFT(signal.windows.hann(4096, sym=False), 1024, SAMPLE_RATE)


def _istft(transform: np.ndarray) -> np.ndarray:
    return _stft().istft(transform, k1=CLIP_SAMPLES).astype(np.float32)


def _by_harmonic(clip: Clip, gains: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """The stem with a gain on each frequency bin of each note.

    ``gains(numbers, frames)`` returns the gains (bins,) of a note: ``numbers`` is the number of the harmonic that each bin
    is nearest to (1 is the fundamental, 0 lies below half of it), ``frames`` those in which the note is the last to begin.
    """
    transform = _stft()
    notes, bins = clip.notes, transform.stft(clip.stem)
    last = np.searchsorted([note.onset for note in notes], transform.t(CLIP_SAMPLES), "right") - 1
    for n, note in enumerate(notes):
        frames = np.flatnonzero(np.maximum(last, 0) == n)
        bins[:, frames] *= gains(np.rint(transform.f / _hertz(note.pitch)).astype(int), frames)[:, None]
    return _istft(bins)


def _loudness(stem: np.ndarray) -> np.ndarray:
    """Root mean square over 20 ms, at each sample."""
    return np.sqrt(ndimage.uniform_filter1d(stem.astype(float) ** 2, _samples(0.02)).clip(min=0))


def _ratio(above, below):
    """Their ratio as a gain, limited to 40 dB up or down, and 1 where both are silent."""
    quiet = 1e-6
    return np.clip((above + quiet) / (below + quiet), 0.01, 100)


def _match_level(stem: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """The changed stem with the power of the first."""
    power = (changed.astype(float) ** 2).sum()
    gain = math.sqrt((stem.astype(float) ** 2).sum() / power) if power else 0.0
    return (changed * gain).astype(np.float32)
