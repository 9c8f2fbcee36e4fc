"""Train a network so that what it finds relevant for an instrument lies on the instrument's own cells.

Ross, Hughes & Doshi-Velez 2017 (arXiv:1703.03717) penalise gradients outside a mask that people drew. Here the stems draw
it, for every clip and without mistakes, and what is penalised is the relevance of :mod:`instr_lib.lrp` itself, which is
made of operations that can be differentiated. Chapter 7 grades what comes of it.
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
    """A penalty for :func:`instr_lib.train`: how far relevance is from lying on own cells.

    For each clip in which several play, one of them is drawn. With m the share of its positive relevance that lies on its
    own cells, and o the largest share on any other player's, the penalty is

    .. math:: -\\log m + \\tfrac12 \\operatorname{softplus}(4 \\log (o / m))

    Parameters
    ----------
    owners : uint8 (n, 128, 431), as from :func:`owners`
    weight : float, of the penalty against the cross-entropy
    composite : of :func:`instr_lib.relevance`
    """

    owners: np.ndarray = field(repr=False)
    weight: float = 0.5
    composite: str = "epsilon_plus_alpha2_beta1"

    def __call__(self, model: torch.nn.Module, ds: ClipDataset, clips: Sequence[int], mels: torch.Tensor) -> torch.Tensor:
        """Summed over clips. ``mels`` are theirs, dB (n, 1, 128, 431)."""
        several = np.flatnonzero(ds.labels[clips].sum(1) > 1)
        if not len(several):
            return mels.new_zeros(())
        rng = np.random.default_rng(torch.randint(2**31, ()).item())  # of the chance that training controls
        targets = [int(rng.choice(np.flatnonzero(ds.labels[clips[n]]))) for n in several]
        trace = lrp.Trace(model.layers, model.preprocess(mels[several]), self.composite, gradients=True)
        start = torch.zeros_like(trace.logits)
        start[torch.arange(len(several)), targets] = 1
        heat = trace.backward(start, range(len(several))).sum(1).clamp(min=0)  # (several, 128, 431)
        share = heat / heat.sum((1, 2), keepdim=True).clamp(min=1e-9)
        # A front may have made one column of several frames: the one in its middle says whose it is.
        frames = ((np.arange(heat.shape[2]) + 0.5) * N_FRAMES / heat.shape[2]).astype(int)
        owner = torch.from_numpy(np.stack([self.owners[clips[n]][:, frames] for n in several])).long()
        mass = share.new_zeros(len(several), len(ds.labels[0]) + 1)
        mass = mass.scatter_add(1, owner.flatten(1).to(share.device), share.flatten(1)).clamp(min=1e-3)[:, 1:]
        own = mass[torch.arange(len(several)), targets]
        others = mass.masked_fill(torch.nn.functional.one_hot(torch.tensor(targets), mass.shape[1]).bool(), 0).amax(1)
        penalty = -own.log() + 0.5 * softplus(4 * (others.clamp(min=1e-3).log() - own.log()))
        return self.weight * penalty.sum()
