"""Train a network so that its relevance for an instrument lies on the instrument's own cells.

Ross, Hughes & Doshi-Velez 2017 (arXiv:1703.03717, "right for the right reasons") penalise gradients outside a mask
drawn by annotators. Here the stems give an exact mask of every clip, and the penalty is on the relevance computed by
:mod:`instr_lib.explain.lrp`, which consists of differentiable operations. Chapter 7 fine-tunes *compact-prior* with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import softplus

from ..constants import N_FRAMES
from ..data.dataset import ClipDataset
from . import lrp


@dataclass(frozen=True)
class AttributionPrior:
    """A penalty for :func:`instr_lib.train` on positive relevance that is not on the instrument's own cells.

    For each clip with several instruments, one of them is drawn at random. With m the share of its positive relevance on
    its own cells, and o the largest share on the cells of any other instrument, the penalty is

    .. math:: -\\log m + \\tfrac12 \\operatorname{softplus}(4 \\log (o / m))

    Parameters
    ----------
    source_map : uint8 (n, 128, 431)
        The dominant source of each cell of each clip of the dataset, 0 for none, else instrument index + 1, as from
        :func:`instr_lib.truth.source_maps.dominant_source_map`.
    weight : float, of the penalty relative to the cross-entropy
    composite : as for :func:`instr_lib.relevance`
    """

    source_map: np.ndarray = field(repr=False)
    weight: float = 0.5
    composite: str = "epsilon_plus_alpha2_beta1"

    def __call__(self, model: torch.nn.Module, ds: ClipDataset, clips: Sequence[int], mels: torch.Tensor) -> torch.Tensor:
        """The penalty, summed over ``clips`` of ``ds``; ``mels`` are their spectrograms, dB (n, 1, 128, 431)."""
        several = np.flatnonzero(ds.labels[clips].sum(1) > 1)
        if not len(several):
            return mels.new_zeros(())
        rng = np.random.default_rng(torch.randint(2**31, ()).item())  # from torch's generator, which training seeds
        targets = [int(rng.choice(np.flatnonzero(ds.labels[clips[n]]))) for n in several]
        # Rows are clips with several instruments, of which targets[row] is asked about.
        trace = lrp.Trace(model.layers, model.preprocess(mels[several]), self.composite, gradients=True)
        start = torch.zeros_like(trace.logits)
        start[torch.arange(len(several)), targets] = 1
        heat = trace.backward(start, range(len(several))).sum(1).clamp(min=0)  # (several, 128, 431)
        share = heat / heat.sum((1, 2), keepdim=True).clamp(min=1e-9)
        # If preprocessing merged frames into one column, the middle frame decides whose it is.
        frames = ((np.arange(heat.shape[2]) + 0.5) * N_FRAMES / heat.shape[2]).astype(int)
        source = torch.from_numpy(np.stack([self.source_map[clips[n]][:, frames] for n in several])).long()
        mass = share.new_zeros(len(several), len(ds.labels[0]) + 1)
        mass = mass.scatter_add(1, source.flatten(1).to(share.device), share.flatten(1)).clamp(min=1e-3)[:, 1:]
        own = mass[torch.arange(len(several)), targets]
        others = mass.masked_fill(torch.nn.functional.one_hot(torch.tensor(targets), mass.shape[1]).bool(), 0).amax(1)
        penalty = -own.log() + 0.5 * softplus(4 * (others.clamp(min=1e-3).log() - own.log()))
        return self.weight * penalty.sum()
