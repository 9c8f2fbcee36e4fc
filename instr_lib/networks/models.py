"""The three networks and their published weights.

All take log-mel spectrograms in dB, float32 (n, 1, 128, 431), and give logits (n, 12). Each is a
``preprocess`` without parameters, which makes network input of dB, followed by ``layers``, an
``nn.Sequential`` of Conv → BatchNorm → MaxPool → ReLU blocks. Pooling before ReLU computes the same
as after it (both are monotone) and costs a quarter. Chapter 3 shows them layer by layer.

Beside weights ``x.safetensors`` lies ``x.json``: how they came to be and what they scored, with the
SHA-256 of the weights that it describes. It is read and written only through this module.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from ..constants import FLOOR_DB, N_FRAMES, N_MELS
from ..music.instruments import INSTRUMENTS


class Preprocess(nn.Module):
    """dB to network input: silence to exactly 0, full scale to 1; resized and repeated if asked.

    Silence must be 0 because relevance is shared out in proportion to the input: a silent cell then
    gets none.
    """

    def __init__(self, size: tuple[int, int] | None = None, channels: int = 1):
        super().__init__()
        self.size, self.channels = size, channels

    def normalise(self, mels: torch.Tensor) -> torch.Tensor:
        """dB (n, 1, 128, 431) to 0 … 1, same shape."""
        return ((mels - FLOOR_DB) / -FLOOR_DB).clamp(0, 1)

    def resize(self, unit: torch.Tensor) -> torch.Tensor:
        """0 … 1 (n, 1, 128, 431) to network input (n, channels, *size)."""
        if self.size is not None:
            unit = F.interpolate(unit, self.size, mode="bilinear", align_corners=False)
        return unit.expand(-1, self.channels, -1, -1)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        return self.resize(self.normalise(mels))


def _block(number: int, inputs: int, outputs: int, padding: int) -> list[tuple[str, nn.Module]]:
    return [
        (f"conv{number}", nn.Conv2d(inputs, outputs, 3, padding=padding)),
        (f"bn{number}", nn.BatchNorm2d(outputs)),
        (f"pool{number}", nn.MaxPool2d(2)),
        (f"relu{number}", nn.ReLU()),
    ]


class OriginalCNN(nn.Module):
    """The original report's network: its table to the last parameter (855 948).

    Sees the spectrogram enlarged to 400 × 400 on three equal channels. The report names a dropout
    layer but not its rate; 0.5 is assumed.
    """

    input_shape = (3, 400, 400)

    def __init__(self):
        super().__init__()
        self.preprocess = Preprocess(self.input_shape[1:], self.input_shape[0])
        side = self.input_shape[1]
        for _ in range(4):
            side = (side - 2) // 2  # an unpadded convolution takes two pixels, pooling takes half
        self.layers = nn.Sequential(
            OrderedDict(
                [
                    *_block(1, 3, 8, padding=0),  # (8, 199, 199)
                    *_block(2, 8, 16, padding=0),  # (16, 98, 98)
                    *_block(3, 16, 32, padding=0),  # (32, 48, 48)
                    *_block(4, 32, 128, padding=0),  # (128, 23, 23)
                    ("flatten", nn.Flatten()),  # (67712,)
                    ("dropout", nn.Dropout(0.5)),
                    ("linear", nn.Linear(128 * side * side, len(INSTRUMENTS))),
                ]
            )
        )

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        return self.layers(self.preprocess(mels))


class MeanMaxPool(nn.Module):
    """Mean and maximum over time, side by side: (n, c, bands, frames) to (n, 2 c, bands, 1)."""

    def __init__(self, bands: int):
        super().__init__()
        # Modules, not functions, so that relevance rules can be attached to them.
        self.mean, self.max = nn.AdaptiveAvgPool2d((bands, 1)), nn.AdaptiveMaxPool2d((bands, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.mean(x), self.max(x)], dim=1)


class CompactCNN(nn.Module):
    """A quarter of the parameters on the 128 × 431 grid itself, so that its input cells are mel cells.

    It pools over time before it decides, so it cannot tie an instrument to a moment of the clip.
    """

    input_shape = (1, N_MELS, N_FRAMES)
    widths = (16, 32, 64, 96, 128)  # channels of the five convolutions

    def __init__(self):
        super().__init__()
        self.preprocess = Preprocess(None if self.input_shape[1:] == (N_MELS, N_FRAMES) else self.input_shape[1:])
        one, two, three, four, five = self.widths
        self.layers = nn.Sequential(
            OrderedDict(
                [
                    *_block(1, 1, one, padding=1),  # (16, 64, 215)
                    *_block(2, one, two, padding=1),  # (32, 32, 107)
                    *_block(3, two, three, padding=1),  # (64, 16, 53)
                    *_block(4, three, four, padding=1),  # (96, 8, 26)
                    *_block(5, four, five, padding=1),  # (128, 4, 13)
                    ("time_pool", MeanMaxPool(4)),  # (256, 4, 1)
                    ("flatten", nn.Flatten()),  # (1024,)
                    ("dropout", nn.Dropout(0.2)),
                    ("linear", nn.Linear(2 * five * 4, len(INSTRUMENTS))),
                ]
            )
        )

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        return self.layers(self.preprocess(mels))


class RobustCNN(CompactCNN):
    """CompactCNN on every two frames as one, and with more channels where they cost least.

    It learns twice as fast, so that it can hear many soundfonts, rooms and registers in the same time (chapter 9).
    """

    input_shape = (1, N_MELS, 216)
    widths = (16, 32, 64, 128, 192)


ARCHITECTURES = {"original": OriginalCNN, "compact": CompactCNN, "robust": RobustCNN}


def layer_table(model: nn.Module) -> list[tuple[str, tuple[int, ...], int]]:
    """Each layer of ``model.layers`` in order: (kind, output shape without the batch, parameters)."""
    rows, x = [], torch.zeros(1, *model.input_shape)
    with torch.no_grad():
        for layer in copy.deepcopy(model.layers).eval():  # a copy keeps its statistics and mode as they are
            x = layer(x)
            rows.append((type(layer).__name__, tuple(x.shape[1:]), sum(p.numel() for p in layer.parameters())))
    return rows
