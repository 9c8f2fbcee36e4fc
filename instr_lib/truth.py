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
