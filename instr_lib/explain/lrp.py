"""Layer-wise relevance propagation (LRP): one forward pass, many backward passes.

This module is an optimisation of zennit's rules, and gives the same relevance. zennit explains any network, but
for each output it repeats what all outputs share: the forward pass and the denominators of the rules. The networks of
this library are plain sequences of layers. A :class:`Trace` runs one forward pass and keeps what the rules need; each
backward pass then serves many outputs or hidden channels at once. The tests compare it with zennit, rule by rule.

A rule distributes the relevance R_j of a layer's outputs to its inputs, with values a_i (0 or more), weights w_ij
and biases b_j, by

    R_i = sum over j of  a_i v_ij / (sum over i of a_i v_ij + c_j) R_j

and defines v and c (Montavon et al. 2019, doi:10.1007/978-3-030-28954-6_10): for the epsilon rule they are w and b,
for the z+ rule their positive parts, for the gamma rule w and b plus a quarter of their positive parts. The
alpha-2-beta-1 rule is twice the z+ rule minus the same rule with negative parts. For the flat rule all v and all a are
taken to be 1, and all c to be 0. Max-pooling passes relevance to the maximum, a mean distributes it in proportion,
ReLU and dropout leave it unchanged.

Appendix B works the rules out on paper; chapters 5 to 7 use them through :mod:`instr_lib.explain.attribution`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import InputError
from ..networks.models import MeanMaxPool

# A rule is a sum of terms: a factor, and the function that makes v and c of weights and biases.
_RULES = {
    "epsilon": [(1, lambda w: w)],
    "z+": [(1, lambda w: w.clamp(min=0))],
    "gamma": [(1, lambda w: w + 0.25 * w.clamp(min=0))],
    "alpha2_beta1": [(2, lambda w: w.clamp(min=0)), (-1, lambda w: w.clamp(max=0))],
}
RULES = (*_RULES, "flat")


@dataclass(frozen=True)
class Composite:
    """The rule of each layer.

    Parameters
    ----------
    convolutions : tuple of rules
        From the first convolution on; the last rule also holds for all that follow. ``RULES`` lists the names.
    linear : rule
        Of the linear layers; any except ``"flat"``.

    Raises
    ------
    InputError
        If a rule does not exist.
    """

    convolutions: tuple[str, ...]
    linear: str = "epsilon"

    def __post_init__(self):
        rules = (*self.convolutions, self.linear)
        if not self.convolutions or any(rule not in RULES for rule in rules) or self.linear == "flat":
            raise InputError(f"rules must be among {', '.join(RULES)}, with flat only for convolutions, not {rules}")


# Names as in zennit, where it has the composite.
COMPOSITES = {
    "epsilon_plus": Composite(("z+",)),
    "epsilon_plus_flat": Composite(("flat", "z+")),
    "epsilon_alpha2_beta1": Composite(("alpha2_beta1",)),
    "gamma": Composite(("gamma",), "gamma"),
    # Found by a search over 30 (chapter 7): evidence against an instrument counts from the third convolution on.
    "epsilon_plus_alpha2_beta1": Composite(("z+", "z+", "alpha2_beta1")),
}


def can_trace(layers: nn.Module) -> bool:
    """Whether :class:`Trace` knows all layers of a network, and it ends in a linear one."""
    return not _unknown_layers(layers)


def check_traceable(layers: nn.Module, x: torch.Tensor):
    """Refuse what :class:`Trace` would explain wrongly.

    Raises
    ------
    InputError
        If the network has layers that are not known (the message names them), or its input is negative somewhere.
    """
    if unknown := _unknown_layers(layers):
        raise InputError(
            "the fast engine cannot follow this network channel by channel: it must be a sequence of Conv2d (stride 1), "
            "BatchNorm2d after a Conv2d, MaxPool2d, MeanMaxPool, ReLU, Dropout and Flatten that ends in Linear, not "
            f"{'; '.join(unknown)}. Use il.relevance with engine='zennit', or change these layers"
        )
    if (x < 0).any():
        raise InputError(
            "this network's input is negative where it is silent: give it a preprocess module, as OriginalCNN has"
        )


def _unknown_layers(layers: nn.Module) -> list[str]:
    """What :class:`Trace` does not know, as ``"name: layer"``."""
    if type(layers) is not nn.Sequential or not len(layers):
        return [f"{type(layers).__name__} instead of a Sequential with layers"]
    unknown, positive, before = [], True, None
    for name, layer in _named_layers(layers):
        if not _known(layer) or (type(layer) is nn.BatchNorm2d and type(before) is not nn.Conv2d):
            unknown.append(f"{name}: {layer}")
        elif type(layer) is nn.Conv2d and not positive:  # its rules are for inputs that are not negative
            unknown.append(f"{name}: {layer} without a ReLU before it")
        positive = type(layer) is nn.ReLU or (positive and type(layer) not in (nn.Conv2d, nn.Linear))
        before = layer
    if not unknown and type(before) is not nn.Linear:
        unknown.append(f"{name}: {before} as the last layer")
    return unknown


def _named_layers(layers: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """All layers in order; ``named_children`` would leave out a layer that is used a second time."""
    return list(layers._modules.items())


def _known(layer: nn.Module) -> bool:
    kind = type(layer)
    if kind is nn.Conv2d:
        plain = (layer.stride, layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), (1, 1), 1, "zeros")
        return plain and type(layer.padding) is tuple  # not "same" or "valid"
    if kind is nn.MaxPool2d:
        return layer.kernel_size == layer.stride and type(layer.stride) is int and not (layer.padding or layer.ceil_mode)
    if kind is nn.BatchNorm2d:
        return layer.affine and layer.track_running_stats
    return kind in (nn.ReLU, nn.Dropout, MeanMaxPool, nn.Flatten, nn.Linear)


class Trace:
    """One forward pass through a network, and any number of backward passes.

    Parameters
    ----------
    layers : nn.Sequential
        As :func:`check_traceable` demands. They are only read. Batch normalisation is merged into the convolution
        before it and dropout is left out, in training mode as well.
    x : float32 (clips, channels, h, w)
        0 or more everywhere.
    composite : str or Composite
        A name in ``COMPOSITES``, or one of your own.
    gradients : bool
        Keep what autograd needs for derivatives of relevance, see :mod:`instr_lib.explain.prior`.

    Attributes
    ----------
    logits : (clips, classes)
    outputs : dict
        The output of each layer, by name, without batch normalisation and dropout.
    """

    def __init__(
        self,
        layers: nn.Sequential,
        x: torch.Tensor,
        composite: str | Composite = "epsilon_plus",
        gradients: bool = False,
    ):
        self.outputs: dict[str, torch.Tensor] = {}
        self._backward_fns: dict[str, Callable] = {}  # by layer: relevance of its outputs to that of its inputs
        self._gradients = gradients
        with torch.set_grad_enabled(gradients):
            self.logits = self._forward(layers, x, COMPOSITES[composite] if isinstance(composite, str) else composite)

    def _forward(self, layers, x, composite):
        rules = itertools.chain(composite.convolutions, itertools.repeat(composite.convolutions[-1]))
        steps = _named_layers(layers)
        for (name, layer), (_, following) in zip(steps, [*steps[1:], ("", None)], strict=True):
            if isinstance(layer, (nn.Dropout, nn.BatchNorm2d)):  # includes the classes that replace it in training
                continue
            if type(layer) is nn.Conv2d:
                x, backward_fn = _convolution(layer, following, x, next(rules))
            elif type(layer) is nn.Linear:
                x, backward_fn = _linear(layer, x, composite.linear)
            else:
                x, backward_fn = _STEPS[type(layer)](layer, x)
            self.outputs[name], self._backward_fns[name] = x, backward_fn
        return x

    def init_relevance(self, classes: Sequence[int], clips: Sequence[int] | None = None) -> torch.Tensor:
        """Relevance (rows, classes) at the output: in each row one class's logit, and 0 for the others.

        ``clips`` is the clip of each row; by default all rows belong to the only one.
        """
        rows = torch.arange(len(classes))
        relevance = self.logits.new_zeros(len(classes), self.logits.shape[1])
        relevance[rows, classes] = self.logits[rows * 0 if clips is None else clips, classes]
        return relevance

    def backward(
        self,
        relevance: torch.Tensor,
        clips: Sequence[int] | None = None,
        start_layer: str | None = None,
        stop_layer: str | None = None,
    ) -> torch.Tensor:
        """Propagate relevance backwards.

        Parameters
        ----------
        relevance : (rows, ...)
            At the outputs of ``start_layer``, by default the last layer.
        clips
            The clip of each row; by default all rows belong to the only one.
        stop_layer : name of a layer, optional
            Stop at its outputs; by default at the network's input.
        """
        names = list(self._backward_fns)
        start = names.index(start_layer) + 1 if start_layer else len(names)
        stop = names.index(stop_layer) + 1 if stop_layer else 0
        select = (lambda tensor: tensor) if clips is None else (lambda tensor: tensor[clips])
        with torch.set_grad_enabled(self._gradients):
            for name in reversed(names[stop:start]):
                relevance = self._backward_fns[name](relevance, select)
        return relevance


def _stable(z: torch.Tensor) -> torch.Tensor:
    """Moved away from 0 by zennit's epsilon."""
    return z + torch.where(z < 0, -1e-6, 1e-6)


def _convolution(layer, norm, x, rule):
    weight, bias = layer.weight, x.new_zeros(layer.out_channels) if layer.bias is None else layer.bias
    if isinstance(norm, nn.BatchNorm2d):
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight, bias = weight * scale[:, None, None, None], (bias - norm.running_mean) * scale + norm.bias
    out = F.conv2d(x, weight, bias, padding=layer.padding)
    if rule == "flat":  # from each output to its field of inputs, in equal parts
        field = torch.ones_like(weight[:1, :1])
        rate = 1 / F.conv2d(torch.ones_like(x[:1, :1]), field, padding=layer.padding) / x.shape[1]
        margins = [size - 1 - padding for size, padding in zip(layer.kernel_size, layer.padding, strict=True)]

        def backward_fn(r, select):
            return F.conv2d(r.sum(1, keepdim=True) * rate, field, padding=margins).expand(-1, x.shape[1], -1, -1)

        return out, backward_fn
    terms = []
    for factor, part in _RULES[rule]:
        v = part(weight)
        terms.append((v, factor / _stable(F.conv2d(x, v, part(bias), padding=layer.padding))))
    return (
        out,
        lambda r, select: (
            select(x) * sum(F.conv_transpose2d(select(rate) * r, v, padding=layer.padding) for v, rate in terms)
        ),
    )


def _linear(layer, x, rule):
    bias = x.new_zeros(layer.out_features) if layer.bias is None else layer.bias
    terms = []
    for factor, part in _RULES[rule]:
        v = part(layer.weight)
        terms.append((v, factor / _stable(F.linear(x, v, part(bias)))))
    return layer(x), lambda r, select: select(x) * sum((select(rate) * r) @ v for v, rate in terms)


def _relu(layer, x):
    return x.clamp(min=0), lambda r, select: r


def _max_pool(layer, x):
    size = layer.kernel_size
    out, winners = F.max_pool2d(x, size, return_indices=True)
    wins = F.max_unpool2d(torch.ones_like(out), winners, size, output_size=x.shape[2:])
    margins = (0, x.shape[3] % size, 0, x.shape[2] % size)  # cells that fill no window
    return out, lambda r, select: select(wins) * F.pad(F.interpolate(r, scale_factor=size), margins)


def _time_pool(layer, x):
    mean = x.mean(3, keepdim=True)
    largest, winners = x.max(3, keepdim=True)
    wins = torch.zeros_like(x).scatter_(3, winners, 1)
    parts = x / x.shape[3] / _stable(mean)

    def backward_fn(r, select):
        to_mean, to_largest = r.chunk(2, 1)
        return select(parts) * to_mean + select(wins) * to_largest

    return torch.cat([mean, largest], 1), backward_fn


def _flatten(layer, x):
    return layer(x), lambda r, select: r.reshape(-1, *x.shape[1:])


_STEPS = {nn.ReLU: _relu, nn.MaxPool2d: _max_pool, MeanMaxPool: _time_pool, nn.Flatten: _flatten}
