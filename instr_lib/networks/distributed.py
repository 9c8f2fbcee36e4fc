"""One process or several: what the training loop needs of them.

The loop of :func:`instr_lib.training.train` calls a handful of methods of
``lightning.fabric.Fabric``; :class:`OneProcess` has the same ones for when there is no Fabric.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn


def has_bfloat16(device: torch.device | None = None) -> bool:
    """Whether the device computes in bfloat16 by itself; by default the one that training would take."""
    device = device or OneProcess().device
    return device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


class OneProcess:
    """What the training loop uses of a Fabric: one process, on the GPU if there is one, else on the CPU."""

    global_rank, world_size = 0, 1

    def __init__(self):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def setup(self, model, optimizer):
        return model, optimizer

    def autocast(self):
        # bfloat16 where the hardware has it: the same result to within noise, in less time.
        return torch.autocast(self.device.type, torch.bfloat16, enabled=has_bfloat16(self.device))

    def backward(self, loss):
        loss.backward()

    def all_reduce(self, value):
        return value

    def barrier(self):
        pass


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by mean and variance over the batches of all processes of a Fabric, be it one.

    PyTorch's SyncBatchNorm computes the same on GPUs only; and its BatchNorm2d, on a CPU and with channels
    last, adds up with an error of 1e-3 that is another one for another batch size.
    """

    fabric = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (n, c, h, w)
        if not self.training:
            return super().forward(x)
        wide, over = x.float(), (0, 2, 3)
        count = self._sum(torch.full((1,), x.numel() / x.shape[1], device=x.device))
        mean = self._sum(wide.sum(over)) / count
        offset = wide - mean[:, None, None]
        variance = self._sum(offset.square().sum(over)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return (offset * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _sum(self, value: torch.Tensor) -> torch.Tensor:
        every = self.fabric.all_gather(value, sync_grads=True)  # gradients go to every process
        return every.reshape(-1, *value.shape).sum(0)


class _InLayout(torch.autograd.Function):
    """The same values in another order in memory; gradients come back in the order given last."""

    @staticmethod
    def forward(ctx, x, there, back):
        ctx.back = back
        return x.contiguous(memory_format=there)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.contiguous(memory_format=ctx.back), None, None


class ChannelsFirstBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that is handed its bfloat16 batches channel by channel and gives them back with channels last.

    For eight channels or fewer PyTorch's own takes eight times as long with channels last on a CPU: for the
    report's first layer, 0.5 s of a step of 1.2 s.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or x.dtype != torch.bfloat16:
            return super().forward(x)
        first, last = torch.contiguous_format, torch.channels_last
        return _InLayout.apply(super().forward(_InLayout.apply(x, first, last)), last, first)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by what it has learned, also while training; scale and offset still learn."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        offset = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype)[:, None, None] + offset.to(x.dtype)[:, None, None]


@contextlib.contextmanager
def training_batch_norm(model: nn.Module, fabric, frozen: bool = False):
    """How a network's batch normalisation is computed for as long as it trains.

    With a Fabric over the batches of all its processes; without, by PyTorch, in the layout that suits it; or frozen.
    """
    layers = [m for m in model.modules() if type(m) is nn.BatchNorm2d]
    for layer in layers:  # the same parameters and buffers, computed with differently
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
