"""Training in one process or in several.

The loop of :func:`instr_lib.networks.training.train` calls a few methods of ``lightning.fabric.Fabric``.
:class:`OneProcess` has the same methods for training without Fabric. The page "Scaling out" uses both; chapter 7
fine-tunes with frozen batch normalisation.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn


def has_bfloat16(device: torch.device | None = None) -> bool:
    """Whether the device supports bfloat16 natively; by default the device that training would use."""
    device = device or OneProcess().device
    return device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


class OneProcess:
    """Stands in for a Fabric: one process, on the GPU if there is one, else on the CPU."""

    global_rank, world_size = 0, 1

    def __init__(self):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def setup(self, model, optimizer):
        return model, optimizer

    def autocast(self):
        # bfloat16 where the hardware supports it: the same result up to rounding noise, in less time.
        return torch.autocast(self.device.type, torch.bfloat16, enabled=has_bfloat16(self.device))

    def backward(self, loss):
        loss.backward()

    def all_reduce(self, value):
        return value

    def barrier(self):
        pass


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with mean and variance over the batches of all processes of a Fabric.

    PyTorch's SyncBatchNorm does the same, but only on GPUs. BatchNorm2d on a CPU with channels last sums with an
    error of 1e-3 that depends on the batch size, so one process of a Fabric uses this class, too.
    """

    fabric = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (n, c, h, w)
        if not self.training:
            return super().forward(x)
        wide, axes = x.float(), (0, 2, 3)
        count = self._sum(torch.full((1,), x.numel() / x.shape[1], device=x.device))
        mean = self._sum(wide.sum(axes)) / count
        offset = wide - mean[:, None, None]
        variance = self._sum(offset.square().sum(axes)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return (offset * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _sum(self, value: torch.Tensor) -> torch.Tensor:
        values = self.fabric.all_gather(value, sync_grads=True)  # gradients go to all processes
        return values.reshape(-1, *value.shape).sum(0)


class _InLayout(torch.autograd.Function):
    """The same values in another memory layout, and their gradients in ``gradient_layout``."""

    @staticmethod
    def forward(ctx, x, layout, gradient_layout):
        ctx.gradient_layout = gradient_layout
        return x.contiguous(memory_format=layout)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.contiguous(memory_format=ctx.gradient_layout), None, None


class ChannelsFirstBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation computed with channels first, for bfloat16 batches with channels last.

    For up to eight channels PyTorch's BatchNorm2d takes eight times as long with channels last on a CPU: for the
    first layer of OriginalCNN, 0.5 s of a step of 1.2 s.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or x.dtype != torch.bfloat16:
            return super().forward(x)
        first, last = torch.contiguous_format, torch.channels_last
        return _InLayout.apply(super().forward(_InLayout.apply(x, first, last)), last, first)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with the stored mean and variance also while training; scale and offset are still trained."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        offset = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype)[:, None, None] + offset.to(x.dtype)[:, None, None]


@contextlib.contextmanager
def training_batch_norm(model: nn.Module, fabric, frozen: bool = False):
    """Replace a network's batch-normalisation layers by those that suit the training, and restore them afterwards.

    With a Fabric: :class:`GlobalBatchNorm2d`. Without: PyTorch's, or :class:`ChannelsFirstBatchNorm2d` where that is
    faster. If ``frozen``: :class:`FrozenBatchNorm2d`.
    """
    layers = [m for m in model.modules() if type(m) is nn.BatchNorm2d]
    for layer in layers:  # only the class changes, parameters and buffers stay
        if frozen:
            layer.__class__ = FrozenBatchNorm2d
        elif not isinstance(fabric, OneProcess):
            layer.__class__, layer.fabric = GlobalBatchNorm2d, fabric
        elif fabric.device.type == "cpu" and layer.num_features <= 8:
            layer.__class__ = ChannelsFirstBatchNorm2d
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.BatchNorm2d
            vars(layer).pop("fabric", None)
