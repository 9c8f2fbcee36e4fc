"""Attribution methods: each against a small, independent computation in NumPy, without autograd or Captum."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import instr_lib as il
from instr_lib.explain import methods
from instr_lib.networks.models import Preprocess

MELS = np.random.default_rng(0).uniform(-70, -10, (2, 128, 431)).astype(np.float32)


@pytest.fixture(scope="module")
def network(random_network):
    return random_network(il.CompactCNN)


@pytest.mark.parametrize("name", [name for name in methods.METHODS if name != "occlusion"])
def test_every_method_gives_heatmaps_and_leaves_the_network_unchanged(name, network):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    heatmaps = np.asarray(methods.METHODS[name](network, MELS, np.array([3, 7])))
    assert heatmaps.shape == MELS.shape and np.isfinite(heatmaps).all() and heatmaps.any()
    again = np.asarray(methods.METHODS[name](network, MELS, np.array([3, 7])))
    assert np.allclose(heatmaps, again, rtol=1e-4, atol=1e-4 * np.abs(heatmaps).max())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.requires_grad for p in network.parameters())


def test_gradients_are_those_of_the_logit_by_the_cells(network):
    cells = network.preprocess.normalise(torch.from_numpy(MELS)[:, None]).requires_grad_()
    network.layers(network.preprocess.resize(cells))[[0, 1], [3, 7]].sum().backward()
    gradient = cells.grad[:, 0].numpy()
    arguments = network, MELS, np.array([3, 7])
    assert np.allclose(methods.METHODS["gradient"](*arguments), np.abs(gradient), atol=1e-6)
    by_input = gradient * cells.detach()[:, 0].numpy()
    assert np.allclose(methods.METHODS["gradient × input"](*arguments), by_input, atol=1e-6)


def test_random_weights_are_the_same_every_time_and_not_the_networks(network):
    arguments = network, MELS, np.array([3, 7])
    random = methods.METHODS["CRP on random weights"](*arguments)
    assert not np.allclose(random, methods.METHODS["CRP, epsilon plus"](*arguments))


def test_baselines_do_not_depend_on_network_or_class(network):
    for name, expected in (("energy of the mix", MELS + 80), ("uniform", np.ones_like(MELS))):
        assert np.allclose(methods.METHODS[name](network, MELS, np.array([3, 7])), expected)
        assert np.allclose(methods.METHODS[name](None, MELS, None), expected)


# A network small enough for loops, on 8 bands × 10 frames: two convolutions of 3 × 3, each with ReLU, then a linear layer.
# Its weights are multiples of 1/4 that depend on their position alone.

SHAPE = (8, 10)
INNER = (SHAPE[0] - 4, SHAPE[1] - 4)  # after two convolutions without padding
CLIPS = np.random.default_rng(1).uniform(-75, -5, (2, *SHAPE)).astype(np.float32)
CELLS = (CLIPS.astype(float) + 80) / 80
CLASSES = np.array([2, 0])


def pattern(*shape: int) -> np.ndarray:
    """Weights from -1.25 to 1.25 in steps of a quarter, different in each row."""
    n = np.arange(np.prod(shape))
    return ((3 * n**2 + 5 * n) % 11 - 5).reshape(shape) / 4


WEIGHTS = pattern(2, 1, 3, 3), pattern(3, 2, 3, 3), pattern(3, 3 * INNER[0] * INNER[1])
BIASES = np.array([0.25, -0.5]), np.array([0.5, -0.25, 0.0]), np.array([0.1, 0.2, -0.3])


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.preprocess = Preprocess()
        layers = (
            nn.Conv2d(1, 2, 3),
            nn.ReLU(),
            nn.Conv2d(2, 3, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(WEIGHTS[2].shape[1], 3),
        )
        for layer, weight, bias in zip((layers[0], layers[2], layers[5]), WEIGHTS, BIASES, strict=True):
            layer.weight.data, layer.bias.data = torch.tensor(weight).float(), torch.tensor(bias).float()
        self.layers = nn.Sequential(*layers)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        return self.layers(self.preprocess(mels))


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    out = np.zeros((len(weight), x.shape[1] - 2, x.shape[2] - 2))
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            out[:, row, column] = (weight * x[:, row : row + 3, column : column + 3]).sum((1, 2, 3)) + bias
    return out


def through(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells (8, 10) to the outputs of both convolutions, before ReLU, and the logits."""
    first = convolve(cells[None], WEIGHTS[0], BIASES[0])
    second = convolve(first.clip(min=0), WEIGHTS[1], BIASES[1])
    return first, second, WEIGHTS[2] @ second.clip(min=0).ravel() + BIASES[2]


def back(gradient: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The gradient of a convolution's input from that of its output."""
    out = np.zeros((weight.shape[1], gradient.shape[1] + 2, gradient.shape[2] + 2))
    for row in range(gradient.shape[1]):
        for column in range(gradient.shape[2]):
            out[:, row : row + 3, column : column + 3] += np.einsum("k,kcij->cij", gradient[:, row, column], weight)
    return out


def gradients(cells: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Of a logit: by the cells (8, 10), and by the output of the last convolution (3, 4, 6)."""
    first, second, _ = through(cells)
    by_second = WEIGHTS[2][target].reshape(second.shape) * (second > 0)
    return back(back(by_second, WEIGHTS[1]) * (first > 0), WEIGHTS[0])[0], by_second


def expect(method: Callable, slow: Callable, tolerance: float = 1e-4):
    """That a method gives ``slow(cells, target)`` for both clips, and not for another class."""
    heatmaps = method(Tiny(), CLIPS, CLASSES)
    assert heatmaps.shape == CLIPS.shape
    for heatmap, x, target in zip(heatmaps, CELLS, CLASSES, strict=True):
        expected = slow(x, target)
        assert np.abs(expected).max() > 0
        assert np.abs(heatmap - expected).max() < tolerance * np.abs(expected).max()
        assert np.abs(heatmap - slow(x, 1)).max() > 0.05 * np.abs(expected).max()


def test_the_slow_network_is_the_tiny_one():
    with torch.no_grad():
        logits = Tiny()(torch.from_numpy(CLIPS)[:, None]).numpy()
    assert np.allclose(logits, [through(cells)[2] for cells in CELLS], atol=1e-4)


def test_slow_gradients_are_small_differences():
    """So what the other tests compare with is right by itself."""
    cells, step = CELLS[0], 1e-6
    gradient = gradients(cells, 2)[0]
    for band, frame in ((0, 0), (3, 4), (7, 9), (5, 2)):
        up, down = cells.copy(), cells.copy()
        up[band, frame] += step
        down[band, frame] -= step
        assert gradient[band, frame] == pytest.approx((through(up)[2][2] - through(down)[2][2]) / (2 * step), abs=1e-4)


def test_gradient_slowly():
    expect(methods.METHODS["gradient"], lambda cells, target: np.abs(gradients(cells, target)[0]))
    expect(methods.METHODS["gradient × input"], lambda cells, target: cells * gradients(cells, target)[0])


def test_integrated_gradients_slowly():
    """Gradients along the line from silence to the clip, averaged by Gauss-Legendre quadrature, times the cells."""
    nodes, weights = np.polynomial.legendre.leggauss(methods.INTEGRATION_STEPS)

    def slow(cells, target):
        mean = np.zeros(SHAPE)
        for node, weight in zip(nodes, weights, strict=True):
            mean += weight / 2 * gradients(cells * (node + 1) / 2, target)[0]
        return cells * mean

    expect(methods.METHODS["integrated gradients"], slow, 1e-3)
    # Completeness: the heatmap adds up to the logit above that of silence, with 16 steps to within a tenth.
    rise = through(CELLS[0])[2][2] - through(0 * CELLS[0])[2][2]
    assert methods.METHODS["integrated gradients"](Tiny(), CLIPS, CLASSES)[0].sum() == pytest.approx(rise, rel=0.1)


def test_smooth_grad_slowly():
    """Absolute gradients at noisy copies of the clip, averaged. The noise is that of PyTorch's generator with seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = (len(CLIPS), methods.SMOOTH_GRAD_SAMPLES, *SHAPE)
        noise = (
            torch.normal(0.0, torch.full((shape[0] * shape[1], 1, *SHAPE), methods.SMOOTH_GRAD_NOISE)).view(shape).numpy()
        )
    assert noise.std() == pytest.approx(0.1, rel=0.1)

    def slow(cells, target):
        copies = noise[[np.array_equal(cells, clip) for clip in CELLS].index(True)]
        return np.mean([np.abs(gradients(cells + copy, target)[0]) for copy in copies], axis=0)

    expect(methods.METHODS["SmoothGrad"], slow, 1e-3)


def resize_axis(values: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation along the first axis, positions by the centres of cells."""
    positions = ((np.arange(size) + 0.5) * len(values) / size - 0.5).clip(0, len(values) - 1)
    low = np.minimum(positions.astype(int), len(values) - 2)
    share = (positions - low)[:, None]
    return values[low] * (1 - share) + values[low + 1] * share


def test_grad_cam_slowly():
    """Channels of the last convolution, weighted by their mean gradient, added and resized to the cells."""

    def slow(cells, target):
        _, maps, _ = through(cells)
        weights = gradients(cells, target)[1].mean((1, 2))
        cam = sum(weight * channel for weight, channel in zip(weights, maps, strict=True))
        return resize_axis(resize_axis(cam, SHAPE[0]).T, SHAPE[1]).T

    expect(methods.METHODS["Grad-CAM"], slow)


def test_occlusion_slowly(monkeypatch):
    """In each patch, how far the logit drops if its cells are silent; the last patches are cut at the edge."""
    monkeypatch.setattr(methods, "OCCLUSION_PATCH", (4, 4))

    def slow(cells, target):
        heat, logit = np.zeros(SHAPE), through(cells)[2][target]
        for band in range(0, SHAPE[0], 4):
            for frame in range(0, SHAPE[1], 4):
                patch = slice(band, band + 4), slice(frame, frame + 4)
                silenced = cells.copy()
                silenced[patch] = 0
                heat[patch] = logit - through(silenced)[2][target]
        return heat

    expect(methods.METHODS["occlusion"], slow)


def test_occlusion_on_the_compact_network(network):
    heatmaps = methods.METHODS["occlusion"](network, MELS[:1], np.array([3]))
    bands, frames = methods.OCCLUSION_PATCH
    silent = MELS[0].copy()
    silent[:bands, frames : 2 * frames] = -80
    with torch.no_grad():
        whole, without = (float(network(torch.from_numpy(m)[None, None])[0, 3]) for m in (MELS[0], silent))
    assert heatmaps[0, 10, 100] == pytest.approx(whole - without, abs=1e-4)
    assert len(np.unique(heatmaps[0].round(5))) <= (128 // bands) * -(-431 // frames)
