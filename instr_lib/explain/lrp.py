"""Layer-wise relevance propagation: once through the network, and back as often as asked.

zennit explains any network, and computes anew for each output what is the same for all of them: the way through
the network and the denominators of the rules. Ours are plain sequences of layers. A :class:`Trace` goes
through them once, and back for as many outputs or hidden channels at a time as one likes.

A rule hands the relevance R_j of a layer's outputs to its inputs, which have values a_i (0 or more), weights
w_ij and biases b_j, by

    R_i = sum over j of  a_i v_ij / (sum over i of a_i v_ij + c_j) R_j

and says what v and c are (Montavon et al. 2019, doi:10.1007/978-3-030-28954-6_10): for the epsilon rule w and b,
for the z+ rule their positive parts, for the gamma rule w and b plus a quarter of their positive parts; the
alpha-2-beta-1 rule is twice the z+ rule less the same with negative parts. For the flat rule all v are 1, all c are 0,
and all a are taken to be 1.
Pooling hands relevance to the winner, ReLU and dropout hand it on, a mean in proportion.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..networks.models import TimePool

# A rule is a sum of terms, each a factor and what becomes of weights and biases in it.
_RULES = {
    "epsilon": [(1, lambda w: w)],
    "z+": [(1, lambda w: w.clamp(min=0))],
    "gamma": [(1, lambda w: w + 0.25 * w.clamp(min=0))],
    "alpha2beta1": [(2, lambda w: w.clamp(min=0)), (-1, lambda w: w.clamp(max=0))],
}
RULES = (*_RULES, "flat")
# The rules of the convolutions, from the first on (the last one named holds for all that follow), and of linear layers.
COMPOSITES = {
    "epsilon_plus": (("z+",), "epsilon"),
    "epsilon_plus_flat": (("flat", "z+"), "epsilon"),
    "alpha2beta1": (("alpha2beta1",), "epsilon"),
    "gamma": (("gamma",), "gamma"),
    # Found by trying 30 (chapter 7): what speaks against an instrument counts from the third convolution on.
    "plus_alpha2beta1": (("z+", "z+", "alpha2beta1"), "epsilon"),
}


def can_trace(model: nn.Module) -> bool:
    """Whether all layers are known, and convolutions see nothing negative if the network does not."""
    if type(model) is not nn.Sequential or not len(model) or type(model[-1]) is not nn.Linear:
        return False
    positive, before = True, None
    for layer in model:
        if not _known(layer) or (type(layer) is nn.BatchNorm2d and type(before) is not nn.Conv2d):
            return False
        if type(layer) is nn.Conv2d and not positive:
            return False
        positive = type(layer) is nn.ReLU or (positive and type(layer) not in (nn.Conv2d, nn.Linear))
        before = layer
    return True


def _known(layer: nn.Module) -> bool:
    kind = type(layer)
    if kind is nn.Conv2d:
        plain = (layer.stride, layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), (1, 1), 1, "zeros")
        return plain and type(layer.padding) is tuple  # not a word
    if kind is nn.MaxPool2d:
        return layer.kernel_size == layer.stride and type(layer.stride) is int and not (layer.padding or layer.ceil_mode)
    if kind is nn.BatchNorm2d:
        return layer.affine and layer.track_running_stats
    return kind in (nn.ReLU, nn.Dropout, TimePool, nn.Flatten, nn.Linear)


class Trace:
    """One way through a network, and any number of ways back.

    Parameters
    ----------
    layers : nn.Sequential
        One that :func:`can_trace`. It is only read. Batch normalisation is merged into the convolution before
        it and dropout takes no part, whatever mode the network is in.
    x : float32 (clips, channels, h, w)
        0 or more everywhere.
    composite : str or tuple
        One of ``COMPOSITES``, or such a tuple: the convolutions' rules, and the linear layers' rule.
    gradients : bool
        Keep what autograd needs to learn from relevance, see :mod:`instr_lib.truthful`.

    Attributes
    ----------
    logits : (clips, classes)
    outputs : dict
        What each layer gives, by name, without those that take no part.
    """

    def __init__(
        self,
        layers: nn.Sequential,
        x: torch.Tensor,
        composite: str | tuple = "epsilon_plus",
        gradients: bool = False,
    ):
        self.outputs: dict[str, torch.Tensor] = {}
        self._ways: dict[str, Callable] = {}  # by layer: relevance of its outputs to that of its inputs
        self._gradients = gradients
        with torch.set_grad_enabled(gradients):
            self.logits = self._forward(layers, x, *(COMPOSITES[composite] if isinstance(composite, str) else composite))

    def _forward(self, layers, x, rules, linear):
        rules = itertools.chain(rules, itertools.repeat(rules[-1]))
        steps = [*layers.named_children()]
        for (name, layer), (_, following) in zip(steps, [*steps[1:], ("", None)], strict=True):
            if isinstance(layer, (nn.Dropout, nn.BatchNorm2d)):  # also as it is while training
                continue
            if type(layer) is nn.Conv2d:
                x, way = _convolution(layer, following, x, next(rules))
            elif type(layer) is nn.Linear:
                x, way = _linear(layer, x, linear)
            else:
                x, way = _STEPS[type(layer)](layer, x)
            self.outputs[name], self._ways[name] = x, way
        return x

    def start(self, classes: Sequence[int], clips: Sequence[int] | None = None) -> torch.Tensor:
        """Relevance (rows, classes) at the output: in each row one class's logit, and nothing for the others.

        ``clips`` says which clip each row is about; without it, all rows are about the only one.
        """
        rows = torch.arange(len(classes))
        relevance = self.logits.new_zeros(len(classes), self.logits.shape[1])
        relevance[rows, classes] = self.logits[rows * 0 if clips is None else clips, classes]
        return relevance

    def back(
        self,
        relevance: torch.Tensor,
        clips: Sequence[int] | None = None,
        after: str | None = None,
        until: str | None = None,
    ) -> torch.Tensor:
        """Relevance, some layers further back.

        Parameters
        ----------
        relevance : (rows, ...)
            Of what layer ``after`` gives; by default the last one.
        clips
            Which clip each row is about; without it, all are about the only one.
        until : layer at whose outputs to stop
            By default the way ends at the network's input.
        """
        names = list(self._ways)
        start = names.index(after) + 1 if after else len(names)
        stop = names.index(until) + 1 if until else 0
        of = (lambda tensor: tensor) if clips is None else (lambda tensor: tensor[clips])
        with torch.set_grad_enabled(self._gradients):
            for name in reversed(names[stop:start]):
                relevance = self._ways[name](relevance, of)
        return relevance


def _stable(z: torch.Tensor) -> torch.Tensor:
    """Moved away from 0 by as much as zennit does."""
    return z + torch.where(z < 0, -1e-6, 1e-6)


def _convolution(layer, norm, x, rule):
    weight, bias = layer.weight, x.new_zeros(layer.out_channels) if layer.bias is None else layer.bias
    if isinstance(norm, nn.BatchNorm2d):
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight, bias = weight * scale[:, None, None, None], (bias - norm.running_mean) * scale + norm.bias
    out = F.conv2d(x, weight, bias, padding=layer.padding)
    if rule == "flat":  # each output to its field of inputs, in equal parts, whatever the channel
        field = torch.ones_like(weight[:1, :1])
        rate = 1 / F.conv2d(torch.ones_like(x[:1, :1]), field, padding=layer.padding) / x.shape[1]
        beyond = [size - 1 - padding for size, padding in zip(layer.kernel_size, layer.padding, strict=True)]

        def way(r, of):
            return F.conv2d(r.sum(1, keepdim=True) * rate, field, padding=beyond).expand(-1, x.shape[1], -1, -1)

        return out, way
    terms = []
    for factor, part in _RULES[rule]:
        v = part(weight)
        terms.append((v, factor / _stable(F.conv2d(x, v, part(bias), padding=layer.padding))))
    return out, lambda r, of: of(x) * sum(F.conv_transpose2d(of(rate) * r, v, padding=layer.padding) for v, rate in terms)


def _linear(layer, x, rule):
    bias = x.new_zeros(layer.out_features) if layer.bias is None else layer.bias
    terms = []
    for factor, part in _RULES[rule]:
        v = part(layer.weight)
        terms.append((v, factor / _stable(F.linear(x, v, part(bias)))))
    return layer(x), lambda r, of: of(x) * sum((of(rate) * r) @ v for v, rate in terms)


def _relu(layer, x):
    return x.clamp(min=0), lambda r, of: r


def _max_pool(layer, x):
    size = layer.kernel_size
    out, winners = F.max_pool2d(x, size, return_indices=True)
    wins = F.max_unpool2d(torch.ones_like(out), winners, size, output_size=x.shape[2:])
    beyond = (0, x.shape[3] % size, 0, x.shape[2] % size)  # cells that fill no window
    return out, lambda r, of: of(wins) * F.pad(F.interpolate(r, scale_factor=size), beyond)


def _time_pool(layer, x):
    mean = x.mean(3, keepdim=True)
    largest, winners = x.max(3, keepdim=True)
    wins = torch.zeros_like(x).scatter_(3, winners, 1)
    parts = x / x.shape[3] / _stable(mean)

    def way(r, of):
        to_mean, to_largest = r.chunk(2, 1)
        return of(parts) * to_mean + of(wins) * to_largest

    return torch.cat([mean, largest], 1), way


def _flatten(layer, x):
    return layer(x), lambda r, of: r.reshape(-1, *x.shape[1:])


_STEPS = {nn.ReLU: _relu, nn.MaxPool2d: _max_pool, TimePool: _time_pool, nn.Flatten: _flatten}
