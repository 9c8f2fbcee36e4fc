"""Hidden channels: which ones an instrument's relevance goes through, and where.

Class-conditional relevance asks which cells spoke for an instrument. Concept Relevance Propagation
(Achtibat et al. 2023, doi:10.1038/s42256-023-00711-8) asks *through which hidden channel* they spoke: relevance is
stopped at a layer, all but some channels are set to zero, and the rest is propagated further. Since every step is
linear in relevance, the parts of all channels add up to the whole.

A channel's relevance is the sum over its map at the output of the convolution with batch normalisation merged,
before pooling and ReLU. Layers are named as in ``model.layers``; ``conv1`` is the first. A *neuron* is one position of a
channel's map, given as row times width plus column. Chapter 6 uses all of it.
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
    """The convolutions of a network by name, from the first to the last, and the number of channels of each."""
    layers = getattr(model, "layers", model)
    return {name: layer.out_channels for name, layer in layers.named_children() if isinstance(layer, nn.Conv2d)}


def check_channels(model: nn.Module, layer: str, channels: Sequence[int] = ()) -> list[int]:
    """The channels as a list of int, after checking that the layer exists and has them.

    Raises
    ------
    InputError
        If the layer or a channel does not exist; the message lists those that do.
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
    """The cells that a neuron depends on: slices of bands and of frames."""

    bands: slice
    frames: slice


def receptive_field(model: nn.Module, layer: str, neuron: int) -> ReceptiveField:
    """The cells that a neuron depends on, clipped at the edges of the spectrogram.

    Parameters
    ----------
    model : OriginalCNN or CompactCNN
    layer : name of a convolution
    neuron : row times width plus column

    Raises
    ------
    InputError
        If the layer or the neuron does not exist.
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
        # If the network resizes its input, pixels lie between cells.
        low, high = ((end + 0.5) * cells / pixels - 0.5 for end in (low, high))
        slices.append(slice(max(0, math.floor(low)), min(cells, math.ceil(high) + 1)))
    return ReceptiveField(*slices)


def channel_relevance(
    model: nn.Module, mel: np.ndarray, instrument: int | str, layer: str, composite: str = "epsilon_plus"
) -> np.ndarray:
    """Relevance of each channel for an instrument in one clip, signed float32 (channels,).

    Arguments and errors are as for :func:`concept_relevance`.
    """
    check_channels(model, layer)
    trace = ClipTrace(model, np.asarray(mel)[None], composite)
    maps = trace.backward(trace.init_relevance([instrument_index(instrument)]), stop_layer=layer)  # (1, channels, h, w)
    return maps[0].sum((1, 2)).cpu().numpy()


def concept_relevance(
    model: nn.Module,
    mel: np.ndarray,
    instrument: int | str,
    layer: str,
    channels: Sequence[int],
    composite: str = "epsilon_plus",
) -> tuple[np.ndarray, np.ndarray]:
    """Relevance for an instrument through each of some channels, and through all other channels together.

    Parameters
    ----------
    model : OriginalCNN, CompactCNN or another that :func:`instr_lib.explain.lrp.can_trace`
    mel : float32 (128, 431), dB
    instrument : index or name
    layer : name of a convolution
    channels : n of its channels
    composite : as for :func:`instr_lib.relevance`

    Returns
    -------
    parts : float32 (n, 128, 431)
    rest : float32 (128, 431)
        ``parts.sum(0) + rest`` is ``il.relevance(model, mel[None], [instrument], composite)[0]``.

    Raises
    ------
    InputError
        If the layer or a channel does not exist, or the network cannot be traced.
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
    """Relevance that flows from one channel to a channel of the convolution before it.

    Attributes
    ----------
    source : (layer, channel); ``("", instrument index)`` for the logit itself
    target : (layer, channel)
    relevance : float, as a share of the logit
    """

    source: tuple[str, int]
    target: tuple[str, int]
    relevance: float


def attribution_graph(
    model: nn.Module,
    mel: np.ndarray,
    instrument: int | str,
    width: int = 3,
    composite: str = "epsilon_plus",
) -> list[Edge]:
    """The most relevant channels, layer by layer, and the relevance between them.

    In each convolution the ``width`` channels with the largest relevance *through the channels chosen before*
    are chosen. An edge's relevance is what its target receives if relevance is conditioned on its source alone.

    Parameters
    ----------
    model, mel, instrument, composite
        As for :func:`concept_relevance`.
    width : int, channels per layer

    Returns
    -------
    list of Edge
        From the instrument, as source ``("", index)``, down to the first convolution.
    """
    index = instrument_index(instrument)
    trace = ClipTrace(model, np.asarray(mel)[None], composite)
    rows = trace.init_relevance([index])
    logit = float(rows.sum())
    edges, nodes, start_layer = [], [("", index)], None
    for layer in reversed(convolutions(model)):
        maps = trace.backward(rows, start_layer=start_layer, stop_layer=layer)  # (nodes, channels, h, w)
        flows = maps.sum((2, 3)) / logit  # (nodes, channels)
        chosen = flows.sum(0).abs().argsort(descending=True)[:width].tolist()
        edges += [Edge(node, (layer, c), float(flows[n, c])) for n, node in enumerate(nodes) for c in chosen]
        together = maps.sum(0)
        rows = together.new_zeros(len(chosen), *together.shape)
        for row, channel in enumerate(chosen):
            rows[row, channel] = together[channel]
        nodes, start_layer = [(layer, c) for c in chosen], layer
    return edges


def ablate_channels(model: nn.Module, layer: str, channels: Sequence[int]) -> nn.Module:
    """A copy of a network in which some channels of a convolution are set to zero.

    Raises
    ------
    InputError
        If the layer or a channel does not exist, or the layer is not followed by batch normalisation.
    """
    channels = check_channels(model, layer, channels)
    model = copy.deepcopy(model)
    names = [name for name, _ in model.layers.named_children()]
    norm = model.layers[names.index(layer) + 1] if names.index(layer) + 1 < len(names) else None
    if not isinstance(norm, nn.BatchNorm2d):
        raise InputError(f"{layer} is not followed by batch normalisation: its channels cannot be ablated")
    with torch.no_grad():
        norm.weight[channels] = norm.bias[channels] = 0
    return model
