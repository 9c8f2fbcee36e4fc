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
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ..constants import N_FRAMES, N_MELS
from ..errors import InputError
from ..music.instruments import instrument_index
from .attribution import ClipTrace


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


class ReceptiveField(NamedTuple):
    """The cells that one place of a channel's map sees: slices of bands and of frames."""

    bands: slice
    frames: slice


def receptive_field(model: nn.Module, layer: str, neuron: int) -> ReceptiveField:
    """The cells that a place of a layer's map sees, cut at the edges of the spectrogram.

    Parameters
    ----------
    model : OriginalCNN or CompactCNN
    layer : name of a convolution
    neuron : row times width plus column

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
    if not 0 <= neuron < math.prod(shape):
        raise InputError(f"{layer} has no neuron {neuron}: its map has {shape[0]} x {shape[1]}")
    slices = []
    for position, cells, pixels in zip(divmod(neuron, shape[1]), (N_MELS, N_FRAMES), model.input_shape[1:], strict=True):
        low, high = (first + position * jump + side * (size - 1) / 2 for side in (-1, 1))
        # Pixels of an enlarged picture lie between cells.
        low, high = ((end + 0.5) * cells / pixels - 0.5 for end in (low, high))
        slices.append(slice(max(0, math.floor(low)), min(cells, math.ceil(high) + 1)))
    return ReceptiveField(*slices)


def channel_relevance(
    model: nn.Module, mel: np.ndarray, instrument: int | str, layer: str, composite: str = "epsilon_plus"
) -> np.ndarray:
    """Each channel's share of an instrument's logit in one clip, signed float32 (channels,); raises as below."""
    check_channels(model, layer)
    trace = ClipTrace(model, np.asarray(mel)[None], composite)
    return (
        trace.backward(trace.init_relevance([instrument_index(instrument)]), stop_layer=layer)[0].sum((1, 2)).cpu().numpy()
    )


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
    whole = trace.backward(trace.init_relevance([instrument_index(instrument)]), stop_layer=layer)  # (1, channels, h, w)
    rows = whole.new_zeros(len(channels) + 1, *whole.shape[1:])
    for row, channel in enumerate(channels):
        rows[row, channel] = whole[0, channel]
    others = [c for c in range(whole.shape[1]) if c not in channels]
    rows[-1, others] = whole[0, others]
    cells = trace.cells(trace.backward(rows, start_layer=layer))
    return cells[:-1], cells[-1]


class Edge(NamedTuple):
    """Relevance that one channel hands to one of an earlier layer; the last layer's come from the logit itself."""

    source: tuple[str, int]
    target: tuple[str, int]
    relevance: float  # as a share of the logit


def attribution_graph(
    model: nn.Module,
    mel: np.ndarray,
    instrument: int | str,
    width: int = 3,
    composite: str = "epsilon_plus",
) -> list[Edge]:
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
    start = trace.init_relevance([index])
    logit = float(start.sum())
    found, nodes, rows, after = [], [("", index)], start, None
    for layer in reversed(convolutions(model)):
        maps = trace.backward(rows, start_layer=after, stop_layer=layer)  # (nodes, channels, h, w)
        flows = maps.sum((2, 3)) / logit  # (nodes, channels)
        chosen = flows.sum(0).abs().argsort(descending=True)[:width].tolist()
        found += [Edge(node, (layer, c), float(flows[n, c])) for n, node in enumerate(nodes) for c in chosen]
        together = maps.sum(0)
        rows = together.new_zeros(len(chosen), *together.shape)
        for row, channel in enumerate(chosen):
            rows[row, channel] = together[channel]
        nodes, after = [(layer, c) for c in chosen], layer
    return found


def ablate_channels(model: nn.Module, layer: str, channels: Sequence[int]) -> nn.Module:
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
