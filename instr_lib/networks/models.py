"""The three networks.

All take log-mel spectrograms in dB, float32 (n, 1, 128, 431), and return logits (n, 12). Each has a
``preprocess`` without parameters, which converts dB to network input, followed by ``layers``, an
``nn.Sequential`` of Conv → BatchNorm → MaxPool → ReLU blocks. Pooling before ReLU gives the same
result as pooling after it (both are monotone) at a quarter of the cost. Chapter 3 shows
``OriginalCNN`` and ``CompactCNN`` layer by layer, chapter 9 uses ``RobustCNN``.
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
    """dB to network input: silence becomes exactly 0, full scale 1.

    Silence must be 0 because relevance is distributed in proportion to the input: a silent cell then
    gets none.

    Parameters
    ----------
    size : tuple of int, optional
        Height and width to resize to; by default the input stays on the mel grid.
    channels : int
        The one channel is repeated this many times.
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
    """The original report's network, with exactly its 855,948 parameters.

    Its input is the spectrogram resized to 400 × 400, on three equal channels. The report names a
    dropout layer but not its rate; 0.5 is assumed.
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
    """Mean and maximum over time, concatenated: (n, c, bands, frames) to (n, 2 c, bands, 1)."""

    def __init__(self, bands: int):
        super().__init__()
        # Modules, not functions, so that relevance rules can be attached to them.
        self.mean, self.max = nn.AdaptiveAvgPool2d((bands, 1)), nn.AdaptiveMaxPool2d((bands, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.mean(x), self.max(x)], dim=1)


class CompactCNN(nn.Module):
    """A quarter of the parameters, on the 128 × 431 grid itself, so that its input cells are mel cells.

    It pools over time before the linear layer, so it cannot tie an instrument to a moment of the clip.
    """

    input_shape = (1, N_MELS, N_FRAMES)
    widths = (16, 32, 64, 96, 128)  # channels of the five convolutions

    def __init__(self):
        super().__init__()
        self.preprocess = Preprocess(None if self.input_shape[1:] == (N_MELS, N_FRAMES) else self.input_shape[1:])
        w1, w2, w3, w4, w5 = self.widths
        self.layers = nn.Sequential(
            OrderedDict(
                [
                    *_block(1, 1, w1, padding=1),  # (16, 64, 215)
                    *_block(2, w1, w2, padding=1),  # (32, 32, 107)
                    *_block(3, w2, w3, padding=1),  # (64, 16, 53)
                    *_block(4, w3, w4, padding=1),  # (96, 8, 26)
                    *_block(5, w4, w5, padding=1),  # (128, 4, 13)
                    ("time_pool", MeanMaxPool(4)),  # (256, 4, 1)
                    ("flatten", nn.Flatten()),  # (1024,)
                    ("dropout", nn.Dropout(0.2)),
                    ("linear", nn.Linear(2 * w5 * 4, len(INSTRUMENTS))),
                ]
            )
        )

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        return self.layers(self.preprocess(mels))


class RobustCNN(CompactCNN):
    """CompactCNN with half the frames, and more channels where they cost least.

    It trains twice as fast, so that it can learn from many soundfonts, rooms and registers in the same time (chapter 9).
    """

    input_shape = (1, N_MELS, 216)
    widths = (16, 32, 64, 128, 192)


ARCHITECTURES = {"original": OriginalCNN, "compact": CompactCNN, "robust": RobustCNN}


def layer_table(model: nn.Module) -> list[tuple[str, tuple[int, ...], int]]:
    """Each layer of ``model.layers`` in order: (class name, output shape without the batch, number of parameters)."""
    rows, x = [], torch.zeros(1, *model.input_shape)
    with torch.no_grad():
        for layer in copy.deepcopy(model.layers).eval():  # a copy, so that the model keeps its batch statistics and mode
            x = layer(x)
            rows.append((type(layer).__name__, tuple(x.shape[1:]), sum(p.numel() for p in layer.parameters())))
    return rows
