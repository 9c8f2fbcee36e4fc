"""From sound to log-mel spectrograms and their axes.

Conventions: 128 mel bands (Slaney's scale and normalisation, 0 Hz to 22 050 Hz, band 0 the lowest)
by 431 frames (one every 512 samples, 11.6 ms, the first centred on time 0); Hann window of 2048
samples, zeros beyond the ends. Power is in dB on one fixed scale from ``FLOOR_DB`` (silence) to 0;
no clip is normalised by its own maximum. A *cell* is one time-frequency bin: one band in one frame.
The tests compare with librosa. Appendix C explains all of it.
"""

from __future__ import annotations

import functools

import numpy as np
import scipy.fft
import scipy.sparse

from ..constants import CLIP_SAMPLES, FLOOR_DB, HOP, N_FFT, N_FRAMES, N_MELS, REFERENCE, SAMPLE_RATE
from ..errors import AudioError, InputError


def check_audio(audio: np.ndarray, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """The audio as float32 (..., 220_500), if it is one clip or several.

    Raises
    ------
    AudioError
        If it is empty, of another length or rate, not real numbers, or contains NaN or infinity.
    """
    audio = np.asarray(audio)
    if sample_rate != SAMPLE_RATE:
        raise AudioError(f"the sound has {sample_rate} samples a second, networks expect {SAMPLE_RATE}: resample it")
    if audio.size == 0:
        raise AudioError(f"the sound is empty (0 samples): a clip has {CLIP_SAMPLES}")
    if audio.dtype.kind not in "fiu":
        raise AudioError(f"the sound must be real numbers, not {audio.dtype}")
    if audio.dtype.kind != "f":
        raise AudioError(f"the sound is {audio.dtype}: scale it to floating point within -1 and 1")
    if audio.ndim == 0 or audio.shape[-1] != CLIP_SAMPLES:
        raise AudioError(
            f"the sound has shape {audio.shape}; a clip is mono with {CLIP_SAMPLES} samples "
            f"({CLIP_SAMPLES / SAMPLE_RATE:g} s): cut it, pad it with zeros, or average its channels"
        )
    if not np.isfinite(audio).all():
        raise AudioError("the sound contains NaN or infinity: repair the recording")
    return audio.astype(np.float32, copy=False)


def check_mels(mels: np.ndarray) -> np.ndarray:
    """The spectrograms as float32 (n, 128, 431), if they are in dB on the fixed scale.

    Raises
    ------
    InputError
        If the shape differs or values are NaN or not within ``FLOOR_DB`` … 0 (by more than 1 dB).
    """
    mels = np.asarray(mels)
    if mels.ndim != 3 or mels.shape[1:] != (N_MELS, N_FRAMES):
        raise InputError(f"spectrograms must have shape (n, {N_MELS}, {N_FRAMES}), not {mels.shape}; see il.log_mel")
    if mels.dtype.kind != "f":
        raise InputError(f"spectrograms must be floating-point dB, not {mels.dtype}; see il.log_mel")
    if not np.isfinite(mels).all():
        raise InputError("spectrograms contain NaN or infinity; see il.log_mel")
    if mels.size and (mels.min() < FLOOR_DB - 1 or mels.max() > 1):
        raise InputError(
            f"spectrograms range from {mels.min():.1f} to {mels.max():.1f}, not within {FLOOR_DB:g} … 0 dB; see il.log_mel"
        )
    return mels.astype(np.float32, copy=False)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    """Slaney's scale: linear below 1000 Hz, which is mel 15, and logarithmic above, 27 mel for a factor of 6.4."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


@functools.cache
def _band_edges() -> np.ndarray:
    """Lower edge of the first band, centres of all, upper edge of the last, in Hz (130,)."""
    top = 15 + 27 * np.log(SAMPLE_RATE / 2 / 1000) / np.log(6.4)
    return _mel_to_hz(np.linspace(0, top, N_MELS + 2))


@functools.cache
def mel_filters() -> scipy.sparse.csr_array:
    """The mel filter bank, sparse (128, 1025): 1 % of its entries are not zero.

    Triangles of equal area from each band's centre to its neighbours', as ``librosa.filters.mel`` has them;
    importing librosa would cost every worker process a second and 55 MB.
    """
    edges, bins = _band_edges(), np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    return scipy.sparse.csr_array((triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32))


def stft(audio: np.ndarray, first: int = 0) -> np.ndarray:
    """Short-time Fourier transform of one clip: float32 (220_500,) to complex64 (1025, 431), or from frame ``first`` on."""
    padded = np.zeros(len(audio) + N_FFT, np.float32)
    padded[N_FFT // 2 : -N_FFT // 2] = audio
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[first * HOP :: HOP].T  # (2048, 431)
    return scipy.fft.rfft(frames * _window()[:, None], axis=0)


@functools.cache
def _window() -> np.ndarray:
    return np.hanning(N_FFT + 1)[:-1].astype(np.float32)


def mel_power(audio: np.ndarray) -> np.ndarray:
    """Power in each mel cell, linear: float32 (..., 220_500) to float32 (..., 128, 431).

    Equals ``librosa.feature.melspectrogram(sr=44100, n_fft=2048, hop_length=512)``.
    """
    return _mel_power(check_audio(audio))


def _mel_power(audio: np.ndarray) -> np.ndarray:
    if audio.ndim > 1:
        return np.stack([_mel_power(clip) for clip in audio])
    # Clips begin with silence: frames before the first one that reaches a sample other than 0 are skipped.
    first = max(0, int((audio != 0).argmax()) - N_FFT // 2) // HOP
    parts = stft(audio, first).view(np.float32)  # real and imaginary parts alternate
    parts *= parts
    power = np.zeros((N_MELS, N_FRAMES), np.float32)
    power[:, first:] = mel_filters() @ (parts[:, ::2] + parts[:, 1::2])
    return power


def masked(audio: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A clip whose cells are multiplied by a mask, with its own phase.

    Each bin of the short-time Fourier transform is multiplied by the weighted mean of the mask over the mel bands
    that contain it; the frames are joined by weighted overlap-add (Griffin & Lim 1984,
    doi:10.1109/TASSP.1984.1164317). A mask of ones returns the clip. Chapter 7 listens to heatmaps with it.

    Parameters
    ----------
    audio : float32 (220_500,)
    mask : float (128, 431), 0 to 1

    Returns
    -------
    float32 (220_500,)

    Raises
    ------
    AudioError
        If the sound is not one clip.
    InputError
        If the mask has another shape, or values that are not within 0 and 1.
    """
    audio, mask = check_audio(audio), np.asarray(mask, np.float32)
    if audio.ndim != 1:
        raise AudioError(f"one clip at a time can be masked, not {len(audio)}: call masked for each")
    if mask.shape != (N_MELS, N_FRAMES) or not (np.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1):
        raise InputError(f"a mask must have shape ({N_MELS}, {N_FRAMES}) and values within 0 and 1, not {mask.shape}")
    weights = mel_filters().T  # (1025, 128)
    total = np.asarray(weights.sum(1)).ravel()[:, None]
    gains = np.divide(weights @ mask, total, out=np.zeros((len(total), N_FRAMES), np.float32), where=total > 0)
    gains[total.ravel() == 0] = mask[[0]]  # 0 Hz and the highest bin belong to no band
    frames = scipy.fft.irfft(stft(audio) * gains, axis=0)
    padded, norm = np.zeros((2, len(audio) + N_FFT), np.float32)
    window = _window()
    for number, frame in enumerate(frames.T):
        padded[number * HOP : number * HOP + N_FFT] += frame * window
        norm[number * HOP : number * HOP + N_FFT] += window**2
    inside = slice(N_FFT // 2, -N_FFT // 2)
    return padded[inside] / np.maximum(norm[inside], 1e-8)


def to_db(power: np.ndarray) -> np.ndarray:
    """Mel power to dB on the fixed scale, clipped to ``FLOOR_DB`` … 0."""
    db = np.asarray(power / REFERENCE)
    np.log10(np.maximum(db, 1e-10, out=db), out=db)
    db *= 10
    return np.clip(db, FLOOR_DB, 0, out=db).astype(np.float32, copy=False)


def log_mel(audio: np.ndarray, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Log-mel spectrogram on the fixed dB scale: float32 (..., 220_500) to float32 (..., 128, 431).

    Raises
    ------
    AudioError
        If the sound is not one clip at 44 100 Hz or contains NaN.
    """
    return to_db(_mel_power(check_audio(audio, sample_rate)))


def quantise(db: np.ndarray) -> np.ndarray:
    """dB on the fixed scale to uint8, 0 for silence, in steps of 0.31 dB."""
    return np.rint((db - FLOOR_DB) * (255 / -FLOOR_DB)).astype(np.uint8)


def dequantise(stored: np.ndarray) -> np.ndarray:
    """uint8 back to float32 dB, at most 0.16 dB from the input of :func:`quantise`."""
    return stored * np.float32(-FLOOR_DB / 255) + np.float32(FLOOR_DB)


def frame_times() -> np.ndarray:
    """Centre of each frame in seconds, (431,)."""
    return np.arange(N_FRAMES) * HOP / SAMPLE_RATE


@functools.cache
def band_frequencies() -> np.ndarray:
    """Centre of each mel band in Hz, (128,)."""
    return _band_edges()[1:-1]
