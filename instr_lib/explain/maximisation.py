"""Reference samples of hidden channels: the clips, and the places in them, at which a channel peaks."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr
from torch import nn
from tqdm.auto import tqdm

from .._files import atomic_path
from ..constants import HOP, N_FRAMES, N_MELS, SAMPLE_RATE
from ..data.dataset import ClipDataset
from ..data.spectrogram import masked
from ..errors import InputError
from ..music.instruments import INSTRUMENTS, instrument_index
from .attribution import ClipTrace
from .concepts import ReceptiveField, check_channels, convolutions, receptive_field

_VERSION = 2  # of what a cache holds


class ChannelStats(NamedTuple):
    """What :func:`channel_stats` finds, layer by layer; a row is an instrument that plays in a clip.

    Attributes
    ----------
    clips : int (rows,), indices into the dataset
    classes : int (rows,), instrument indices
    relevance : dict of float32 (rows, channels), a channel's share of the instrument's logit, signed
    peak : dict of float32 (rows, channels), its largest relevance at one place
    neuron : dict of int32 (rows, channels), where that is: row times width plus column of the channel's map
    examined : int (n,), the clips
    activation : dict of float32 (n, channels), the channel's largest activation in a clip, 0 if it is never above 0
    active_neuron : dict of int32 (n, channels), where that is
    """

    clips: np.ndarray
    classes: np.ndarray
    relevance: dict[str, np.ndarray]
    peak: dict[str, np.ndarray]
    neuron: dict[str, np.ndarray]
    examined: np.ndarray
    activation: dict[str, np.ndarray]
    active_neuron: dict[str, np.ndarray]

    def shares(self, layer: str, instrument: int | str | None = None) -> np.ndarray:
        """Size of each channel's relevance as a share of its layer's, (rows, channels); of one instrument or of all.

        Raises
        ------
        InputError
            If the layer does not exist, or the instrument plays in none of the clips.
        """
        if layer not in self.relevance:
            raise InputError(f"there is no layer {layer!r}: choose one of {', '.join(self.relevance)}")
        size = np.abs(self.relevance[layer])
        if instrument is not None:
            index = instrument_index(instrument)
            size = size[self.classes == index]
            if not len(size):
                raise InputError(f"{INSTRUMENTS[index].name} plays in none of these clips: take more clips")
        return size / np.maximum(size.sum(1, keepdims=True), 1e-12)

    def ranking(self, layer: str, instrument: int | str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Channels from the most to the least relevant, and their mean shares; raises as :meth:`shares`."""
        mean = self.shares(layer, instrument).mean(0)
        order = np.argsort(-mean)
        return order, mean[order]

    def stability(self, layer: str, instrument: int | str | None = None, n_splits: int = 20, seed: int = 0) -> np.ndarray:
        """Rank correlations (n_splits,) of mean shares in two random halves of the rows; raises as :meth:`shares`."""
        shares, rng = self.shares(layer, instrument), np.random.default_rng(seed)
        if len(shares) < 4:
            raise InputError(f"{len(shares)} rows cannot be halved: take more clips")
        halves = (np.array_split(rng.permutation(len(shares)), 2) for _ in range(n_splits))
        return np.array([spearmanr(shares[a].mean(0), shares[b].mean(0)).statistic for a, b in halves])


def channel_stats(
    model: nn.Module,
    ds: ClipDataset,
    indices: Sequence[int],
    composite: str = "epsilon_plus",
    cache: str | os.PathLike | None = None,
    batch_size: int = 8,
    progress: bool = True,
) -> ChannelStats:
    """Relevance and activation of every channel of every convolution, for each instrument that plays in each clip.

    Parameters
    ----------
    model : OriginalCNN, CompactCNN or another that :func:`instr_lib.lrp.can_trace`
    ds : ClipDataset
    indices : which of its clips, at least one
    composite : as for :func:`instr_lib.relevance`
    cache : folder, optional
        What is found is kept there, under a hash of weights, clips and composite, and read from there the next time.
    batch_size : int, rows at a time
    progress : bool

    Raises
    ------
    InputError
        If there are no clips, or the network has layers that cannot be traced.
    """
    indices = np.asarray(indices, int)
    if not indices.size:
        raise InputError("there are no clips to look at: name at least one")
    file = None
    if cache is not None:
        file = Path(cache) / f"channels-{_key(model, ds, indices, composite)}.npz"
        if file.is_file():
            return _read(file)
    layers, (rows, classes) = convolutions(model), np.nonzero(ds.labels[indices])
    # Made beforehand: small pieces that stay, put between large ones that go, would keep gigabytes from being used again.
    kinds = {name: np.float32 for name in ("relevance", "peak", "activation")} | dict.fromkeys(
        ("place", "active_place"), np.int32
    )
    found = {name: {layer: np.empty((len(rows), n), kind) for layer, n in layers.items()} for name, kind in kinds.items()}
    for start in tqdm(range(0, len(rows), batch_size), "channels", unit_scale=batch_size, disable=not progress):
        part = np.arange(start, min(start + batch_size, len(rows)))
        trace = ClipTrace(model, ds.mels(indices[rows[part]]), composite)
        relevance, after = trace.init_relevance(classes[part], range(len(part))), None
        for layer in reversed(layers):
            relevance, after = trace.backward(relevance, start_layer=after, stop_layer=layer), layer
            found["relevance"][layer][part] = relevance.sum((2, 3)).cpu()
            for one, value, neuron in (
                (relevance, "peak", "place"),
                (trace.outputs[layer].clamp(min=0), "activation", "active_place"),
            ):
                found[value][layer][part], found[neuron][layer][part] = (t.cpu() for t in one.flatten(2).max(2))
    examined, first = np.unique(rows, return_index=True)  # activations do not depend on the row's instrument
    for name in ("activation", "active_place"):
        found[name] = {layer: array[first] for layer, array in found[name].items()}
    stats = ChannelStats(clips=indices[rows], classes=classes, examined=indices[examined], **found)
    if file is not None:
        _write(file, stats)
    return stats


def _key(model: nn.Module, ds: ClipDataset, indices: np.ndarray, composite: str) -> str:
    content = hashlib.sha256(f"{_VERSION} {composite} {type(model).__name__} {ds.fingerprint}".encode())
    content.update(indices.astype("<i8").tobytes())
    for name, tensor in model.state_dict().items():
        content.update(name.encode() + tensor.cpu().numpy().tobytes())
    return content.hexdigest()[:16]


def _write(file: Path, stats: ChannelStats):
    flat = {}
    for name, value in stats._asdict().items():
        flat |= {f"{name} {layer}": array for layer, array in value.items()} if isinstance(value, dict) else {name: value}
    with atomic_path(file) as part, open(part, "wb") as out:
        np.savez(out, **flat)


def _read(file: Path) -> ChannelStats:
    try:
        with np.load(file) as content:
            flat = {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} cannot be read ({error}): delete it, and it is made again") from None
    fields = {}
    for name, array in flat.items():
        field, _, layer = name.partition(" ")
        fields = {**fields, field: array} if not layer else {**fields, field: {**fields.get(field, {}), layer: array}}
    return ChannelStats(**fields)


class ReferenceSample(NamedTuple):
    """A clip, an instrument that plays in it (None for activations), and where the channel peaks."""

    clip: int
    instrument: int | None
    field: ReceptiveField
    value: float


def reference_samples(
    model: nn.Module,
    stats: ChannelStats,
    layer: str,
    channel: int,
    by: str = "relevance",
    count: int = 4,
    instrument: int | str | None = None,
) -> list[ReferenceSample]:
    """The clips in which a channel peaks highest, each clip once, and where: RelMax or ActMax of Achtibat et al. 2023.

    Parameters
    ----------
    by : {"relevance", "activation"}
        Largest relevance at one place (RelMax), or largest activation (ActMax).
    count : int
    instrument : index or name, optional
        Only relevance for this one.

    Raises
    ------
    InputError
        If layer, channel or kind do not exist, or the channel never peaks above 0.
    """
    (channel,) = check_channels(model, layer, [channel])
    if by not in ("relevance", "activation"):
        raise InputError(f"references are by 'relevance' or by 'activation', not {by!r}")
    if by == "relevance":
        value, neuron, clips = stats.peak[layer][:, channel], stats.neuron[layer][:, channel], stats.clips
        classes = stats.classes
        if instrument is not None:
            value = np.where(classes == instrument_index(instrument), value, 0)
    else:
        value, neuron, clips = stats.activation[layer][:, channel], stats.active_neuron[layer][:, channel], stats.examined
        classes = [None] * len(clips)
    chosen = {}
    for row in np.argsort(-value, kind="stable"):
        if len(chosen) == count or value[row] <= 0:
            break
        if clips[row] not in chosen:
            instrument_of = None if classes[row] is None else int(classes[row])
            field = receptive_field(model, layer, int(neuron[row]))
            chosen[clips[row]] = ReferenceSample(int(clips[row]), instrument_of, field, float(value[row]))
    if not chosen:
        raise InputError(f"channel {channel} of {layer} has no {by} above 0 in these clips: choose another")
    return list(chosen.values())


def crop_sound(audio: np.ndarray, field: ReceptiveField, margin: float = 0.15) -> np.ndarray:
    """The sound of the cells that a place of a channel's map sees, with some silence around it: float32 (samples,).

    All other cells are turned off, so only these bands and these moments are heard.
    """
    mask = np.zeros((N_MELS, N_FRAMES), np.float32)
    mask[field] = 1
    silence = round(margin * SAMPLE_RATE)
    return masked(audio, mask)[max(0, field.frames.start * HOP - silence) : field.frames.stop * HOP + silence]
