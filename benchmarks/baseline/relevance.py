"""Relevance of all 12 classes of a clip as the original's notebook computes it: what `il.relevance` is compared with.

One class after another, each twice, as its loop did: once with one mask for all layers and once with a mask for each, which
for heatmaps of a class comes to the same. Left out, in its favour: the figures.
"""

import torch
from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.helper import get_layer_names
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat


def relevance(model, picture, instruments=range(12), times=2):
    """Heatmaps (12, 400, 400) of one picture (3, 400, 400) by a network in eval mode."""
    concept = ChannelConcept()
    composite = EpsilonPlusFlat([SequentialMergeBatchNorm()])
    attribution = CondAttribution(model, no_param_grad=True)
    masks = [concept.mask, {name: concept.mask for name in get_layer_names(model, [torch.nn.Conv2d, torch.nn.Linear])}]
    sample = picture.detach().requires_grad_().unsqueeze(0)
    heatmaps = []
    for instrument in instruments:
        for mask_map in masks[:times]:
            result = attribution(sample, [{"y": [instrument]}], composite, mask_map=mask_map)
        heatmaps.append(result.heatmap[0])
    return torch.stack(heatmaps)
