"""Predictions, and F1 with confidence intervals.

Conventions: labels are 0/1 (n, 12), probabilities float (n, 12), predictions boolean (n, 12). An
instrument that is neither played nor predicted in any clip has no F1: it is NaN. Chapter 4 uses all
of it but :func:`predict_windows`, which chapter 10 applies to recordings.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import f1_score

from ..constants import CLIP_SAMPLES, FLOOR_DB, SAMPLE_RATE
from ..data.dataset import ClipDataset
from ..data.recordings import Recording
from ..data.spectrogram import check_mels, log_mel
from ..errors import InputError
from ..music.instruments import INSTRUMENTS
from ..stats import Interval, percentile_interval, resampled_counts

THRESHOLD = 0.5  # an instrument is predicted if its probability is above this


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
    """The network's outputs before the sigmoid, float32 (n, 12); arguments and errors as for :func:`predict`."""
    mels = torch.from_numpy(check_mels(mels))[:, None]
    device, modes = next(model.parameters()).device, [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        outputs = [model(batch.to(device)).float().cpu() for batch in mels.split(batch_size)] if len(mels) else []
    finally:
        for module, mode in modes:
            module.training = mode
    return torch.cat([torch.empty(0, len(INSTRUMENTS)), *outputs]).numpy()


def _check(labels: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.shape != predicted.shape or labels.ndim != 2 or not len(labels):
        raise InputError(f"labels {labels.shape} and predictions {predicted.shape} must both be (n, classes) with n > 0")
    for name, array in (("labels", labels), ("predictions", predicted)):
        if not np.isin(array, (0, 1)).all():
            raise InputError(f"{name} must be 0 or 1; compare probabilities with a threshold first")
    return labels.astype(bool), predicted.astype(bool)


def f1_scores(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 of each class, float64 (classes,); their mean is the macro-F1.

    That of :func:`sklearn.metrics.f1_score`; NaN for a class that is in no label and no prediction.

    Raises
    ------
    InputError
        If the shapes differ or the values are not 0 and 1.
    """
    labels, predicted = _check(labels, predicted)
    columns = zip(labels.T, predicted.T, strict=True)
    return np.array([f1_score(label, answer, zero_division=np.nan) for label, answer in columns])


def bootstrap_f1(
    labels: np.ndarray, predicted: np.ndarray, n_resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[Interval, Interval]:
    """Macro-F1 and F1 of each class, with percentile bootstrap intervals over clips.

    Clips are resampled with replacement, all classes of a clip together (Efron & Tibshirani 1993).

    Parameters
    ----------
    labels, predicted : 0/1 (n, classes)
    n_resamples : int
    level : float, of the intervals
    seed : int

    Returns
    -------
    macro : Interval of float
    per_class : Interval of float64 (classes,)

    Raises
    ------
    InputError
        As :func:`f1_scores`.
    """
    labels, predicted = _check(labels, predicted)
    counts = resampled_counts(len(labels), n_resamples, seed)
    both, positives, answers = (counts @ x.astype(float) for x in (labels & predicted, labels, predicted))
    # F1 of all resamples at once: 2 TP / (positives + predicted positives).
    total = positives + answers
    resampled = np.divide(2 * both, total, out=np.full(total.shape, np.nan), where=total > 0)
    value = f1_scores(labels, predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where nothing is defined the answer is NaN
        macro, resampled_macro = float(np.nanmean(value)), np.nanmean(resampled, axis=1)
    return percentile_interval(macro, resampled_macro, level), percentile_interval(value, resampled, level)


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
        n_clips, seed, split and fingerprint of the clips, the threshold on the probability, macro_f1 as
        ``{"value", "low", "high"}`` and f1 with such a dict under each instrument's name. An undefined F1
        is None.

    Raises
    ------
    InputError
        If the clips are not of the test stream.
    """
    if ds.manifest["split"] != "test":
        raise InputError(
            f"{ds.path} holds clips of the split {ds.manifest['split']!r}, which networks are trained or selected on; "
            "a score on those says nothing: give it il.generate(..., split='test')"
        )
    parts = np.split(np.arange(len(ds)), range(256, len(ds), 256))  # 56 MB each, instead of all at once
    probabilities = np.concatenate([predict(model, ds.mels(part)) for part in parts])
    macro, per_class = bootstrap_f1(ds.labels, probabilities > THRESHOLD)

    def to_json(interval) -> dict:
        names = Interval._fields
        return {name: None if math.isnan(x) else round(float(x), 6) for name, x in zip(names, interval, strict=True)}

    return {
        **{key: ds.manifest[key] for key in ("n_clips", "seed", "split")},
        "fingerprint": ds.fingerprint,
        "threshold": THRESHOLD,
        "macro_f1": to_json(macro),
        "f1": {i.name: to_json(ends) for i, ends in zip(INSTRUMENTS, np.transpose(per_class), strict=True)},
    }


_SILENCE_DB = FLOOR_DB + 10  # a window that is nowhere louder is taken to be silent


class WindowPredictions(NamedTuple):
    """A network's predictions for a recording, in windows of one clip's length.

    Attributes
    ----------
    starts : float (n,), seconds at which the windows start
    mels : float32 (n, 128, 431), dB
    probabilities : float32 (n, 12)
    """

    starts: np.ndarray
    mels: np.ndarray
    probabilities: np.ndarray


def predict_windows(model: torch.nn.Module, recording: Recording) -> WindowPredictions:
    """Predictions for each window of a recording.

    In silent windows all probabilities are 0: no network was trained on silence, so its answer would mean nothing.
    """
    windows = recording.windows()
    mels = np.stack([log_mel(window) for window in windows])
    probabilities = predict(model, mels)
    probabilities[mels.max((1, 2)) <= _SILENCE_DB] = 0
    return WindowPredictions(np.arange(len(windows)) * CLIP_SAMPLES / SAMPLE_RATE, mels, probabilities)
