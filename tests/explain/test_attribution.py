"""Relevance: worked out on paper, computed slowly from the definitions, and by zennit-crp directly."""

import copy

import numpy as np
import pytest
import torch
from crp.attribution import CondAttribution
from torch import nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import (
    LAYER_MAP_BASE,
    EpsilonAlpha2Beta1,
    EpsilonPlus,
    EpsilonPlusFlat,
    LayerMapComposite,
    NameMapComposite,
)
from zennit.rules import AlphaBeta, Epsilon, Gamma, Norm, Pass, ZPlus
from zennit.types import Convolution

import instr_lib as il
from instr_lib.explain import concepts
from instr_lib.explain.attribution import ClipTrace
from instr_lib.explain.lrp import Composite, Trace, can_trace
from instr_lib.networks.models import MeanMaxPool, Preprocess

COMPOSITES = {
    "epsilon_plus": EpsilonPlus,
    "epsilon_plus_flat": EpsilonPlusFlat,
    "epsilon_alpha2_beta1": EpsilonAlpha2Beta1,
    "gamma": lambda: LayerMapComposite([*LAYER_MAP_BASE, (Convolution, Gamma(0.25)), (nn.Linear, Gamma(0.25))]),
    "epsilon_plus_alpha2_beta1": lambda: NameMapComposite(
        [
            (["conv1", "conv2"], ZPlus()),
            (["conv3", "conv4", "conv5"], AlphaBeta(2, 1)),
            (["linear"], Epsilon()),
            ([f"relu{n}" for n in range(1, 6)], Pass()),
            (["time_pool.mean"], Norm()),
        ]
    ),
}
EPSILON = 1e-6  # zennit's, in every rule
both_composites = pytest.mark.parametrize("composite", ["epsilon_plus", "epsilon_plus_flat"])
all_composites = pytest.mark.parametrize("composite", COMPOSITES)


class Network(nn.Module):
    """Any layers after the preprocessing that makes 0 … 1 of -80 … 0 dB."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.preprocess = Preprocess()
        self.layers = nn.Sequential(*layers)

    def forward(self, mels):
        return self.layers(self.preprocess(mels))


def close(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-5) -> bool:
    """Equal to within this part of the largest relevance."""
    return a.shape == b.shape and np.abs(a - b).max() <= tolerance * np.abs(b).max()


def nearly_equal(a: np.ndarray, b: np.ndarray, cells: float = 0.99) -> bool:
    """Equal in nearly all cells, and in nearly all of the relevance.

    Of 100 000 pooling windows, a few have two maxima that are equal in float32; another order of summation then sends
    their relevance to a neighbouring cell.
    """
    error, size = np.abs(a - b), np.abs(b)
    return (error <= 1e-5 * size.max()).mean() > cells and error.sum() < 0.002 * size.sum()


# On paper
#
# Three cells sound, next to each other in row 10: a = 0.5 in column 20, b = 1 in column 21, c = 0.25 in column 22
# (-40, 0 and -60 dB). All others are silent, that is 0. With x the cell under the kernel's centre, l its left,
# r its right and u its upper neighbour, and with the batch-norm merged into the convolution:
#
#   channel 0:  2x + l - r + 0.25, then (· - 0.25) / √4 · 4 + 0.5   =  4x + 2l - 2r + 0.5
#   channel 1:  -x - u/2 + 0.1,    then (· - 0) / √1 · (-1) + 0     =  x + u/2 - 0.1
#
# Row 10 of channel 0 (columns 20 to 23) is  4a - 2b + 0.5 = 0.5;  4b + 2a - 2c + 0.5 = 5;  4c + 2b + 0.5 = 3.5;
# 2c + 0.5 = 1, and 0.5 everywhere in silence. Channel 1 is, in row 10,  a - 0.1 = 0.4;  b - 0.1 = 0.9;
# c - 0.1 = 0.15, and in row 11 half a, b, c less 0.1: 0.15, 0.4, 0.025. In silence it is -0.1.
#
# Max-pooling takes the windows of 2 x 2 cells: rows 10-11 with columns 20-21 become row 5, column 10, and with
# columns 22-23 row 5, column 11. The winners, by channel and window:
#
#   p = channel 0, column 10:  5     at (10, 21)        q = channel 0, column 11:  3.5   at (10, 22)
#   s = channel 1, column 10:  0.9   at (10, 21)        t = channel 1, column 11:  0.15  at (10, 22)
#   w = channel 0, row 0, column 0, in silence:  0.5 four times; PyTorch takes the first, (0, 0)
#
# The dense layer has two outputs:
#
#   y0 = 2.2p + 2q - s - 0.1   = 11 + 7 - 0.9 - 0.1  =  17
#   y1 = -p + 10t + 4w         = -5 + 1.5 + 2        =  -1.5
#
# Epsilon rule, with relevance starting as the logit: each input gets what it puts in, so for y0
# p 11, q 7, s -0.9 (the bias keeps -0.1), and for y1  p -5, t 1.5, w 2.
#
# z+ rule, only what raises a winner counts, biases included:
#   p: 4b = 4, 2a = 1, bias 0.5 of 5.5 (-2c does not count):  b 8/11, a 2/11, the bias 1/11
#   q: 2b = 2, 4c = 1, bias 0.5 of 3.5:                       b 4/7, c 2/7, the bias 1/7
#   s: b alone (the bias is negative): all to b               t: c alone: all to c
#   w: the bias alone: all is lost in it
#
#   y0:  a = 11 · 2/11 = 2      b = 11 · 8/11 + 7 · 4/7 - 0.9 = 11.1      c = 7 · 2/7 = 2
#   y1:  a = -5 · 2/11          b = -5 · 8/11                             c = 1.5
#
# Flat rule: the first convolution spreads each winner's relevance evenly over its field of 3 x 3 cells (2 x 2 in
# a corner), and the biases get nothing.
#   y0:  at (10, 21) 11 - 0.9 = 10.1, a ninth to each of rows 9-11, columns 20-22
#        at (10, 22) 7, a ninth to each of rows 9-11, columns 21-23
#   y1:  at (10, 21) -5, a ninth each; at (10, 22) 1.5, a ninth each; at (0, 0) 2, a quarter to each of rows and columns 0-1


@pytest.fixture
def paper_network() -> Network:
    convolution, norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2, eps=0)
    dense = nn.Linear(2 * 64 * 215, 2)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.weight[0, 0, 1] = torch.tensor([1.0, 2.0, -1.0])  # left, centre, right
        convolution.weight[1, 0, :, 1] = torch.tensor([-0.5, -1.0, 0.0])  # upper, centre, lower
        convolution.bias[:] = torch.tensor([0.25, 0.1])
        norm.running_mean[:], norm.running_var[:] = torch.tensor([0.25, 0.0]), torch.tensor([4.0, 1.0])
        norm.weight[:], norm.bias[:] = torch.tensor([4.0, -1.0]), torch.tensor([0.5, 0.0])
        weights = dense.weight.zero_().reshape(2, 2, 64, 215)  # a view: output, channel, row, column
        weights[0, 0, 5, 10], weights[0, 0, 5, 11], weights[0, 1, 5, 10] = 2.2, 2, -1
        weights[1, 0, 5, 10], weights[1, 1, 5, 11], weights[1, 0, 0, 0] = -1, 10, 4
        dense.bias[:] = torch.tensor([-0.1, 0.0])
    return Network(convolution, norm, nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), dense)


@pytest.fixture
def paper_mel() -> np.ndarray:
    mel = np.full((1, 128, 431), -80, np.float32)
    mel[0, 10, 20:23] = -40, 0, -60
    return mel


def test_the_paper_network_is_the_one_on_paper(paper_network, paper_mel):
    logits = paper_network.eval()(torch.from_numpy(paper_mel)[:, None])
    assert logits.tolist()[0] == pytest.approx([17, -1.5], rel=1e-6)


def test_epsilon_plus_on_paper(paper_network, paper_mel):
    expected = np.zeros((2, 128, 431))
    expected[0, 10, 20:23] = 2, 11.1, 2
    expected[1, 10, 20:23] = -10 / 11, -40 / 11, 1.5
    heat = il.relevance(paper_network, paper_mel, [0, 1], composite="epsilon_plus")
    assert heat.dtype == np.float32
    assert np.allclose(heat, expected, rtol=1e-5, atol=0)  # silent cells get exactly nothing


def test_epsilon_plus_flat_on_paper(paper_network, paper_mel):
    expected = np.zeros((2, 128, 431))
    expected[0, 9:12, 20:23] += 10.1 / 9
    expected[0, 9:12, 21:24] += 7 / 9
    expected[1, 9:12, 20:23] += -5 / 9
    expected[1, 9:12, 21:24] += 1.5 / 9
    expected[1, 0:2, 0:2] += 2 / 4
    heat = il.relevance(paper_network, paper_mel, [0, 1], composite="epsilon_plus_flat")
    assert np.allclose(heat, expected, rtol=1e-5, atol=0)


def test_a_module_without_preprocess_gets_decibels(paper_network, paper_mel):
    """And so silence is not 0 for it: the same layers see -80, not 0."""
    heat = il.relevance(paper_network.layers, paper_mel, [0], composite="epsilon_plus_flat")
    direct = by_crp(paper_network.layers, torch.from_numpy(paper_mel)[:, None], [0], "epsilon_plus_flat")
    assert np.array_equal(heat, direct.sum(axis=1))
    assert not close(heat, il.relevance(paper_network, paper_mel, [0], composite="epsilon_plus_flat"))


# One layer of two neurons (appendix B): inputs 2, 1 and 0; the first neuron gets 8 - 3 + 0 and 4 from its bias, the second
# 4 + 4 + 0 and -2 from its bias; they hand on 36 and 24.
@pytest.mark.parametrize(
    "rule, expected",
    [
        ("epsilon", (32 + 16, -12 + 16, 0)),  # 36 as 8 : -3 : 4, 24 as 4 : 4 : -2
        ("z+", (24 + 12, 0 + 12, 0)),  # 36 as 8 : 0 : 4, 24 as 4 : 4
        ("gamma", (30 + 15, -9 + 15, 0)),  # 36 as 10 : -3 : 5, 24 as 5 : 5 : -2
        ("alpha2_beta1", (48 + 24, -36 + 24, 0)),  # twice z+, less 36 to the -3 alone, less 24 to the bias alone
        ("flat", (12 + 8, 12 + 8, 12 + 8)),
    ],
)
def test_every_rule_at_a_layer_on_paper(rule, expected):
    layer = nn.Conv2d(1, 2, (1, 3))
    layer.weight.data[:, 0, 0], layer.bias.data[:] = torch.tensor([[4.0, -3, 5], [2, 4, 1]]), torch.tensor([4.0, -2])
    trace = Trace(nn.Sequential(layer), torch.tensor([[[[2.0, 1, 0]]]]), Composite((rule,)))
    assert trace.backward(torch.tensor([[[[36.0]], [[24.0]]]])).flatten().tolist() == pytest.approx(expected, abs=1e-4)


# Slowly, from the definitions, in float64


def shifted_sums(x: np.ndarray, weight: np.ndarray, padding: int) -> np.ndarray:
    """A convolution: x (c, h, w), weight (k, c, m, n) to (k, h', w')."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    height, width = x.shape[1] - weight.shape[2] + 1, x.shape[2] - weight.shape[3] + 1
    return sum(
        np.einsum("kc,chw->khw", weight[:, :, i, j], x[:, i : i + height, j : j + width])
        for i in range(weight.shape[2])
        for j in range(weight.shape[3])
    )


def share(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, padding: int, relevance: np.ndarray) -> np.ndarray:
    """Each output's relevance to the inputs, in proportion to input times weight; the bias takes part."""
    total = shifted_sums(x, weight, padding) + bias[:, None, None]
    rate = relevance / (total + EPSILON)  # no total is negative here
    received = np.zeros((len(x), x.shape[1] + 2 * padding, x.shape[2] + 2 * padding))
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            part = np.einsum("kc,khw->chw", weight[:, :, i, j], rate)
            received[:, i : i + rate.shape[1], j : j + rate.shape[2]] += part
    return x * received[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]


def windows(x: np.ndarray, size: int) -> np.ndarray:
    """(c, h, w) to (c, h / size, w / size, size * size); what does not fill a window is left out."""
    c, h, w = x.shape[0], x.shape[1] // size, x.shape[2] // size
    x = x[:, : h * size, : w * size].reshape(c, h, size, w, size)
    return x.transpose(0, 1, 3, 2, 4).reshape(c, h, w, size * size)


def winner_takes_all(x: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """Relevance (...) to the largest of x (..., n), the first of equals."""
    given = np.zeros_like(x)
    np.put_along_axis(given, x.argmax(axis=-1)[..., None], relevance[..., None], axis=-1)
    return given


def explain(layers, x: np.ndarray, target: int, composite: str, through=None) -> np.ndarray:
    """Relevance of x (c, h, w), going through the layers one by one and back again.

    ``through``: a convolution and one of its channels; all that comes through its others is left out.
    """
    steps, layers = [], list(layers)
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        weight = bias = None
        before = x
        if isinstance(layer, nn.Conv2d):
            weight, bias = layer.weight.double().detach().numpy(), layer.bias.double().detach().numpy()
            if isinstance(following, nn.BatchNorm2d):  # merged
                mean, var, gain, shift = (
                    getattr(following, name).double().detach().numpy()
                    for name in ("running_mean", "running_var", "weight", "bias")
                )
                factor = gain / np.sqrt(var + following.eps)
                weight, bias = weight * factor[:, None, None, None], (bias - mean) * factor + shift
            x = shifted_sums(x, weight, layer.padding[0]) + bias[:, None, None]
        elif isinstance(layer, nn.MaxPool2d):
            x = windows(x, layer.kernel_size).max(axis=-1)
        elif isinstance(layer, nn.ReLU):
            x = np.maximum(x, 0)
        elif isinstance(layer, MeanMaxPool):
            x = np.concatenate([x.mean(axis=2, keepdims=True), x.max(axis=2, keepdims=True)])
        elif isinstance(layer, nn.Flatten):
            x = x.ravel()
        elif isinstance(layer, nn.Linear):
            x = layer.weight.double().detach().numpy() @ x + layer.bias.double().detach().numpy()
        else:
            assert isinstance(layer, (nn.BatchNorm2d, nn.Dropout))
        steps.append((layer, before, weight, bias))

    relevance = np.zeros_like(x)
    relevance[target] = x[target]
    for layer, x, weight, bias in reversed(steps):
        if through and layer is through[0]:
            relevance[np.arange(len(relevance)) != through[1]] = 0
        if isinstance(layer, nn.Linear):  # epsilon rule
            weight, z = layer.weight[target].double().detach().numpy(), relevance[target]
            relevance = x * weight * z / (z + EPSILON * np.sign(z))
        elif isinstance(layer, nn.Flatten):
            relevance = relevance.reshape(x.shape)
        elif isinstance(layer, MeanMaxPool):  # the mean in proportion, the maximum to the winner
            to_mean, to_max = np.split(relevance[:, :, 0], 2)
            mean = x.mean(axis=2)
            relevance = x / x.shape[2] * (to_mean / (mean + EPSILON))[:, :, None] + winner_takes_all(x, to_max)
        elif isinstance(layer, nn.MaxPool2d):
            size, pooled = layer.kernel_size, winner_takes_all(windows(x, layer.kernel_size), relevance)
            c, h, w = relevance.shape
            pooled = pooled.reshape(c, h, w, size, size).transpose(0, 1, 3, 2, 4).reshape(c, h * size, w * size)
            relevance = np.zeros(x.shape)
            relevance[:, : h * size, : w * size] = pooled
        elif isinstance(layer, nn.Conv2d) and layer is layers[0] and composite == "epsilon_plus_flat":
            ones, nothing = np.ones_like(x), np.zeros_like(bias)
            relevance = share(ones, np.ones_like(weight), nothing, layer.padding[0], relevance)
        elif isinstance(layer, nn.Conv2d):  # z+ rule; inputs are never negative here
            assert (x >= 0).all()
            relevance = share(x, np.maximum(weight, 0), np.maximum(bias, 0), layer.padding[0], relevance)
    return relevance  # all others pass relevance on as it is


@pytest.fixture(scope="module")
def small_network(random_network) -> Network:
    """Every kind of layer that our networks have, with random weights and batch statistics."""
    return random_network(
        lambda: Network(
            *(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3, eps=1e-3), nn.MaxPool2d(4), nn.ReLU()),
            *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.ReLU()),
            *(MeanMaxPool(15), nn.Flatten(), nn.Dropout(0.5), nn.Linear(2 * 4 * 15, 5)),
        ),
        seed=1,
    )


@both_composites
def test_equals_a_slow_implementation_of_the_rules(small_network, mels, composite):
    expected = [explain(small_network.layers, (mel[None] + 80.0) / 80, c, composite)[0] for mel in mels for c in range(5)]
    heat = il.relevance(small_network, np.repeat(mels, 5, axis=0), list(range(5)) * 3, composite=composite)
    assert all(nearly_equal(a, b, 0.999) for a, b in zip(heat, expected, strict=True))
    assert not any(close(a, b, 0.1) for i, a in enumerate(expected) for b in expected[:i])


@both_composites
def test_equals_the_slow_implementation_on_the_compact_network(random_network, mels, composite):
    network = random_network(il.CompactCNN)
    expected = explain(network.layers, (mels[1][None] + 80.0) / 80, 3, composite)[0]
    heat = il.relevance(network, mels[1:2], [3], composite=composite)[0]
    assert nearly_equal(heat, expected)


@both_composites
@pytest.mark.parametrize("layer, channel", [(0, 0), (4, 3)])
def test_conditional_relevance_equals_a_slow_implementation(small_network, composite, layer, channel):
    name, mels = str(layer), np.random.default_rng(0).uniform(-70, -10, (3, 128, 431)).astype(np.float32)
    for mel, target in zip(mels, range(3), strict=True):
        through = small_network.layers[layer], channel
        expected = explain(small_network.layers, (mel[None] + 80.0) / 80, target, composite, through)[0]
        parts, _ = concepts.concept_relevance(small_network, mel, target, name, [channel], composite)
        assert close(parts[0], expected)
        assert layer == 0 or not close(parts[0], explain(small_network.layers, (mel[None] + 80) / 80, target, composite)[0])


def test_without_biases_relevance_adds_up_to_the_logit(mels):
    torch.manual_seed(0)
    network = Network(
        *(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.MaxPool2d(8), nn.ReLU(), nn.Flatten()),
        nn.Linear(4 * 16 * 53, 3, bias=False),
    )
    with torch.no_grad():
        logits = network(torch.from_numpy(mels)[:, None])
    for c in range(3):
        heat = il.relevance(network, mels, [c] * 3)
        assert np.allclose(heat.sum(axis=(1, 2), dtype=float), logits[:, c], rtol=1e-3)


# By zennit-crp directly


def by_crp(layers: nn.Module, pictures: torch.Tensor, classes, composite: str) -> np.ndarray:
    """The heatmaps that zennit-crp gives for the merged layers, one by one; relevance of every channel."""
    layers = copy.deepcopy(layers).eval()
    for norm in layers:
        if isinstance(norm, nn.BatchNorm2d):  # the same network: zennit leaves an identity that divides by √(1 + eps)
            norm.running_var, norm.eps = norm.running_var + norm.eps, 0
    SequentialMergeBatchNorm().apply(layers)
    heatmaps = []
    for picture, c in zip(pictures, classes, strict=True):
        x = picture[None].detach().clone().requires_grad_()
        CondAttribution(layers)(x, [{"y": [c]}], COMPOSITES[composite]())
        heatmaps.append(x.grad[0].numpy())
    return np.stack(heatmaps)


@all_composites
def test_compact_equals_zennit_crp(random_network, composite):
    """In float64 and without silence, so that no two winners are alike."""
    network, classes = random_network(il.CompactCNN).double(), [4, 0, 11]
    mels = np.random.default_rng(0).uniform(-70, -10, (3, 128, 431)).astype(np.float32)
    expected = by_crp(network.layers, network.preprocess(torch.from_numpy(mels)[:, None].double()), classes, composite)[
        :, 0
    ]
    assert close(il.relevance(network, mels, classes, composite=composite, batch_size=2), expected, 1e-6)


def test_rules_can_be_named_layer_by_layer(random_network):
    network, mels = random_network(il.CompactCNN), np.random.default_rng(0).uniform(-70, -10, (1, 128, 431))
    by_name, by_rules = (
        il.relevance(network, mels, [3], composite)
        for composite in ("epsilon_plus_alpha2_beta1", Composite(("z+", "z+", "alpha2_beta1"), "epsilon"))
    )
    assert np.array_equal(by_name, by_rules)
    with pytest.raises(il.InputError, match="explained by zennit"):
        il.relevance(nn.Sequential(nn.Flatten(), nn.GELU(), nn.Linear(128 * 431, 12)), mels, [3], Composite(("z+",)))


@pytest.mark.parametrize("convolutions, linear", [((), "epsilon"), (("z++",), "epsilon"), (("z+",), "flat"), (("z+",), "")])
def test_composites_of_unknown_rules_are_refused(convolutions, linear):
    with pytest.raises(il.InputError, match=r"epsilon, z\+, gamma, alpha2_beta1, flat"):
        Composite(convolutions, linear)


def interpolation(cells: int, pixels: int) -> np.ndarray:
    """Weights of bilinear resizing (pixels, cells): each pixel lies between two cells, in proportion to nearness."""
    weights = np.zeros((pixels, cells))
    for pixel in range(pixels):
        position = np.clip((pixel + 0.5) * cells / pixels - 0.5, 0, cells - 1)
        low = min(int(position), cells - 2)
        weights[pixel, low : low + 2] = 1 - (position - low), position - low
    return weights


@pytest.fixture(scope="module")
def original(random_network) -> il.OriginalCNN:
    return random_network(il.OriginalCNN)


@all_composites
@pytest.mark.parametrize("kind", [il.CompactCNN, il.OriginalCNN])
def test_zennit_equals_the_fast_engine(kind, random_network, composite, monkeypatch):
    """In float64; so the fast one is only an optimisation, and "auto" may take it."""
    network = random_network(kind).double()
    mels = np.random.default_rng(0).uniform(-70, -10, (2, 128, 431)).astype(np.float32)
    by_engine = {e: il.relevance(network, mels, [3, 7], composite, engine=e) for e in ("auto", "fast", "zennit")}
    assert close(by_engine["zennit"], by_engine["fast"])
    assert np.array_equal(by_engine["auto"], by_engine["fast"])
    monkeypatch.setattr("instr_lib.explain.lrp.Trace", None)  # zennit does without
    assert np.array_equal(il.relevance(network, mels[:1], [3], composite, engine="zennit"), by_engine["zennit"][:1])


def unknown(name: str) -> tuple[nn.Module, str]:
    """A network with something that the fast engine does not know, and how its message names it."""
    convolution, linear = nn.Conv2d(1, 2, 3), nn.Linear(2 * 126 * 429, 12)
    return {
        "activation": (nn.Sequential(convolution, nn.GELU(), nn.Flatten(), linear), r"1: GELU\(approximate='none'\)"),
        "two of them": (
            nn.Sequential(convolution, nn.GELU(), nn.AvgPool2d(1), nn.Flatten(), linear),
            "1: GELU.*2: AvgPool2d",
        ),
        "stride": (
            nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 63 * 215, 12)),
            "0: Conv2d.*stride=\\(2, 2\\)",
        ),
        "norm without a convolution": (
            nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(128 * 431, 12)),
            "0: BatchNorm2d",
        ),
        "negative input of a convolution": (
            nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), linear),
            "1: Conv2d.*without a ReLU",
        ),
        "no linear layer": (nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten()), "AdaptiveAvgPool2d"),
        "last layer": (nn.Sequential(convolution, nn.ReLU(), nn.Flatten()), r"2: Flatten.*as the last layer"),
        "no layers": (nn.Sequential(), "Sequential instead"),
    }[name]


@pytest.mark.parametrize(
    "name",
    ["activation", "two of them", "stride", "norm without a convolution", "negative input of a convolution", "last layer"],
)
def test_the_fast_engine_names_the_layers_that_it_does_not_know(name, mels):
    layers, message = unknown(name)
    network = Network(*layers)
    assert not can_trace(network.layers)
    with pytest.raises(il.InputError, match=message) as refused:
        il.relevance(network, mels[:1], [3], engine="fast")
    assert "engine='zennit'" in str(refused.value)
    with pytest.raises(il.InputError, match=message):
        ClipTrace(network, mels[:1])


@pytest.mark.parametrize("name", ["no linear layer", "no layers"])
def test_what_is_no_classifier_cannot_be_traced(name):
    assert not can_trace(unknown(name)[0])


def test_the_fast_engine_refuses_negative_input(paper_network, paper_mel):
    with pytest.raises(il.InputError, match="negative where it is silent"):
        il.relevance(paper_network.layers, paper_mel, [0], engine="fast")


def test_unknown_engines_are_refused(paper_network, paper_mel):
    with pytest.raises(il.InputError, match="'auto', 'fast' or 'zennit', not 'slow'"):
        il.relevance(paper_network, paper_mel, [0], engine="slow")


def test_a_layer_used_twice_takes_part_twice(random_network):
    """PyTorch lists such a layer once."""
    relu = nn.ReLU()
    parts = nn.Conv2d(1, 3, 3), nn.MaxPool2d(8), nn.Conv2d(3, 4, 3), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(4 * 3 * 12, 5)
    twice, once = ((*parts[:2], a, *parts[2:4], b, *parts[4:]) for a, b in ((relu, relu), (nn.ReLU(), nn.ReLU())))
    mels = np.random.default_rng(0).uniform(-70, -10, (1, 128, 431)).astype(np.float32)
    assert np.array_equal(*(il.relevance(Network(*layers), mels, [3], engine="fast") for layers in (twice, once)))


@both_composites
def test_original_equals_zennit_crp_on_the_resized_spectrogram(original, composite):
    """Pixels distribute their relevance to cells by what each contributes; silent pixels by nearness alone."""
    mels = np.random.default_rng(0).uniform(-70, -10, (2, 128, 431)).astype(np.float32)
    mels[:, 50:56, 200:206] = -80  # more silence would have more windows with several winners
    normalise, classes = (mels[:2].astype(float) + 80) / 80, [4, 9]
    rows, columns = interpolation(128, 400), interpolation(431, 400)
    original = copy.deepcopy(original).double()
    picture = original.preprocess(torch.from_numpy(mels[:2])[:, None].double())  # three equal channels
    pixels = picture[:, 0].numpy()
    assert np.abs(rows @ normalise @ columns.T - pixels).max() < 1e-12
    heat = by_crp(original.layers, picture, classes, composite).sum(axis=1, dtype=float)
    sounds = pixels > 0
    by_input = normalise * (rows.T @ np.where(sounds, heat / np.where(sounds, pixels, 1), 0) @ columns)
    by_weight = rows.T @ np.where(sounds, 0, heat) @ columns
    found = il.relevance(original, mels[:2], classes, composite=composite)
    assert close(found, by_input + by_weight, 1e-6)
    # Nothing is lost or added between pixels and cells.
    assert np.allclose(found.sum(axis=(1, 2), dtype=float), heat.sum(axis=(1, 2)), rtol=1e-4)
    assert by_weight.any() == (composite == "epsilon_plus_flat")


def test_networks_with_other_layers_are_left_to_zennit(mels):
    """Layers that the fast engine does not know: the heatmap is zennit-crp's."""
    torch.manual_seed(0)
    network = Network(
        *(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3, eps=0), nn.ReLU(), nn.AvgPool2d(8)),
        *(nn.Flatten(), nn.Linear(3 * 8 * 27, 5)),
    ).eval()
    assert not can_trace(network.layers)
    expected = by_crp(network.layers, (torch.from_numpy(mels)[:, None] + 80) / 80, [0, 1, 2], "epsilon_plus")[:, 0]
    assert close(il.relevance(network, mels, [0, 1, 2]), expected)


def test_negative_input_is_left_to_zennit(paper_network, paper_mel):
    """Decibels, without preprocessing, are negative: the z+ rule has another term for such inputs."""
    expected = by_crp(paper_network.layers, torch.from_numpy(paper_mel)[:, None], [0], "epsilon_plus")[:, 0]
    assert can_trace(paper_network.layers)
    assert close(il.relevance(paper_network.layers, paper_mel, [0]), expected)


# Arguments


@pytest.mark.parametrize("kind", [il.CompactCNN, il.OriginalCNN])
def test_all_classes_in_one_call_equal_one_by_one(kind, random_network, mels):
    network = random_network(kind)
    together = il.relevance(network, mels[:1], range(12))
    assert (together.shape, together.dtype) == ((12, 128, 431), np.float32)
    for c in range(0, 12, 1 if kind is il.CompactCNN else 5):  # the other one is slow
        assert nearly_equal(together[c], il.relevance(network, mels[:1], [c])[0])
    assert not close(together[0], together[1], 0.1)


def test_batches_do_not_matter(small_network, mels):
    many, classes = np.concatenate([mels, mels[::-1], mels]), [0, 1, 2, 3, 4, 0, 1, 2, 3]
    whole = il.relevance(small_network, many, classes)
    for batch_size in (1, 2, 100):
        assert nearly_equal(il.relevance(small_network, many, classes, batch_size=batch_size), whole)


def test_no_clips_give_no_heatmaps(small_network):
    assert il.relevance(small_network, np.empty((0, 128, 431), np.float32), []).shape == (0, 128, 431)


@both_composites
def test_silent_cells_get_exactly_nothing_from_epsilon_plus(random_network, mels, composite):
    silent = mels == -80
    assert 0.3 < silent.mean() < 0.99
    heat = il.relevance(random_network(il.CompactCNN), mels, [0, 5, 11], composite=composite)
    assert np.abs(heat).max() > 0
    # The report's rule smears: it must give some of them something, or this test tests nothing.
    assert heat[silent].any() == (composite == "epsilon_plus_flat")


def test_names_are_classes(random_network, mels):
    network = random_network(il.CompactCNN)
    expected = il.relevance(network, mels, [0, 6, 9])
    assert np.array_equal(il.relevance(network, mels, ["Acoustic Grand Piano", "trumpet", 9]), expected)
    assert np.array_equal(il.relevance(network, mels, np.array([0, 6, 9])), expected)
    for trumpet in ("Trumpet", 6):
        assert nearly_equal(il.relevance(network, mels[1:2], trumpet), expected[1:2])


def test_one_numpy_integer_is_a_class(small_network, mels):
    """Such as probs.argmax() gives."""
    assert np.array_equal(il.relevance(small_network, mels[:1], np.int64(3)), il.relevance(small_network, mels[:1], 3))


def test_dropout_and_batch_statistics_never_take_part(small_network, mels):
    expected = il.relevance(small_network.eval(), mels, [0, 1, 2])
    assert np.array_equal(il.relevance(small_network.train(), mels, [0, 1, 2]), expected)


def test_works_where_gradients_are_off(small_network, mels):
    """As in a notebook that evaluates a network under torch.no_grad."""
    expected = il.relevance(small_network, mels[:1], [0])
    with torch.no_grad():
        assert np.array_equal(il.relevance(small_network, mels[:1], [0]), expected)


# The model is left unchanged


def state_of(model: nn.Module) -> dict:
    """Everything that could have been changed or left behind on a model."""
    hooks = [name for name in vars(nn.Module()) if name.endswith("hooks")]
    assert len(hooks) >= 4
    return {
        "state": {k: v.numpy().tobytes() for k, v in model.state_dict().items()},
        "identity": [id(p) for p in (*model.parameters(), *model.buffers())],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.numpy().tobytes() for p in model.parameters()],
        "training": [module.training for module in model.modules()],
        "hooks": [list(getattr(module, hook)) for module in model.modules() for hook in hooks],
        "attributes": [sorted(vars(module)) for module in model.modules()],
    }


@pytest.fixture
def busy_network(random_network) -> Network:
    """A network in the middle of training: in training mode, a layer frozen, with gradients and a hook."""
    network = random_network(
        lambda: Network(
            *(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.MaxPool2d(16), nn.ReLU()),
            *(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 5 * 24, 4)),
        )
    )
    network.train()
    network.layers[1].eval()
    network.layers[0].weight.requires_grad_(False)
    network(torch.full((2, 1, 128, 431), -30.0)).sum().backward()
    network.layers[3].register_forward_hook(lambda *_: None)
    return network


@both_composites
def test_model_is_left_as_found(busy_network, mels, composite):
    before = state_of(busy_network)
    il.relevance(busy_network, mels, [0, 1, 2], composite=composite)
    assert state_of(busy_network) == before


class FailsAt(nn.ReLU):
    """A layer whose forward fails at the n-th call, whoever's copy of it is called."""

    calls = 0

    def __init__(self, call: int, error: type[BaseException]):
        super().__init__()
        FailsAt.calls, self.call, self.error = 0, call, error

    def forward(self, x):
        FailsAt.calls += 1
        if FailsAt.calls == self.call:
            raise self.error("on purpose")
        return super().forward(x)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_model_is_left_as_found_when_a_layer_fails(busy_network, mels, error):
    """At the second batch, when the first has already passed all hooks."""
    busy_network.layers[6] = FailsAt(2, error)
    before = state_of(busy_network)
    with pytest.raises(error, match="on purpose"):
        il.relevance(busy_network, mels, [0, 1, 2], batch_size=1)
    assert FailsAt.calls == 2
    assert state_of(busy_network) == before


def test_model_is_left_as_found_when_the_backward_pass_fails(busy_network, mels):
    """A convolution is called again for its rule, in the backward pass; there it fails, with all hooks in place."""

    class Fails(nn.Conv2d):
        calls = 0

        def forward(self, x):
            Fails.calls += 1
            if Fails.calls == 2:
                raise RuntimeError("on purpose")
            return super().forward(x)

    busy_network.layers[4] = Fails(3, 2, 3)
    before = state_of(busy_network)
    with pytest.raises(RuntimeError, match="on purpose"):
        il.relevance(busy_network, mels, [0, 1, 2])
    assert Fails.calls == 2
    assert state_of(busy_network) == before


def test_model_is_left_as_found_when_it_has_no_such_output(busy_network, mels):
    """Twelve instruments, but a network of four outputs: a student's experiment gone wrong."""
    before = state_of(busy_network)
    with pytest.raises(il.InputError, match="4"):
        il.relevance(busy_network, mels, [0, 1, 11])
    assert state_of(busy_network) == before


def test_the_model_still_learns_afterwards(busy_network, mels):
    il.relevance(busy_network, mels, [0, 1, 2])
    busy_network.zero_grad()
    busy_network(torch.from_numpy(mels)[:, None]).sum().backward()
    assert busy_network.layers[0].weight.grad is None  # it was frozen
    assert busy_network.layers[4].weight.grad.abs().sum() > 0
