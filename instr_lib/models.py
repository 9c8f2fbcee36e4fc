"""The three networks and their published weights.

All take log-mel spectrograms in dB, float32 (n, 1, 128, 431), and give logits (n, 12). Each is a
``front`` without parameters, which makes network input of dB, followed by ``layers``, an
``nn.Sequential`` of Conv → BatchNorm → MaxPool → ReLU blocks. Pooling before ReLU computes the same
as after it (both are monotone) and costs a quarter. Chapter 3 shows them layer by layer.

Beside weights ``x.safetensors`` lies ``x.json``: how they came to be and what they scored, with the
SHA-256 of the weights that it describes. It is read and written only through this module.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from .errors import WeightsError
from .instruments import INSTRUMENTS
from .spectrogram import FLOOR_DB, N_FRAMES, N_MELS


class Front(nn.Module):
    """dB to network input: silence to exactly 0, full scale to 1; resized and repeated if asked.

    Silence must be 0 because relevance is shared out in proportion to the input: a silent cell then
    gets none.
    """

    def __init__(self, size: tuple[int, int] | None = None, channels: int = 1):
        super().__init__()
        self.size, self.channels = size, channels

    def unit(self, mels: torch.Tensor) -> torch.Tensor:
        """dB (n, 1, 128, 431) to 0 … 1, same shape."""
        return ((mels - FLOOR_DB) / -FLOOR_DB).clamp(0, 1)

    def enlarge(self, unit: torch.Tensor) -> torch.Tensor:
        """0 … 1 (n, 1, 128, 431) to network input (n, channels, *size)."""
        if self.size is not None:
            unit = F.interpolate(unit, self.size, mode="bilinear", align_corners=False)
        return unit.expand(-1, self.channels, -1, -1)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        return self.enlarge(self.unit(mels))


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
        self.front = Front(self.input_shape[1:], self.input_shape[0])
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
        return self.layers(self.front(mels))


class TimePool(nn.Module):
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
        self.front = Front(None if self.input_shape[1:] == (N_MELS, N_FRAMES) else self.input_shape[1:])
        one, two, three, four, five = self.widths
        self.layers = nn.Sequential(
            OrderedDict(
                [
                    *_block(1, 1, one, padding=1),  # (16, 64, 215)
                    *_block(2, one, two, padding=1),  # (32, 32, 107)
                    *_block(3, two, three, padding=1),  # (64, 16, 53)
                    *_block(4, three, four, padding=1),  # (96, 8, 26)
                    *_block(5, four, five, padding=1),  # (128, 4, 13)
                    ("time_pool", TimePool(4)),  # (256, 4, 1)
                    ("flatten", nn.Flatten()),  # (1024,)
                    ("dropout", nn.Dropout(0.2)),
                    ("linear", nn.Linear(2 * five * 4, len(INSTRUMENTS))),
                ]
            )
        )

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        return self.layers(self.front(mels))


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


def models_folder() -> Path:
    """Where the published weights are: ``$INSTR_MODELS`` or ``models/`` beside the library."""
    return Path(os.environ.get("INSTR_MODELS") or Path(__file__).resolve().parents[1] / "models")


def save_model(model: nn.Module, path: str | os.PathLike, **about) -> Path:
    """Write weights as safetensors, whole or not at all, and ``about`` them as JSON beside.

    Returns the path of the weights; the JSON has the same name with the ending ``.json`` and says
    besides which architecture the weights belong to and what their SHA-256 is.

    Raises
    ------
    WeightsError
        If the model is none of ours, or JSON cannot hold ``about``. Nothing is written then.
    """
    path = Path(path)
    architecture = next((name for name, kind in ARCHITECTURES.items() if type(model) is kind), None)
    if architecture is None:
        raise WeightsError(
            f"{type(model).__name__} is none of our networks: save_model writes "
            + ", ".join(kind.__name__ for kind in ARCHITECTURES.values())
        )
    _json(about, path)  # refuses before the weights are replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, part, {"architecture": architecture})
    os.replace(part, path)
    # A kill just here leaves the old JSON beside new weights: the SHA-256 tells.
    _write_info(path, {"architecture": architecture, "sha256": _sha256(path), **about})
    return path


def add_info(which: str | os.PathLike, **more) -> dict:
    """Add to the JSON beside weights, whole or not at all, and return all of it.

    Parameters
    ----------
    which : str or path
        As for :func:`load_model`.
    **more
        New keys, or new values of old ones.

    Raises
    ------
    WeightsError
        As :func:`model_info`, and if JSON cannot hold ``more`` (NaN, for one).
    """
    path, _ = _locate(which)
    info = {**model_info(path), **more}
    _write_info(path, info)
    return info


def _json(info: dict, path: Path) -> str:
    try:
        return json.dumps(info, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"{path.with_suffix('.json')} cannot hold this ({error}): give it plain numbers, and None for NaN"
        ) from None


def _write_info(path: Path, info: dict):
    part = path.with_suffix(".part")
    part.write_text(_json(info, path))
    os.replace(part, path.with_suffix(".json"))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _locate(which: str | os.PathLike) -> tuple[Path, str | None]:
    """The file of weights and, if they are asked for by name, the architecture they must have."""
    if str(which) in ARCHITECTURES:
        return models_folder() / f"{which}.safetensors", str(which)
    return Path(which), None


def load_model(which: str | os.PathLike) -> nn.Module:
    """A network with trained weights, in eval mode.

    Parameters
    ----------
    which : str or path
        ``"original"``, ``"compact"`` or ``"robust"`` for the published weights, or a ``.safetensors`` file written
        by :func:`save_model`.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, belongs to another architecture, or is not what the JSON
        beside it describes.
    """
    path, expected = _locate(which)
    if not path.is_file():
        known = ", ".join(f"'{name}'" for name in ARCHITECTURES)
        raise WeightsError(f"there are no weights at {path}: give one of {known}, or a .safetensors file of chapter 3")
    try:
        with safe_open(path, "pt") as file:
            architecture = (file.metadata() or {}).get("architecture")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file ({error}): train again or restore it") from None
    if architecture not in ARCHITECTURES or (expected and architecture != expected):
        raise WeightsError(
            f"{path} holds weights of architecture {architecture!r}, not {expected or ' or '.join(ARCHITECTURES)!r}: "
            "choose the file that belongs to the network"
        )
    model = ARCHITECTURES[architecture]()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{path} does not fit {type(model).__name__} ({str(error).splitlines()[-1].strip()}): "
            "choose the file that belongs to the network, or train again"
        ) from None
    if not all(torch.isfinite(v).all() for v in state.values()):
        raise WeightsError(f"{path} contains NaN or infinity: train again or restore it")
    if path.with_suffix(".json").exists():
        model_info(path)
    return model.eval()


def model_info(which: str | os.PathLike) -> dict:
    """What is written about weights: architecture, sha256, data, settings, curve, test scores.

    Parameters
    ----------
    which : str or path
        As for :func:`load_model`.

    Raises
    ------
    WeightsError
        If the JSON beside the weights is missing, damaged, or describes other weights.
    """
    weights = _locate(which)[0].with_suffix(".safetensors")
    path = weights.with_suffix(".json")
    try:
        info = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error}): restore it or train again") from None
    if not isinstance(info, dict) or info.get("architecture") not in ARCHITECTURES or "sha256" not in info:
        raise WeightsError(f"{path} does not say which weights it describes: restore it or train again")
    if not weights.is_file():
        raise WeightsError(f"{path} describes weights that are not beside it: restore {weights.name} or train again")
    if _sha256(weights) != info["sha256"]:
        raise WeightsError(f"{path} describes other weights than {weights.name}: restore both together, or train again")
    return info


def models_info(folder: str | os.PathLike) -> dict[str, dict]:
    """:func:`model_info` of all weights in a folder by name, such as ``"compact-1"``, original networks first.

    Empty if there are none, or no such folder. Raises what :func:`model_info` raises.
    """
    info = {file.stem: model_info(file) for file in Path(folder).glob("*.json")}
    kinds = list(ARCHITECTURES)
    return dict(sorted(info.items(), key=lambda item: (kinds.index(item[1]["architecture"]), item[0])))
