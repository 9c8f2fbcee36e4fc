"""Hidden channels: which ones an instrument's answer goes through, where, and what they show there.

Class-conditional relevance asks which cells spoke for an instrument. Concept Relevance Propagation
(Achtibat et al. 2023, doi:10.1038/s42256-023-00711-8) asks *through which hidden channel* they spoke: relevance is
stopped at a layer, all but some channels are set to zero, and what is left goes on. Since every step is linear in
relevance, the parts of all channels add up to the whole.

A channel's relevance is the sum over its map, as the convolution gives it, before pooling and ReLU; batch
normalisation is merged. Layers are named as in ``model.layers``: ``conv1`` is next to the sound. Chapter 6 uses all of it.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn
from tqdm.auto import tqdm

from .dataset import ClipDataset
from .errors import InputError
from .instruments import INSTRUMENTS, instrument_index
from .memory import keep_freed_memory
from .relevance import ClipTrace
from .spectrogram import HOP, N_FRAMES, N_MELS, masked
from .synth import SAMPLE_RATE

_VERSION = 1  # of what a cache holds


def convolutions(model: nn.Module) -> dict[str, int]:
    """The convolutions of a network by name, the first one first, and how many channels each has."""
    layers = getattr(model, "layers", model)
    return {name: layer.out_channels for name, layer in layers.named_children() if isinstance(layer, nn.Conv2d)}


def check_channels(model: nn.Module, layer: str, channels: Sequence[int] = ()) -> list[int]:
    """The channels as a list, if the network has such a layer with such channels.

    Raises
    ------
    InputError
        If not; the message says what there is.
    """
    known = convolutions(model)
    if layer not in known:
        raise InputError(f"there is no layer {layer!r}: choose one of {', '.join(known)}")
    channels = [int(c) for c in np.atleast_1d(channels)]
    for channel in channels:
        if not 0 <= channel < known[layer]:
            raise InputError(f"{layer} has no channel {channel}: choose 0 to {known[layer] - 1}")
    return channels


class ChannelStats(NamedTuple):
    """What :func:`channel_stats` finds, layer by layer; a row is an instrument that plays in a clip.

    Attributes
    ----------
    clips : int (rows,), indices into the dataset
    classes : int (rows,), instrument indices
    relevance : dict of float32 (rows, channels), a channel's share of the instrument's logit, signed
    peak : dict of float32 (rows, channels), its largest relevance at one place
    place : dict of int32 (rows, channels), where that is: row times width plus column of the channel's map
    examined : int (n,), the clips
    activation : dict of float32 (n, channels), the channel's largest activation in a clip, 0 if it is never above 0
    active_place : dict of int32 (n, channels), where that is
    """

    clips: np.ndarray
    classes: np.ndarray
    relevance: dict[str, np.ndarray]
    peak: dict[str, np.ndarray]
    place: dict[str, np.ndarray]
    examined: np.ndarray
    activation: dict[str, np.ndarray]
    active_place: dict[str, np.ndarray]

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
    keep_freed_memory()
    layers, (rows, classes) = convolutions(model), np.nonzero(ds.labels[indices])
    # Made beforehand: small pieces that stay, put between large ones that go, would keep gigabytes from being used again.
    kinds = {name: np.float32 for name in ("relevance", "peak", "activation")} | dict.fromkeys(
        ("place", "active_place"), np.int32
    )
    found = {name: {layer: np.empty((len(rows), n), kind) for layer, n in layers.items()} for name, kind in kinds.items()}
    for start in tqdm(range(0, len(rows), batch_size), "channels", unit_scale=batch_size, disable=not progress):
        part = np.arange(start, min(start + batch_size, len(rows)))
        trace = ClipTrace(model, ds.mels(indices[rows[part]]), composite)
        relevance, after = trace.start(classes[part], range(len(part))), None
        for layer in reversed(layers):
            relevance, after = trace.back(relevance, after=after, until=layer), layer
            found["relevance"][layer][part] = relevance.sum((2, 3)).cpu()
            for one, value, place in (
                (relevance, "peak", "place"),
                (trace.outputs[layer].clamp(min=0), "activation", "active_place"),
            ):
                found[value][layer][part], found[place][layer][part] = (t.cpu() for t in one.flatten(2).max(2))
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
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part.npz")
    np.savez(part, **flat)
    os.replace(part, file)


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


class Field(NamedTuple):
    """The cells that one place of a channel's map sees: slices of bands and of frames."""

    bands: slice
    frames: slice


def receptive_field(model: nn.Module, layer: str, place: int) -> Field:
    """The cells that a place of a layer's map sees, cut at the edges of the spectrogram.

    Parameters
    ----------
    model : OriginalCNN or CompactCNN
    layer : name of a convolution
    place : row times width plus column

    Raises
    ------
    InputError
        If the layer or the place does not exist.
    """
    check_channels(model, layer)
    size, jump, first, shape = 1, 1, 0.0, list(model.input_shape[1:])
    for name, module in model.layers.named_children():
        if isinstance(module, nn.Conv2d):
            kernel, padding = module.kernel_size[0], module.padding[0]
            first += ((kernel - 1) / 2 - padding) * jump
            size += (kernel - 1) * jump
            shape = [n + 2 * padding - kernel + 1 for n in shape]
        elif isinstance(module, nn.MaxPool2d):
            first += (module.kernel_size - 1) / 2 * jump
            size += (module.kernel_size - 1) * jump
            jump *= module.stride
            shape = [n // module.stride for n in shape]
        if name == layer:
            break
    if not 0 <= place < math.prod(shape):
        raise InputError(f"{layer} has no place {place}: its map has {shape[0]} x {shape[1]}")
    slices = []
    for position, cells, pixels in zip(divmod(place, shape[1]), (N_MELS, N_FRAMES), model.input_shape[1:], strict=True):
        low, high = (first + position * jump + side * (size - 1) / 2 for side in (-1, 1))
        # Pixels of an enlarged picture lie between cells.
        low, high = ((end + 0.5) * cells / pixels - 0.5 for end in (low, high))
        slices.append(slice(max(0, math.floor(low)), min(cells, math.ceil(high) + 1)))
    return Field(*slices)


class Reference(NamedTuple):
    """A clip, an instrument that plays in it (None for activations), and where the channel peaks."""

    clip: int
    instrument: int | None
    field: Field
    value: float


def references(
    model: nn.Module,
    stats: ChannelStats,
    layer: str,
    channel: int,
    by: str = "relevance",
    count: int = 4,
    instrument: int | str | None = None,
) -> list[Reference]:
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
        value, place, clips = stats.peak[layer][:, channel], stats.place[layer][:, channel], stats.clips
        classes = stats.classes
        if instrument is not None:
            value = np.where(classes == instrument_index(instrument), value, 0)
    else:
        value, place, clips = stats.activation[layer][:, channel], stats.active_place[layer][:, channel], stats.examined
        classes = [None] * len(clips)
    chosen = {}
    for row in np.argsort(-value, kind="stable"):
        if len(chosen) == count or value[row] <= 0:
            break
        if clips[row] not in chosen:
            instrument_of = None if classes[row] is None else int(classes[row])
            field = receptive_field(model, layer, int(place[row]))
            chosen[clips[row]] = Reference(int(clips[row]), instrument_of, field, float(value[row]))
    if not chosen:
        raise InputError(f"channel {channel} of {layer} has no {by} above 0 in these clips: choose another")
    return list(chosen.values())


def channel_relevance(
    model: nn.Module, mel: np.ndarray, instrument: int | str, layer: str, composite: str = "epsilon_plus"
) -> np.ndarray:
    """Each channel's share of an instrument's logit in one clip, signed float32 (channels,); raises as below."""
    check_channels(model, layer)
    trace = ClipTrace(model, np.asarray(mel)[None], composite)
    return trace.back(trace.start([instrument_index(instrument)]), until=layer)[0].sum((1, 2)).cpu().numpy()


def concept_relevance(
    model: nn.Module,
    mel: np.ndarray,
    instrument: int | str,
    layer: str,
    channels: Sequence[int],
    composite: str = "epsilon_plus",
) -> tuple[np.ndarray, np.ndarray]:
    """Relevance of an instrument through each of some channels, and through all the others together.

    Parameters
    ----------
    model : OriginalCNN, CompactCNN or another that :func:`instr_lib.lrp.can_trace`
    mel : float32 (128, 431), dB
    instrument : index or name
    layer : name of a convolution
    channels : n channels of it

    Returns
    -------
    parts : float32 (n, 128, 431)
    rest : float32 (128, 431)
        ``parts.sum(0) + rest`` is ``il.relevance(model, mel[None], [instrument], composite)[0]``.

    Raises
    ------
    InputError
        If layer or channel do not exist, or the network cannot be traced.
    """
    channels = check_channels(model, layer, channels)
    trace = ClipTrace(model, np.asarray(mel)[None], composite)
    whole = trace.back(trace.start([instrument_index(instrument)]), until=layer)  # (1, channels, h, w)
    rows = whole.new_zeros(len(channels) + 1, *whole.shape[1:])
    for row, channel in enumerate(channels):
        rows[row, channel] = whole[0, channel]
    others = [c for c in range(whole.shape[1]) if c not in channels]
    rows[-1, others] = whole[0, others]
    cells = trace.cells(trace.back(rows, after=layer))
    return cells[:-1], cells[-1]


class Way(NamedTuple):
    """Relevance that one channel hands to one of an earlier layer; the last layer's come from the logit itself."""

    source: tuple[str, int]
    target: tuple[str, int]
    relevance: float  # as a share of the logit


def ways(
    model: nn.Module,
    mel: np.ndarray,
    instrument: int | str,
    width: int = 3,
    composite: str = "epsilon_plus",
) -> list[Way]:
    """The most relevant channels layer by layer, and how much relevance goes between them.

    In each convolution the ``width`` channels with the largest relevance *that comes through those already chosen*
    are chosen; each way's relevance is what the later channel, conditioned on alone, hands to the earlier one.

    Parameters
    ----------
    model, mel, instrument, composite
        As for :func:`concept_relevance`.
    width : int, channels a layer

    Returns
    -------
    list of Way
        From the instrument, as source ``("", index)``, down to the first convolution.
    """
    index = instrument_index(instrument)
    trace = ClipTrace(model, np.asarray(mel)[None], composite)
    start = trace.start([index])
    logit = float(start.sum())
    found, nodes, rows, after = [], [("", index)], start, None
    for layer in reversed(convolutions(model)):
        maps = trace.back(rows, after=after, until=layer)  # (nodes, channels, h, w)
        flows = maps.sum((2, 3)) / logit  # (nodes, channels)
        chosen = flows.sum(0).abs().argsort(descending=True)[:width].tolist()
        found += [Way(node, (layer, c), float(flows[n, c])) for n, node in enumerate(nodes) for c in chosen]
        together = maps.sum(0)
        rows = together.new_zeros(len(chosen), *together.shape)
        for row, channel in enumerate(chosen):
            rows[row, channel] = together[channel]
        nodes, after = [(layer, c) for c in chosen], layer
    return found


def without(model: nn.Module, layer: str, channels: Sequence[int]) -> nn.Module:
    """A copy of a network in which some channels of a convolution are silent: 0 everywhere, whatever it hears.

    Raises
    ------
    InputError
        If the layer or a channel does not exist, or no batch normalisation follows that could be turned off.
    """
    channels = check_channels(model, layer, channels)
    model = copy.deepcopy(model)
    names = [name for name, _ in model.layers.named_children()]
    norm = model.layers[names.index(layer) + 1] if names.index(layer) + 1 < len(names) else None
    if not isinstance(norm, nn.BatchNorm2d):
        raise InputError(f"{layer} is not followed by batch normalisation: its channels cannot be silenced that way")
    with torch.no_grad():
        norm.weight[channels] = norm.bias[channels] = 0
    return model


def crop_sound(audio: np.ndarray, field: Field, margin: float = 0.15) -> np.ndarray:
    """The sound of the cells that a place of a channel's map sees, with some silence around it: float32 (samples,).

    All other cells are turned off, so only these bands and these moments are heard.
    """
    mask = np.zeros((N_MELS, N_FRAMES), np.float32)
    mask[field] = 1
    silence = round(margin * SAMPLE_RATE)
    return masked(audio, mask)[max(0, field.frames.start * HOP - silence) : field.frames.stop * HOP + silence]
