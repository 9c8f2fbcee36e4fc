"""Labels for hidden channels: which musical property does a channel detect, tested on held-out clips?

The idea is Network Dissection (Bau et al. 2017, arXiv:1704.05796), with labels from the score. For a property such as
*a note begins*, the frames of a clip are positive, negative or neither, and a channel's activation (its maximum over
frequency) ranks them. How well it separates positive from negative frames is the area under the ROC curve, AUC. A
channel's label is the property, or its opposite, with the best AUC on one half of the clips. The other half decides
whether the label is significant: the null distribution comes from labels shifted in time (which keep their rhythm but
lose their meaning), and the false-discovery rate over all channels is controlled (Benjamini & Hochberg 1995,
doi:10.1111/j.2517-6161.1995.tb02031.x). Chapter 6 uses all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import false_discovery_control, rankdata
from tqdm.auto import tqdm

from ..constants import FLOOR_DB, HOP, N_FRAMES, SAMPLE_RATE
from ..data.dataset import ClipDataset
from ..errors import InputError
from ..music.instruments import INSTRUMENTS
from ..music.score import Score
from ..networks.evaluation import logits
from ..stats import Interval, bootstrap_mean
from .attribution import ClipTrace
from .concepts import ablate_channels, convolutions, receptive_field

ATTACK = 0.06  # seconds from a note's onset that count as its beginning
SETTLED = 0.25  # seconds from a note's onset after which it counts as held
RELEASE = 0.4  # seconds after a note's end that count as its release
MIDDLE = 66  # MIDI pitch; above is high, below is low; the middle of the range of random scores
FALSE_DISCOVERY_RATE = 0.05  # of significant labels
MIN_AUC = 0.75  # of significant labels, on held-out clips
N_SHIFTS = 2000  # shifted labellings in the null distribution; one of c channels alone can only pass with c / rate of them
N_DRAWS = 8  # random sets of other channels that an ablation is compared with
BATCH_SIZE = 8  # clips
# The label of a channel that is more active when the property holds, and of one that is less active.
PROPERTIES = {
    "onset": ("a note begins", "notes are held"),
    "release": ("notes die away", "notes are held, not released"),
    "high": ("high notes", "low notes"),
    "noisy": ("noise", "harmonics"),
    "loud": ("loud", "soft"),
    **{i.name: (i.name, f"anything but {i.name}") for i in INSTRUMENTS},
}


def frame_labels(score: Score, mel: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
    """Which properties hold at some times of a clip.

    *noisy* (spectral flatness: geometric over arithmetic mean of the bands' power) and *loud* compare the upper with
    the lower third of the clip's audible frames; all others come from the score.

    Parameters
    ----------
    score : Score
    mel : float32 (128, 431), dB
    times : float (times,), seconds

    Returns
    -------
    dict of int8 (times,)
        By property: 1 positive, 0 negative, -1 neither.
    """
    onset, end = np.array([(n.onset, n.end) for n in score.notes]).T[:, :, None]
    playing = np.array([n.instrument for n in score.notes])
    pitch = np.array([n.pitch for n in score.notes])
    since = times - onset  # (notes, times)
    sounds, begins = (since >= 0) & (times < end), (since >= 0) & (since < ATTACK)
    held = sounds.any(0) & ~((since >= 0) & (since < SETTLED)).any(0)
    released = (times >= end) & (times < end + RELEASE)

    def label(positive, negative):
        return np.where(positive, 1, np.where(negative, 0, -1)).astype(np.int8)

    labels = {
        "onset": label(begins.any(0), held),
        "release": label(released.any(0) & ~sounds.any(0), held),
        "high": label(
            held & ~(sounds & (pitch <= MIDDLE)[:, None]).any(0),
            held & ~(sounds & (pitch >= MIDDLE)[:, None]).any(0),
        ),
    }
    power = 10 ** (mel / 10)
    audible = (mel > FLOOR_DB).any(0)
    measures = {"noisy": np.exp(np.log(power).mean(0)) / power.mean(0), "loud": power.sum(0)}
    frames = np.clip(np.rint(times * SAMPLE_RATE / HOP).astype(int), 0, N_FRAMES - 1)
    for name, measure in measures.items():
        low, high = np.quantile(measure[audible], (1 / 3, 2 / 3)) if audible.any() else (0, 0)
        labels[name] = label((measure >= high) & audible, (measure <= low) & audible)[frames]
    for index, instrument in enumerate(INSTRUMENTS):
        own = (sounds & (playing == index)[:, None]).any(0)
        labels[instrument.name] = label(own, sounds.any(0) & ~own)
    return labels


def step_times(model: torch.nn.Module, layer: str, steps: int) -> np.ndarray:
    """The time in seconds of each column of a layer's maps, the middle of its receptive field: float (steps,)."""
    middles = []
    for step in range(steps):
        frames = receptive_field(model, layer, step).frames
        middles.append((frames.start + frames.stop - 1) / 2 * HOP / SAMPLE_RATE)
    # Receptive fields are clipped at the edges, but columns are evenly spaced: extrapolate from the inner ones.
    inner = slice(steps // 4, steps - steps // 4)
    slope, start = np.polyfit(np.arange(steps)[inner], np.array(middles)[inner], 1)
    return start + slope * np.arange(steps)


def auc(ranks: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each channel for each labelling.

    Parameters
    ----------
    ranks : float (frames, channels), mid-ranks of the activations among these frames
    labels : bool (labellings, frames)

    Returns
    -------
    float (labellings, channels)
        NaN where all labels agree.
    """
    count = labels.shape[1]
    positives = labels.sum(1, keepdims=True)
    # Ranks are centred, so that float32 is precise enough for the sums.
    with np.errstate(invalid="ignore", divide="ignore"):
        rank_sums = labels.astype(np.float32) @ (ranks - (count + 1) / 2).astype(np.float32)
        return 0.5 + rank_sums / (positives * (count - positives))


class ChannelLabel(NamedTuple):
    """The property that a channel detects best, and whether that is significant.

    Attributes
    ----------
    layer : str
    channel : int
    property : str, a key of ``PROPERTIES``
    opposite : bool, whether the channel is *less* active where the property holds
    auc : float, on held-out clips; above 0.5 in the chosen direction
    p : float, share of shifted labellings with at least this AUC
    q : float, p adjusted for all channels of the network
    significant : bool, whether q is at most ``FALSE_DISCOVERY_RATE`` and auc at least ``MIN_AUC``
    """

    layer: str
    channel: int
    property: str
    opposite: bool
    auc: float
    p: float
    q: float
    significant: bool

    @property
    def text(self) -> str:
        """The label in words."""
        return PROPERTIES[self.property][self.opposite]


def activations(model: torch.nn.Module, mels: np.ndarray) -> dict[str, np.ndarray]:
    """Each channel's activation over time, the maximum over frequency after ReLU: float32 (n, steps, channels) by layer.

    Raises
    ------
    InputError
        As :class:`instr_lib.explain.attribution.ClipTrace`.
    """
    batches = {layer: [] for layer in convolutions(model)}
    for start in range(0, len(mels), BATCH_SIZE):
        trace = ClipTrace(model, mels[start : start + BATCH_SIZE])
        for layer, parts in batches.items():
            parts.append(trace.outputs[layer].amax(2).clamp(min=0).transpose(1, 2).numpy())
    return {layer: np.concatenate(parts) for layer, parts in batches.items()}


def label_channels(
    model: torch.nn.Module, ds: ClipDataset, indices: Sequence[int], progress: bool = True
) -> list[ChannelLabel]:
    """The label of each channel of each convolution, significant or not.

    Parameters
    ----------
    model : OriginalCNN or CompactCNN
    ds : ClipDataset
    indices : clips of ``ds``; labels are chosen on one half and tested on the other
    progress : bool, show a progress bar

    Raises
    ------
    InputError
        If there are fewer than eight clips.
    """
    indices = np.asarray(indices, int)
    if len(indices) < 8:
        raise InputError(f"{len(indices)} clips are too few to choose labels and to test them: take 8 or more")
    halves = np.array_split(np.random.default_rng(0).permutation(indices), 2)
    validation, test = (_Half(model, ds, half) for half in halves)
    results = []  # (layer, channel, property, opposite, AUC, p)
    for layer in tqdm(convolutions(model), "labels", disable=not progress):
        aucs = np.stack([validation.auc(layer, property) for property in PROPERTIES])  # (properties, channels)
        aucs = np.where(np.isnan(aucs), 0.5, aucs)
        best = np.abs(aucs - 0.5).argmax(0)
        for number, property in enumerate(PROPERTIES):
            (channels,) = np.nonzero(best == number)
            if len(channels):
                opposite = aucs[number, channels] < 0.5
                value, shifted = test.auc_with_null(layer, property, channels, np.random.default_rng(0))
                value, shifted = np.where(opposite, 1 - value, value), np.where(opposite, 1 - shifted, shifted)
                p = (1 + (shifted >= value).sum(0)) / (1 + len(shifted))
                rows = zip(channels.tolist(), opposite.tolist(), value.tolist(), p.tolist(), strict=True)
                results += [(layer, channel, property, *row) for channel, *row in rows]
    qs = false_discovery_control([p for *_, p in results]).tolist()
    labels = [
        ChannelLabel(*row, q, bool(q <= FALSE_DISCOVERY_RATE and row[4] >= MIN_AUC))
        for row, q in zip(results, qs, strict=True)
    ]
    order = list(convolutions(model))
    return sorted(labels, key=lambda label: (order.index(label.layer), label.channel))


class _Half:
    """Activations and frame labels of some clips, concatenated."""

    def __init__(self, model, ds, indices):
        mels = ds.mels(indices)
        self.active = activations(model, mels)
        self.labels = {}
        for layer, active in self.active.items():
            times = step_times(model, layer, active.shape[1])
            per_clip = [frame_labels(ds.score(int(i)), mel, times) for i, mel in zip(indices, mels, strict=True)]
            self.labels[layer] = {name: np.concatenate([labels[name] for labels in per_clip]) for name in PROPERTIES}

    def _ranked(self, layer, property, channels=slice(None)):
        """Ranks (frames, channels) and labels (frames,) of the frames that are positive or negative."""
        labels = self.labels[layer][property]
        known = labels >= 0
        active = self.active[layer].reshape(-1, self.active[layer].shape[2])[known][:, channels]
        return rankdata(active, axis=0), labels[known] == 1

    def auc(self, layer, property):
        ranks, labels = self._ranked(layer, property)
        return auc(ranks, labels[None])[0]

    def auc_with_null(self, layer, property, channels, rng):
        """AUC (channels,), and AUC with shifted labels (N_SHIFTS, channels)."""
        ranks, labels = self._ranked(layer, property, channels)
        if not len(labels):
            return np.full(len(channels), 0.5), np.full((N_SHIFTS, len(channels)), 0.5)
        least = max(1, len(labels) // 20)  # far enough for the labels to have lost their meaning
        shifts = rng.integers(least, max(least + 1, len(labels) - least), N_SHIFTS)
        windows = np.lib.stride_tricks.sliding_window_view(np.tile(labels, 2), len(labels))
        parts = np.array_split(shifts, max(1, N_SHIFTS // 100))  # all at once would take gigabytes
        return auc(ranks, labels[None])[0], np.concatenate([auc(ranks, windows[part]) for part in parts])


class Ablation(NamedTuple):
    """The effect of ablating channels on an instrument's logit in clips in which it plays, mean and 95 % interval.

    Attributes
    ----------
    instrument : int, index
    channels : int, number of channels set to zero, in all layers together
    own : Interval, drop of the logit without the channels that are labelled with the instrument
    others : Interval, drop without as many random other channels of the same layers
    difference : Interval of own minus others, clip by clip
    """

    instrument: int
    channels: int
    own: Interval
    others: Interval
    difference: Interval


def ablate(
    model: torch.nn.Module,
    ds: ClipDataset,
    indices: Sequence[int],
    labels: Sequence[ChannelLabel],
    progress: bool = True,
) -> list[Ablation]:
    """Does ablating the channels labelled with an instrument lower its logit more than ablating others does?

    Parameters
    ----------
    model : OriginalCNN or CompactCNN
    ds : ClipDataset
    indices : clips of ``ds``, other ones than the labels were chosen on
    labels : from :func:`label_channels`; only significant ones that name an instrument are used
    progress : bool, show a progress bar

    Returns
    -------
    list of Ablation
        One per instrument that has a channel and plays in at least two of the clips.
    """
    rng, effects, sizes = np.random.default_rng(0), [], convolutions(model)
    for index, instrument in enumerate(tqdm(INSTRUMENTS, "ablation", disable=not progress)):
        own_labels = [n for n in labels if n.significant and n.property == instrument.name and not n.opposite]
        clips = [i for i in indices if ds.labels[i, index]]
        if not own_labels or len(clips) < 2:
            continue
        mels = ds.mels(clips)
        chosen = {layer: [n.channel for n in own_labels if n.layer == layer] for layer in sizes}
        intact = logits(model, mels)[:, index]
        own = intact - logits(_without(model, chosen), mels)[:, index]
        others = []
        for _ in range(N_DRAWS):
            free = {layer: np.setdiff1d(np.arange(sizes[layer]), channels) for layer, channels in chosen.items()}
            drawn = {layer: rng.choice(free[layer], min(len(c), len(free[layer])), False) for layer, c in chosen.items()}
            others.append(intact - logits(_without(model, drawn), mels)[:, index])
        others = np.mean(others, axis=0)
        intervals = (bootstrap_mean(drop) for drop in (own, others, own - others))
        effects.append(Ablation(index, len(own_labels), *intervals))
    return effects


def _without(model: torch.nn.Module, channels: dict[str, Sequence[int]]) -> torch.nn.Module:
    """A copy of a network in which these channels of each layer are set to zero."""
    for layer, numbers in channels.items():
        if len(numbers):
            model = ablate_channels(model, layer, numbers)
    return model
