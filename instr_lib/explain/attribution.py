"""Which cells of the spectrogram speak for an instrument.

Concept Relevance Propagation (Achtibat et al. 2023, doi:10.1038/s42256-023-00711-8) conditions
layer-wise relevance propagation (Bach et al. 2015, doi:10.1371/journal.pone.0130140) on outputs and
hidden channels. Conditioned on an output alone, as here and in the original report, it asks which
cells led the network to predict *this instrument*. Relevance starts as the instrument's logit, so it is
positive where a cell speaks for the instrument and negative where it speaks against it. Biases absorb
some of it, so compare shares rather than sums.

The rules are zennit's, and zennit-crp can compute all of it. :mod:`instr_lib.explain.lrp` is a faster
implementation of the same rules for plain sequences of layers, such as the networks of this library.
Chapter 5 uses :func:`relevance`; chapters 6 and 7 and appendix B use :class:`ClipTrace`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import numpy as np
import torch
from crp.attribution import CondAttribution
from torch.nn import functional as F
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import LAYER_MAP_BASE, EpsilonAlpha2Beta1, EpsilonPlus, EpsilonPlusFlat, LayerMapComposite
from zennit.core import Composite
from zennit.rules import AlphaBeta, Epsilon, Gamma, ZPlus
from zennit.types import Convolution

from ..data.spectrogram import check_mels
from ..errors import InputError
from ..music.instruments import instrument_index
from ..networks.models import Preprocess
from . import lrp

# With epsilon_plus silent cells (input 0) get exactly 0, by the z+ rule in every convolution. The original report's
# epsilon_plus_flat is the same, but the first convolution spreads relevance evenly over its 3 x 3 field.
COMPOSITES = tuple(lrp.COMPOSITES)


def _epsilon_plus_alpha2_beta1(**options) -> Composite:
    """ZPlus in the first two convolutions, AlphaBeta(2, 1) in the others, Epsilon in linear layers."""

    def rule(context, name, module):
        if isinstance(module, Convolution):
            context["convolutions"] = context.get("convolutions", 0) + 1
            return ZPlus() if context["convolutions"] <= 2 else AlphaBeta(2, 1)
        if isinstance(module, torch.nn.Linear):
            return Epsilon()
        return next((hook for kinds, hook in LAYER_MAP_BASE if isinstance(module, kinds)), None)

    return Composite(module_map=rule, **options)


_ZENNIT = {
    "epsilon_plus": EpsilonPlus,
    "epsilon_plus_flat": EpsilonPlusFlat,
    "epsilon_alpha2_beta1": EpsilonAlpha2Beta1,
    "gamma": lambda **options: LayerMapComposite(
        [*LAYER_MAP_BASE, (Convolution, Gamma(0.25)), (torch.nn.Linear, Gamma(0.25))], **options
    ),
    "epsilon_plus_alpha2_beta1": _epsilon_plus_alpha2_beta1,
}


def relevance(
    model: torch.nn.Module,
    mels: np.ndarray,
    classes: Sequence[int | str],
    composite: str | lrp.Composite = "epsilon_plus",
    batch_size: int = 12,
    engine: str = "auto",
) -> np.ndarray:
    """Class-conditional relevance of each cell.

    Parameters
    ----------
    model : OriginalCNN, CompactCNN, or any module that takes (n, 1, 128, 431)
        It is left unchanged, also if this fails.
    mels : float32 (n, 128, 431)
        dB on the fixed scale.
    classes : n instrument indices or names
        One per spectrogram. For a single spectrogram there may be several: they are explained together.
    composite : str or lrp.Composite
        Rules that distribute relevance, layer by layer: a name in ``COMPOSITES``, or, for networks that the fast
        engine knows, one of your own, such as ``Composite(("z+", "z+", "gamma"))``.
    batch_size : int
    engine : {"auto", "fast", "zennit"}
        ``"zennit"`` is zennit-crp, for any network. ``"fast"`` is :mod:`instr_lib.explain.lrp`, an optimisation of the
        same rules for sequences of layers that it knows. ``"auto"`` is the fast one where possible, else zennit.

    Returns
    -------
    float32 (n, 128, 431), signed

    Raises
    ------
    InputError
        If shapes do not match, the composite or engine does not exist, or the fast engine does not know a layer.
    InstrumentError
        If a class does not exist.
    """
    mels = check_mels(mels)
    classes = [instrument_index(c) for c in ([classes] if isinstance(classes, (str, int, np.integer)) else classes)]
    one_clip = len(mels) == 1
    if len(classes) != len(mels) and not (one_clip and classes):
        raise InputError(f"{len(mels)} spectrograms need {len(mels)} classes, not {len(classes)}")
    _check_composite(composite)
    if engine not in ("auto", "fast", "zennit"):
        raise InputError(f"engine must be 'auto', 'fast' or 'zennit', not {engine!r}")
    parts = [slice(start, start + batch_size) for start in range(0, len(classes), batch_size)]
    heatmaps = [_heatmaps(model, mels if one_clip else mels[p], classes[p], composite, engine) for p in parts]
    return np.concatenate([np.empty((0, *mels.shape[1:]), np.float32), *heatmaps])


def _heatmaps(model, mels: np.ndarray, classes: list[int], composite: str | lrp.Composite, engine: str) -> np.ndarray:
    """:func:`relevance` of one batch."""
    layers, (unit, x) = getattr(model, "layers", model), _network_input(model, mels)
    if engine == "zennit" or (engine == "auto" and not (lrp.can_trace(layers) and (x >= 0).all())):
        return _to_cells(model, unit, _by_zennit(layers, x, classes, composite))
    lrp.check_traceable(layers, x)
    trace = lrp.Trace(layers, x, composite)
    _check_outputs(classes, trace.logits)
    clips = None if len(x) == 1 else range(len(x))
    return _to_cells(model, unit, trace.backward(trace.init_relevance(classes, clips), clips))


class ClipTrace(lrp.Trace):
    """One forward pass for some clips, given as spectrograms, and any number of backward passes to their cells.

    Parameters
    ----------
    model : OriginalCNN, CompactCNN or another whose layers :func:`instr_lib.explain.lrp.can_trace`
    mels : float32 (clips, 128, 431), dB
    composite : str or lrp.Composite, as for :func:`relevance`

    Raises
    ------
    InputError
        If the network has layers that are not known, or spectrograms or composite are not valid.
    """

    def __init__(self, model: torch.nn.Module, mels: np.ndarray, composite: str | lrp.Composite = "epsilon_plus"):
        mels = check_mels(mels)
        _check_composite(composite)
        layers = getattr(model, "layers", model)
        self._model, (self._unit, x) = model, _network_input(model, mels)
        lrp.check_traceable(layers, x)
        super().__init__(layers, x, composite)

    def cells(self, relevance: torch.Tensor, clips: Sequence[int] | None = None) -> np.ndarray:
        """Relevance at the network's input, from :meth:`backward`, as float32 (rows, 128, 431)."""
        return _to_cells(self._model, self._unit if clips is None else self._unit[clips], relevance)


def _check_composite(composite: str | lrp.Composite):
    if not isinstance(composite, lrp.Composite) and composite not in COMPOSITES:
        raise InputError(f"composite must be one of {', '.join(COMPOSITES)}, or an lrp.Composite, not {composite!r}")


def _network_input(model: torch.nn.Module, mels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mel cells as the network gets them, (n, 1, 128, 431), and the input of its layers, (n, channels, h, w)."""
    preprocess, weight = getattr(model, "preprocess", None), next(model.parameters())
    unit = torch.tensor(mels, dtype=weight.dtype, device=weight.device)[:, None]
    unit = preprocess.normalise(unit) if preprocess else unit
    x = preprocess.resize(unit) if preprocess else unit
    return unit, x.contiguous(memory_format=torch.channels_last)  # twice as fast


def _to_cells(model: torch.nn.Module, unit: torch.Tensor, relevance: torch.Tensor) -> np.ndarray:
    """Relevance of the layers' input (n, channels, h, w) to that of mel cells (n, 128, 431)."""
    heat, preprocess = relevance.sum(1, keepdim=True), getattr(model, "preprocess", None)
    if isinstance(preprocess, Preprocess) and preprocess.size is not None:
        heat = _undo_resize(preprocess, unit, heat)
    return heat[:, 0].float().cpu().numpy()


def _by_zennit(
    layers: torch.nn.Module, x: torch.Tensor, classes: list[int], composite: str | lrp.Composite
) -> torch.Tensor:
    """Relevance of the layers' input by zennit-crp, for any network."""
    if isinstance(composite, lrp.Composite):
        raise InputError(f"this network is explained by zennit: composite must be one of {', '.join(COMPOSITES)}")
    # zennit merges BatchNorm into the convolutions and registers hooks on every layer, and crp leaves some there
    # if anything fails in between, so they work on a copy.
    layers = copy.deepcopy(layers).eval().requires_grad_(False)
    for norm in layers.modules():
        if isinstance(norm, torch.nn.BatchNorm2d) and norm.track_running_stats:
            # The same function; what zennit leaves after merging would still divide by √(1 + eps).
            norm.running_var, norm.eps = norm.running_var + norm.eps, 0.0
    with torch.no_grad():
        _check_outputs(classes, layers(x[:1]))
    x = x.expand(len(classes), -1, -1, -1).clone().requires_grad_()
    conditions = [{"y": [c]} for c in classes]
    rules = _ZENNIT[composite](canonizers=[SequentialMergeBatchNorm()])
    with torch.enable_grad():
        CondAttribution(layers)(x, conditions, rules, exclude_parallel=False)
    return x.grad


def _check_outputs(classes: list[int], logits: torch.Tensor):
    if max(classes) >= logits.shape[1]:
        raise InputError(f"class {max(classes)} does not exist: the network has {logits.shape[1]} outputs")


def _undo_resize(preprocess: Preprocess, unit: torch.Tensor, heat: torch.Tensor) -> torch.Tensor:
    """Relevance of the resized spectrogram (n, 1, *size) to that of the mel cells (n, 1, 128, 431).

    Resizing is linear, with weights that are not negative and without bias, so each pixel's relevance
    is distributed to its cells in proportion to their contributions (LRP-0), and the sum is preserved. A
    pixel of pure silence, which gets relevance only by the flat rule, is distributed by the weights alone.
    """
    rows, columns = (
        _resize_weights(cells, pixels).to(unit) for cells, pixels in zip(unit.shape[2:], preprocess.size, strict=True)
    )
    pixels = rows @ unit @ columns.T
    sounds = pixels > 0
    by_input = rows.T @ torch.where(sounds, heat / pixels.clamp_min(1e-12), 0) @ columns
    by_weight = rows.T @ torch.where(sounds, 0, heat) @ columns
    return unit * by_input + by_weight


@functools.cache
def _resize_weights(cells: int, pixels: int) -> torch.Tensor:
    """Along one axis, the weight of each cell in each pixel (pixels, cells)."""
    identity = torch.eye(cells, dtype=torch.float64)[None]
    return F.interpolate(identity, pixels, mode="linear", align_corners=False)[0].T.contiguous()
