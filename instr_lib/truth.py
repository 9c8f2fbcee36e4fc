"""Stems as ground truth: which instrument owns which cell of the spectrogram."""

from __future__ import annotations

import numpy as np

from .errors import AudioError
from .spectrogram import FLOOR_DB, mel_power, to_db


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
