"""Which cells of the spectrogram speak for an instrument. The only module that knows zennit and crp.

Concept Relevance Propagation (Achtibat et al. 2023, doi:10.1038/s42256-023-00711-8) conditions
layer-wise relevance propagation (Bach et al. 2015, doi:10.1371/journal.pone.0130140) on outputs and
hidden channels. Conditioned on an output alone, as here and in the original report, it asks: which
cells made the network say *this instrument*? Relevance starts as the instrument's logit, so it is
positive where a cell speaks for the instrument and negative where it speaks against it; biases absorb
some of it, so compare shares rather than sums. Chapter 5 uses all of it.
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

# What is silent (input 0) gets exactly nothing from epsilon_plus, by the z+ rule in every convolution. The report's
# epsilon_plus_flat is the same, but the first convolution spreads relevance evenly over its 3 x 3 field.
COMPOSITES = tuple(lrp.COMPOSITES)


def _epsilon_plus_alpha2_beta1(**options) -> Composite:
    """In zennit's terms: ZPlus in the first two convolutions, AlphaBeta(2, 1) in the others, Epsilon in linear layers."""

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
        Whatever happens, it is left as it was.
    mels : float32 (n, 128, 431)
        dB on the fixed scale.
    classes : n instrument indices or names
        One a spectrogram. With a single spectrogram there may be many: they are explained together.
    composite : str or lrp.Composite
        Rules that distribute relevance, layer by layer: a name in ``COMPOSITES``, or, for networks that the fast engine
        knows, one of your own, such as ``Composite(("z+", "z+", "gamma"))``.
    batch_size : int
    engine : {"auto", "fast", "zennit"}
        ``"fast"`` is :mod:`instr_lib.explain.lrp`, for sequences of layers that it knows; ``"zennit"`` is zennit-crp, for
        any network; ``"auto"`` takes the fast one where it can. They agree to rounding.

    Returns
    -------
    float32 (n, 128, 431), signed

    Raises
    ------
    InputError
        If shapes do not match, the composite or engine does not exist, or the fast engine cannot take this network.
    InstrumentError
        If a class does not exist.
    """
    mels = check_mels(mels)
    classes = [instrument_index(c) for c in ([classes] if isinstance(classes, (str, int, np.integer)) else classes)]
    if len(classes) != len(mels) and not (len(mels) == 1 and classes):
        raise InputError(f"{len(mels)} spectrograms need {len(mels)} classes, not {len(classes)}")
    _check_composite(composite)
    if engine not in ("auto", "fast", "zennit"):
        raise InputError(f"engine must be 'auto', 'fast' or 'zennit', not {engine!r}")
    layers = getattr(model, "layers", model)
    if engine == "fast":
        _check_traceable(layers)
    one_clip, heatmaps = len(mels) == 1, [np.empty((0, *mels.shape[1:]), np.float32)]
    for start in range(0, len(classes), batch_size):
        part = slice(start, start + batch_size)
        unit, x = _input(model, mels if one_clip else mels[part])
        if engine != "zennit" and lrp.can_trace(layers) and (engine == "fast" or (x >= 0).all()):
            trace = lrp.Trace(layers, x, composite)
            _check_outputs(classes[part], trace.logits)
            clips = None if one_clip else range(len(x))
            heat = trace.backward(trace.init_relevance(classes[part], clips), clips)
        else:
            heat = _by_zennit(layers, x, classes[part], composite)
        heatmaps.append(_cells(model, unit, heat))
    return np.concatenate(heatmaps)


class ClipTrace(lrp.Trace):
    """One way through a network for some clips, given as spectrograms, and any number of ways back to their cells.

    Parameters
    ----------
    model : OriginalCNN, CompactCNN or another whose layers :func:`instr_lib.lrp.can_trace`
    mels : float32 (clips, 128, 431), dB
    composite : as for :func:`relevance`

    Raises
    ------
    InputError
        If the network has layers that are not known, or the spectrograms or the composite are not as they should be.
    """

    def __init__(self, model: torch.nn.Module, mels: np.ndarray, composite: str = "epsilon_plus"):
        mels = check_mels(mels)
        _check_composite(composite)
        layers = getattr(model, "layers", model)
        _check_traceable(layers)
        self._model, (self._unit, x) = model, _input(model, mels)
        if (x < 0).any():
            raise InputError(
                "this network's input is negative where it is silent: give it a preprocess module, as OriginalCNN has"
            )
        super().__init__(layers, x, composite)

    def cells(self, relevance: torch.Tensor, clips: Sequence[int] | None = None) -> np.ndarray:
        """Relevance of the network's input, from :meth:`backward`, as float32 (rows, 128, 431)."""
        return _cells(self._model, self._unit if clips is None else self._unit[clips], relevance)


def _check_traceable(layers: torch.nn.Module):
    if not lrp.can_trace(layers):
        kinds = ", ".join(dict.fromkeys(type(layer).__name__ for layer in layers.children())) or type(layers).__name__
        raise InputError(
            f"this network cannot be followed channel by channel: it must be a sequence of Conv2d, BatchNorm2d after a "
            f"Conv2d, MaxPool2d, ReLU and Dropout that ends in Linear, and it has {kinds}"
        )


def _check_composite(composite: str | lrp.Composite):
    if not isinstance(composite, lrp.Composite) and composite not in COMPOSITES:
        raise InputError(f"composite must be one of {', '.join(COMPOSITES)}, or an lrp.Composite, not {composite!r}")


def _input(model: torch.nn.Module, mels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network is given: mel cells (n, 1, 128, 431), and the picture that its layers see (n, channels, h, w)."""
    preprocess, weight = getattr(model, "preprocess", None), next(model.parameters())
    unit = torch.tensor(mels, dtype=weight.dtype, device=weight.device)[:, None]
    unit = preprocess.normalise(unit) if preprocess else unit
    x = preprocess.resize(unit) if preprocess else unit
    return unit, x.contiguous(memory_format=torch.channels_last)  # in half the time


def _cells(model: torch.nn.Module, unit: torch.Tensor, relevance: torch.Tensor) -> np.ndarray:
    """Relevance of a picture (n, channels, h, w) to that of mel cells (n, 128, 431)."""
    heat, preprocess = relevance.sum(1, keepdim=True), getattr(model, "preprocess", None)
    if isinstance(preprocess, Preprocess) and preprocess.size is not None:
        heat = _back_to_cells(preprocess, unit, heat)
    return heat[:, 0].float().cpu().numpy()


def _by_zennit(layers: torch.nn.Module, x: torch.Tensor, classes: list[int], composite: str) -> torch.Tensor:
    """For networks with layers that :mod:`instr_lib.lrp` does not know."""
    # zennit merges BatchNorm into the convolutions and hangs hooks on every layer, and crp leaves some there
    # if anything fails in between: it does all that to a copy.
    layers = copy.deepcopy(layers).eval().requires_grad_(False)
    with torch.no_grad():
        _check_outputs(classes, layers(x[:1]))
    x = x.expand(len(classes), -1, -1, -1).clone().requires_grad_()
    conditions = [{"y": [c]} for c in classes]
    if isinstance(composite, lrp.Composite):
        raise InputError(f"this network is explained by zennit: composite must be one of {', '.join(COMPOSITES)}")
    rules = _ZENNIT[composite](canonizers=[SequentialMergeBatchNorm()])
    with torch.enable_grad():
        CondAttribution(layers)(x, conditions, rules, exclude_parallel=False)
    return x.grad


def _check_outputs(classes: list[int], logits: torch.Tensor):
    if max(classes) >= logits.shape[1]:
        raise InputError(f"class {max(classes)} does not exist: the network has {logits.shape[1]} outputs")


def _back_to_cells(preprocess: Preprocess, unit: torch.Tensor, heat: torch.Tensor) -> torch.Tensor:
    """Relevance of the enlarged picture (n, 1, 400, 400) to that of the mel cells (n, 1, 128, 431).

    Enlarging is linear with weights that are not negative and has no bias, so each pixel's relevance
    is shared among its cells in proportion to what they put into it (LRP-0), and the sum is kept. A
    pixel of pure silence, which only the flat rule gives relevance, is shared by the weights alone.
    """
    rows, columns = (
        _enlarging(cells, pixels).to(unit) for cells, pixels in zip(unit.shape[2:], preprocess.size, strict=True)
    )
    pixels = rows @ unit @ columns.T
    sounds = pixels > 0
    by_input = rows.T @ torch.where(sounds, heat / pixels.clamp_min(1e-12), 0) @ columns
    by_weight = rows.T @ torch.where(sounds, 0, heat) @ columns
    return unit * by_input + by_weight


@functools.cache
def _enlarging(cells: int, pixels: int) -> torch.Tensor:
    """Along one axis, what each cell puts into each pixel (pixels, cells)."""
    identity = torch.eye(cells, dtype=torch.float64)[None]
    return F.interpolate(identity, pixels, mode="linear", align_corners=False)[0].T.contiguous()
