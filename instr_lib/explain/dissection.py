"""Names for hidden channels, earned: what does a channel's activation tell, on clips that the name was not chosen by?

From the score we know at each moment what sounds. For a property such as *a note begins* the moments of a clip are
yes, no or neither, and a channel's activation (its maximum over frequency) is a score between them. How well it tells
yes from no is the area under the ROC curve, AUC: the probability that a yes has more activation than a no. A channel's
name is the property, or its opposite, that it tells best on one half of the clips; the other half decides whether it
keeps it, against labels shifted in time (which keep their rhythm but not their meaning), with the false-discovery rate
of all channels controlled (Benjamini & Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x).
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
from ..stats import Interval, bootstrap
from .attribution import ClipTrace
from .concepts import ablate_channels, convolutions, receptive_field

ATTACK = 0.06  # seconds from a note's onset that count as its beginning
SETTLED = 0.25  # seconds after which it has settled
RELEASE = 0.4  # seconds after the last note's end that count as dying away
MIDDLE = 66  # pitches above are high, below are low; half the range of random scores
# What a channel may be called if it is more active when the property holds, and if it is less.
PROPERTIES = {
    "onset": ("a note begins", "notes are held"),
    "release": ("notes die away", "notes are held, not released"),
    "high": ("high notes", "low notes"),
    "noisy": ("noise", "harmonics"),
    "loud": ("loud", "soft"),
    **{i.name: (i.name, f"anything but {i.name}") for i in INSTRUMENTS},
}


def frame_labels(score: Score, mel: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
    """Which properties hold at some times of a clip: int8 (times,), 1 yes, 0 no, -1 neither.

    Parameters
    ----------
    score : Score
    mel : float32 (128, 431), dB
        For *noisy* (spectral flatness, geometric over arithmetic mean of the bands' power) and *loud*: the upper against
        the lower third of the clip's sounding frames. All others come from the score.
    times : float (times,), seconds
    """
    onset, end = np.array([(n.onset, n.end) for n in score.notes]).T[:, :, None]
    playing = np.array([n.instrument for n in score.notes])
    pitch = np.array([n.pitch for n in score.notes])
    since = times - onset  # (notes, times)
    sounds, begins = (since >= 0) & (times < end), (since >= 0) & (since < ATTACK)
    held = sounds.any(0) & ~((since >= 0) & (since < SETTLED)).any(0)
    over = (times >= end) & (times < end + RELEASE)

    def label(yes, no):
        return np.where(yes, 1, np.where(no, 0, -1)).astype(np.int8)

    found = {
        "onset": label(begins.any(0), held),
        "release": label(over.any(0) & ~sounds.any(0), held),
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
        found[name] = label((measure >= high) & audible, (measure <= low) & audible)[frames]
    for index, instrument in enumerate(INSTRUMENTS):
        own = (sounds & (playing == index)[:, None]).any(0)
        found[instrument.name] = label(own, sounds.any(0) & ~own)
    return found


def step_times(model: torch.nn.Module, layer: str, steps: int) -> np.ndarray:
    """Seconds at which each column of a layer's maps looks, the middle of its receptive field (steps,)."""
    middles = []
    for step in range(steps):
        frames = receptive_field(model, layer, step).frames
        middles.append((frames.start + frames.stop - 1) / 2 * HOP / SAMPLE_RATE)
    # At the edges fields are cut; columns are evenly spaced.
    inner = slice(steps // 4, steps - steps // 4)
    slope, start = np.polyfit(np.arange(steps)[inner], np.array(middles)[inner], 1)
    return start + slope * np.arange(steps)


def auc(ranks: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each channel for each labelling.

    Parameters
    ----------
    ranks : float (moments, channels), mid-ranks of the activations among these moments
    labels : bool (labellings, moments)

    Returns
    -------
    float (labellings, channels)
        NaN where all labels agree.
    """
    count = labels.shape[1]
    yes = labels.sum(1, keepdims=True)
    # Centred, so that 32 bits are enough for sums over so many ranks.
    with np.errstate(invalid="ignore", divide="ignore"):
        return 0.5 + labels.astype(np.float32) @ (ranks - (count + 1) / 2).astype(np.float32) / (yes * (count - yes))


class ChannelLabel(NamedTuple):
    """What a channel tells best, and whether it may be called so.

    Attributes
    ----------
    layer, channel
    property : key of ``PROPERTIES``
    opposite : bool, whether it is *less* active where the property holds
    auc : float, on clips that the property was not chosen by; above 0.5 in the direction chosen
    p : float, share of shifted labellings with at least this AUC
    q : float, p adjusted for all channels of the network
    significant : bool, whether q is small and the AUC is large
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
        """The name in words."""
        return PROPERTIES[self.property][self.opposite]


def activations(model: torch.nn.Module, mels: np.ndarray, batch_size: int = 8) -> dict[str, np.ndarray]:
    """Each channel's activation over time, the maximum over frequency after ReLU: float32 (n, steps, channels) by layer.

    Raises
    ------
    InputError
        As :class:`instr_lib.relevance.ClipTrace`.
    """
    found = {layer: [] for layer in convolutions(model)}
    for start in range(0, len(mels), batch_size):
        trace = ClipTrace(model, mels[start : start + batch_size])
        for layer, parts in found.items():
            parts.append(trace.outputs[layer].amax(2).clamp(min=0).transpose(1, 2).numpy())
    return {layer: np.concatenate(parts) for layer, parts in found.items()}


def label_channels(
    model: torch.nn.Module,
    ds: ClipDataset,
    indices: Sequence[int],
    n_shifts: int = 2000,
    level: float = 0.05,
    least: float = 0.75,
    seed: int = 0,
    progress: bool = True,
) -> list[ChannelLabel]:
    """What each channel of each convolution may be called; one :class:`ChannelLabel` a channel, earned or not.

    Parameters
    ----------
    model : OriginalCNN or CompactCNN
    ds : ClipDataset
    indices : its clips to use: one half to choose names, the other to test them
    n_shifts : int, shifted labellings to compare with: of c channels one alone can earn a name from c / level on
    level : float, false-discovery rate
    least : float, AUC that a name must have, on the clips that test it

    Raises
    ------
    InputError
        If there are fewer than eight clips.
    """
    indices = np.asarray(indices, int)
    if len(indices) < 8:
        raise InputError(f"{len(indices)} clips are too few to choose names and to test them: take 8 or more")
    halves = np.array_split(np.random.default_rng(seed).permutation(indices), 2)
    halves = [_Half(model, ds, half) for half in halves]
    results = []  # (layer, channel, property, opposite, AUC, p)
    for layer in tqdm(convolutions(model), "names", disable=not progress):
        chosen = np.stack([halves[0].auc(layer, property) for property in PROPERTIES])  # (properties, channels)
        chosen = np.where(np.isnan(chosen), 0.5, chosen)
        best = np.abs(chosen - 0.5).argmax(0)
        for number, property in enumerate(PROPERTIES):
            (mine,) = np.nonzero(best == number)
            if len(mine):
                down = chosen[number, mine] < 0.5
                value, shifted = halves[1].tested(layer, property, mine, n_shifts, np.random.default_rng(seed))
                value, shifted = np.where(down, 1 - value, value), np.where(down, 1 - shifted, shifted)
                p = (1 + (shifted >= value).sum(0)) / (1 + n_shifts)
                rows = zip(mine.tolist(), down.tolist(), value.tolist(), p.tolist(), strict=True)
                results += [(layer, channel, property, *row) for channel, *row in rows]
    q = false_discovery_control([p for *_, p in results]).tolist()
    names = [ChannelLabel(*row, q, bool(q <= level and row[4] >= least)) for row, q in zip(results, q, strict=True)]
    order = list(convolutions(model))
    return sorted(names, key=lambda name: (order.index(name.layer), name.channel))


class _Half:
    """Activations and labels of some clips, one clip after another."""

    def __init__(self, model, ds, indices):
        mels = ds.mels(indices)
        self.active = activations(model, mels)
        self.labels = {}
        for layer, active in self.active.items():
            times = step_times(model, layer, active.shape[1])
            each = [frame_labels(ds.score(int(i)), mel, times) for i, mel in zip(indices, mels, strict=True)]
            self.labels[layer] = {property: np.concatenate([one[property] for one in each]) for property in PROPERTIES}

    def _ranked(self, layer, property, channels=slice(None)):
        labels = self.labels[layer][property]
        kept = labels >= 0
        active = self.active[layer].reshape(-1, self.active[layer].shape[2])[kept][:, channels]
        return rankdata(active, axis=0), labels[kept] == 1

    def auc(self, layer, property):
        ranks, labels = self._ranked(layer, property)
        return auc(ranks, labels[None])[0]

    def tested(self, layer, property, channels, n_shifts, rng):
        ranks, labels = self._ranked(layer, property, channels)
        if not len(labels):
            return np.full(len(channels), 0.5), np.full((n_shifts, len(channels)), 0.5)
        least = max(1, len(labels) // 20)  # far enough for the labels to have lost their meaning
        shifts = rng.integers(least, max(least + 1, len(labels) - least), n_shifts)
        windows = np.lib.stride_tricks.sliding_window_view(np.tile(labels, 2), len(labels))
        parts = np.array_split(shifts, max(1, n_shifts // 100))  # all at once would take gigabytes
        return auc(ranks, labels[None])[0], np.concatenate([auc(ranks, windows[part]) for part in parts])


class Ablation(NamedTuple):
    """What silencing channels does to an instrument's logit in clips in which it plays, mean and 95 % interval.

    Attributes
    ----------
    instrument : index
    channels : how many were silenced, in all layers together
    own : Interval, fall of the logit without the channels named after the instrument
    others : Interval, without as many others of the same layers, drawn several times
    difference : Interval, clip by clip
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
    names: Sequence[ChannelLabel],
    n_draws: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> list[Ablation]:
    """Does silencing the channels named after an instrument lower its logit more than silencing others does?

    Parameters
    ----------
    model, ds, indices
        Clips should not be those that names were chosen by.
    names : from :func:`label_channels`; only those count that were earned and are an instrument's
    n_draws : int, sets of other channels to compare with

    Returns
    -------
    list of Ablation
        One for each instrument that has a channel and plays in at least two of the clips.
    """
    rng, found, sizes = np.random.default_rng(seed), [], convolutions(model)
    for index, instrument in enumerate(tqdm(INSTRUMENTS, "ablation", disable=not progress)):
        mine = [n for n in names if n.significant and n.property == instrument.name and not n.opposite]
        clips = [i for i in indices if ds.labels[i, index]]
        if not mine or len(clips) < 2:
            continue
        mels = ds.mels(clips)
        chosen = {layer: [n.channel for n in mine if n.layer == layer] for layer in sizes}
        before = logits(model, mels)[:, index]
        own = before - logits(_silenced(model, chosen), mels)[:, index]
        others = []
        for _ in range(n_draws):
            free = {layer: np.setdiff1d(np.arange(sizes[layer]), channels) for layer, channels in chosen.items()}
            drawn = {layer: rng.choice(free[layer], min(len(c), len(free[layer])), False) for layer, c in chosen.items()}
            others.append(before - logits(_silenced(model, drawn), mels)[:, index])
        others = np.mean(others, axis=0)
        intervals = (bootstrap(fall, np.arange(len(clips))) for fall in (own, others, own - others))
        found.append(Ablation(index, len(mine), *intervals))
    return found


def _silenced(model: torch.nn.Module, channels: dict[str, Sequence[int]]) -> torch.nn.Module:
    for layer, which in channels.items():
        if len(which):
            model = ablate_channels(model, layer, which)
    return model
