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
from collections.abc import Sequence

import numpy as np
import torch
from crp.attribution import CondAttribution
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlus, EpsilonPlusFlat

from .errors import InputError
from .instruments import instrument_index
from .memory import keep_freed_memory
from .models import Front
from .spectrogram import check_mels

COMPOSITES = {
    # z+ rule in every convolution: a silent cell (input 0) gets exactly nothing.
    "epsilon_plus": EpsilonPlus,
    # The report's: as above, but the first convolution spreads relevance evenly over its 3 x 3 field,
    # silent cells included.
    "epsilon_plus_flat": EpsilonPlusFlat,
}


def relevance(
    model: torch.nn.Module,
    mels: np.ndarray,
    classes: Sequence[int | str],
    composite: str = "epsilon_plus",
    batch_size: int = 12,
) -> np.ndarray:
    """Class-conditional relevance of each cell.

    Parameters
    ----------
    model : OriginalCNN, CompactCNN, or any module that takes (n, 1, 128, 431)
        It is copied, so whatever happens it is left as it was.
    mels : float32 (n, 128, 431)
        dB on the fixed scale.
    classes : n instrument indices or names
        One a spectrogram. With a single spectrogram there may be many: they are explained together.
    composite : {"epsilon_plus", "epsilon_plus_flat"}
        Rules for sharing out relevance, layer by layer.
    batch_size : int

    Returns
    -------
    float32 (n, 128, 431), signed

    Raises
    ------
    InputError
        If shapes do not match, or the composite does not exist.
    InstrumentError
        If a class does not exist.
    """
    mels = check_mels(mels)
    classes = [instrument_index(c) for c in ([classes] if isinstance(classes, (str, int, np.integer)) else classes)]
    if len(mels) == 1 and len(classes) > 1:
        mels = np.broadcast_to(mels, (len(classes), *mels.shape[1:]))
    if len(classes) != len(mels):
        raise InputError(f"{len(mels)} spectrograms need {len(mels)} classes, not {len(classes)}")
    if composite not in COMPOSITES:
        raise InputError(f"composite must be one of {', '.join(COMPOSITES)}, not {composite!r}")
    keep_freed_memory()
    # zennit merges BatchNorm into the convolutions and hangs hooks on every layer, and crp leaves some
    # there if anything fails in between: it does all that to a copy.
    model = (
        copy.deepcopy(model).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    )  # pools in half the time
    front, layers = getattr(model, "front", None), getattr(model, "layers", model)
    device = next(model.parameters()).device
    if len(mels):
        with torch.no_grad():
            outputs = model(torch.tensor(mels[:1], device=device)[:, None]).shape[1]
        if max(classes) >= outputs:
            raise InputError(f"class {max(classes)} does not exist: the network has {outputs} outputs")
    attribution = CondAttribution(layers)
    heats = [np.empty((0, *mels.shape[1:]), np.float32)]
    for start in range(0, len(mels), batch_size):
        part = slice(start, start + batch_size)
        unit = torch.tensor(mels[part], device=device)[:, None]  # (batch, 1, 128, 431)
        unit = front.unit(unit) if front else unit
        x = (front.enlarge(unit) if front else unit).contiguous().requires_grad_()
        conditions = [{"y": [c]} for c in classes[part]]
        rules = COMPOSITES[composite](canonizers=[SequentialMergeBatchNorm()])
        with torch.enable_grad():
            heat = attribution(x, conditions, rules, exclude_parallel=False).heatmap  # summed over channels
        if isinstance(front, Front) and front.size is not None:
            heat = _back_to_cells(front, unit, heat[:, None])[:, 0]
        heats.append(heat.detach().cpu().numpy().reshape(-1, *mels.shape[1:]))
    return np.concatenate(heats)


def _back_to_cells(front: Front, unit: torch.Tensor, heat: torch.Tensor) -> torch.Tensor:
    """Relevance of the enlarged picture (n, 1, 400, 400) to that of the mel cells (n, 1, 128, 431).

    Enlarging is linear with weights that are not negative and has no bias, so each pixel's relevance
    is shared among its cells in proportion to what they put into it (LRP-0), and the sum is kept. A
    pixel of pure silence, which only the flat rule gives relevance, is shared by the weights alone.
    """
    with torch.enable_grad():
        unit = unit.detach().requires_grad_()
        pixels = front.enlarge(unit)[:, :1]
        sounds = pixels > 0
        share = torch.where(sounds, heat / pixels.clamp_min(1e-12), 0).detach()
        (by_input,) = torch.autograd.grad(pixels, unit, share, retain_graph=True)
        (by_weight,) = torch.autograd.grad(pixels, unit, torch.where(sounds, 0, heat))
    return unit.detach() * by_input + by_weight
