"""Predictions, F1 with confidence intervals, thresholds.

Conventions: labels are 0/1 (n, 12), probabilities float (n, 12), predictions boolean (n, 12). An
instrument that is neither played nor predicted in any clip has no F1: it is NaN. Chapter 4 uses all
of it.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch

from ..constants import CLIP_SAMPLES, FLOOR_DB, SAMPLE_RATE
from ..data.dataset import ClipDataset
from ..data.recordings import Recording
from ..data.spectrogram import check_mels, log_mel
from ..errors import InputError
from ..music.instruments import INSTRUMENTS
from ..stats import Interval, resampled_counts

THRESHOLD = 0.5  # on the probability: an instrument is heard above it


def predict(model: torch.nn.Module, mels: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Probability of each instrument.

    Parameters
    ----------
    model : OriginalCNN or CompactCNN
        Left in the mode it was in.
    mels : float32 (n, 128, 431)
        dB on the fixed scale, see :func:`instr_lib.log_mel`.
    batch_size : int

    Returns
    -------
    float32 (n, 12)

    Raises
    ------
    InputError
        If the spectrograms have another shape or scale, or contain NaN.
    """
    return torch.sigmoid(torch.from_numpy(logits(model, mels, batch_size))).numpy()


@torch.no_grad()
def logits(model: torch.nn.Module, mels: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """What the network gives before the sigmoid, float32 (n, 12); takes and raises what :func:`predict` does."""
    mels = torch.from_numpy(check_mels(mels))[:, None]
    device, modes = next(model.parameters()).device, [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        found = [model(batch.to(device)).float().cpu() for batch in mels.split(batch_size)] if len(mels) else []
    finally:
        for module, mode in modes:
            module.training = mode
    return torch.cat([torch.empty(0, len(INSTRUMENTS)), *found]).numpy()


def _check(labels: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.shape != predicted.shape or labels.ndim != 2 or not len(labels):
        raise InputError(f"labels {labels.shape} and predictions {predicted.shape} must both be (n, classes) with n > 0")
    for name, array in (("labels", labels), ("predictions", predicted)):
        if not np.isin(array, (0, 1)).all():
            raise InputError(f"{name} must be 0 or 1; compare probabilities with a threshold first")
    return labels.astype(bool), predicted.astype(bool)


def _f1(both, labelled, predicted):
    """F1 = 2 TP / (positives + predicted positives), NaN where both are 0."""
    total = labelled + predicted
    return np.divide(2 * both, total, out=np.full(np.shape(total), np.nan), where=total > 0)


def f1_scores(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 of each class, float64 (classes,); their mean is the macro-F1.

    Raises
    ------
    InputError
        If the shapes differ or the values are not 0 and 1.
    """
    labels, predicted = _check(labels, predicted)
    return _f1((labels & predicted).sum(0), labels.sum(0), predicted.sum(0))


def bootstrap_f1(
    labels: np.ndarray, predicted: np.ndarray, n_resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[Interval, Interval]:
    """Macro-F1 and F1 of each class, with percentile bootstrap intervals over clips.

    Clips are drawn with replacement, all classes of a clip together (Efron & Tibshirani 1993).

    Returns
    -------
    macro : Interval of float
    each : Interval of float64 (classes,)
    """
    labels, predicted = _check(labels, predicted)
    counts = resampled_counts(len(labels), n_resamples, seed)
    resampled = _f1(*(counts @ x.astype(float) for x in (labels & predicted, labels, predicted)))
    value, tails = f1_scores(labels, predicted), (50 * (1 - level), 50 * (1 + level))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where nothing is defined the answer is NaN
        each = Interval(value, *np.nanpercentile(resampled, tails, axis=0))
        macro = Interval(float(np.nanmean(value)), *np.nanpercentile(np.nanmean(resampled, axis=1), tails).tolist())
    return macro, each


def evaluate(model: torch.nn.Module, ds: ClipDataset) -> dict:
    """F1 on clips of the test stream with 95 % intervals, ready for :func:`instr_lib.add_info`.

    Parameters
    ----------
    model : OriginalCNN or CompactCNN
    ds : ClipDataset
        Of the split "test".

    Returns
    -------
    dict
        n_clips, seed, split and fingerprint of the clips, threshold on the probability, macro_f1 as
        ``{"value", "low", "high"}`` and f1 as such a dict for each instrument's name. An F1 that is not
        defined is None.

    Raises
    ------
    InputError
        If the clips are not of the test stream.
    """
    if ds.manifest["split"] != "test":
        raise InputError(
            f"{ds.path} holds clips of the split {ds.manifest['split']!r}, which networks learn from or are chosen by; "
            "a score on those says nothing: give it il.generate(..., split='test')"
        )
    parts = np.split(np.arange(len(ds)), range(256, len(ds), 256))  # 56 MB each, instead of all at once
    probabilities = np.concatenate([predict(model, ds.mels(part)) for part in parts])
    macro, each = bootstrap_f1(ds.labels, probabilities > THRESHOLD)

    def plain(*interval) -> dict:
        return {
            name: None if math.isnan(x) else round(float(x), 6) for name, x in zip(Interval._fields, interval, strict=True)
        }

    return {
        **{key: ds.manifest[key] for key in ("n_clips", "seed", "split")},
        "fingerprint": ds.fingerprint,
        "threshold": THRESHOLD,
        "macro_f1": plain(*macro),
        "f1": {i.name: plain(*interval) for i, interval in zip(INSTRUMENTS, zip(*each, strict=True), strict=True)},
    }


_SILENT = 10.0  # dB above the floor that a window must reach somewhere to be asked about


class WindowPredictions(NamedTuple):
    """What a network hears in a recording.

    Attributes
    ----------
    starts : float (n,), seconds at which the windows begin
    mels : float32 (n, 128, 431), dB
    probabilities : float32 (n, 12)
    """

    starts: np.ndarray
    mels: np.ndarray
    probabilities: np.ndarray


def predict_windows(model: torch.nn.Module, recording: Recording) -> WindowPredictions:
    """Ask a network about each window of a recording, but for silent ones: no network learned from silence, and what it
    would say of it means nothing. Of these all probabilities are 0.
    """
    windows = recording.windows()
    mels = np.stack([log_mel(window) for window in windows])
    probabilities = predict(model, mels)
    probabilities[mels.max((1, 2)) <= FLOOR_DB + _SILENT] = 0
    return WindowPredictions(np.arange(len(windows)) * CLIP_SAMPLES / SAMPLE_RATE, mels, probabilities)
