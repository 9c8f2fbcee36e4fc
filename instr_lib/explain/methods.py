"""Attribution methods with one signature, for comparison.

Each is a function of (model, mels (n, 128, 431) in dB, classes (n,) as indices) that returns heatmaps (n, 128, 431). All
work on the cells of the spectrogram as the network gets them, from 0 for silence to 1, before they are resized. Captum
computes the methods that it has. Chapter 7 grades all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from captum import attr
from torch import nn

from ..constants import FLOOR_DB
from ..music.instruments import INSTRUMENTS
from . import lrp
from .attribution import relevance
from .removal import note_removal

SMOOTH_GRAD_SAMPLES = 10
SMOOTH_GRAD_NOISE = 0.1  # standard deviation, in cells from 0 to 1
INTEGRATION_STEPS = 16  # of integrated gradients, by Gauss-Legendre quadrature
OCCLUSION_PATCH = (16, 86)  # bands and frames, about a second; patches do not overlap


class CaptumModel(nn.Module):
    """A copy of a network as Captum needs it: a function of its cells, 0 … 1 (n, 1, 128, 431), that gives logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.preprocess, layers = copy.deepcopy(model.preprocess), copy.deepcopy(model.layers).eval().requires_grad_(False)
        # With channels last, gradients of OriginalCNN take half the time on a CPU, logits a third.
        self.layers = layers.to(memory_format=torch.channels_last)

    def forward(self, unit: torch.Tensor) -> torch.Tensor:
        return self.layers(self.preprocess.resize(unit).contiguous(memory_format=torch.channels_last))

    def cells(self, mels: np.ndarray) -> torch.Tensor:
        """dB (n, 128, 431) to cells (n, 1, 128, 431)."""
        return self.preprocess.normalise(torch.tensor(np.asarray(mels, np.float32))[:, None])


def from_captum(make: Callable, **options) -> Callable:
    """A method from one of Captum's.

    Parameters
    ----------
    make : a class such as ``captum.attr.Saliency``, or a function, of a :class:`CaptumModel`
    **options
        Arguments of its ``attribute``.
    """

    def method(model: nn.Module, mels: np.ndarray, classes: np.ndarray) -> np.ndarray:
        network = CaptumModel(model)
        target = torch.as_tensor(np.asarray(classes, int))
        heatmaps = make(network).attribute(network.cells(mels).requires_grad_(), target=target, **options)
        return heatmaps.detach()[:, 0].float().numpy()

    return method


def smooth_grad(model: nn.Module, mels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Mean absolute gradient under noise (Smilkov et al. 2017, arXiv:1706.03825); the same noise in every call."""
    noise = {"nt_samples": SMOOTH_GRAD_SAMPLES, "stdevs": SMOOTH_GRAD_NOISE}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return from_captum(lambda network: attr.NoiseTunnel(attr.Saliency(network)), **noise)(model, mels, classes)


def grad_cam(model: nn.Module, mels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Grad-CAM at the last convolution (Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74), resized to the cells."""
    network = CaptumModel(model)
    last = [layer for layer in network.layers if isinstance(layer, nn.Conv2d)][-1]
    target = torch.as_tensor(np.asarray(classes, int))
    maps = attr.LayerGradCam(network, last).attribute(network.cells(mels), target=target)
    return attr.LayerAttribution.interpolate(maps, mels.shape[1:], "bilinear").detach()[:, 0].float().numpy()


def occlusion(model: nn.Module, mels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Drop of the logit when a patch of cells is silenced (Zeiler & Fergus 2014, doi:10.1007/978-3-319-10590-1_53)."""
    patch = {"sliding_window_shapes": (1, *OCCLUSION_PATCH), "strides": (1, *OCCLUSION_PATCH)}
    return from_captum(attr.Occlusion, **patch, perturbations_per_eval=4)(model, mels, classes)


def crp(composite: str | lrp.Composite) -> Callable:
    """Concept Relevance Propagation, conditioned on the instrument, with a composite of :func:`instr_lib.relevance`."""
    return lambda model, mels, classes: relevance(model, mels, classes, composite)


def contrastive(composite: str) -> Callable:
    """CRP minus the largest relevance of any other instrument in the same cell: why this one *rather than* another?

    .. math:: h_c = R_c - \\max_{k \\ne c} \\max(R_k, 0)

    Contrastive LRP (Gu, Yang & Tresp 2018, arXiv:1812.02100) subtracts the sum of the others instead.
    """

    def method(model: nn.Module, mels: np.ndarray, classes: np.ndarray) -> np.ndarray:
        heatmaps = np.empty(np.shape(mels), np.float32)
        for row, (mel, index) in enumerate(zip(mels, classes, strict=True)):
            all_twelve = relevance(model, mel[None], range(len(INSTRUMENTS)), composite)
            heatmaps[row] = all_twelve[index] - np.delete(all_twelve, index, 0).max(0).clip(min=0)
        return heatmaps

    return method


def energy_baseline(model: nn.Module, mels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The spectrogram itself, in dB above silence, whatever the network and the instrument."""
    return np.asarray(mels) - FLOOR_DB


def uniform_baseline(model: nn.Module, mels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The same value in every cell: what chance gives."""
    return np.ones(np.shape(mels), np.float32)


def on_random_weights(method: Callable) -> Callable:
    """The same method on an untrained network of the same class (Adebayo et al. 2018, arXiv:1810.03292)."""

    def random(model: nn.Module, mels: np.ndarray, classes: np.ndarray) -> np.ndarray:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return method(type(model)().eval(), mels, classes)

    return random


METHODS = {
    "CRP, epsilon plus": crp("epsilon_plus"),
    "CRP, epsilon plus flat": crp("epsilon_plus_flat"),
    "CRP, alpha 2 beta 1": crp("epsilon_alpha2_beta1"),
    "CRP, gamma": crp("gamma"),
    "CRP, plus alpha 2 beta 1": crp("epsilon_plus_alpha2_beta1"),
    "CRP, contrastive": contrastive("epsilon_plus_alpha2_beta1"),
    "gradient": from_captum(attr.Saliency),
    "gradient × input": from_captum(attr.InputXGradient),
    "integrated gradients": from_captum(attr.IntegratedGradients, n_steps=INTEGRATION_STEPS, internal_batch_size=16),
    "SmoothGrad": smooth_grad,
    "Grad-CAM": grad_cam,
    "occlusion": occlusion,
    "note removal": note_removal,
    "energy of the mix": energy_baseline,
    "uniform": uniform_baseline,
    "CRP on random weights": on_random_weights(crp("epsilon_plus")),
}
