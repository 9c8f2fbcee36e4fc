"""Published weights by name, and files of weights: save, load, and describe them.

Beside weights ``x.safetensors`` lies ``x.json``, which says how they were trained and what they scored, with the
SHA-256 of the weights that it describes. It is read and written only through this module. Chapter 3 saves weights,
every later chapter loads them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .._files import atomic_path, sha256, write_text
from ..errors import WeightsError
from .models import ARCHITECTURES

# The name of every file in weights/ and the architecture that it belongs to. A number is the seed of a further run.
PUBLISHED = {
    "original": "original",
    "original-1": "original",
    "compact": "compact",
    "compact-1": "compact",
    "compact-2": "compact",
    "compact-prior": "compact",  # fine-tuned with an attribution prior, chapter 7
    "robust": "robust",  # trained on five soundfonts, chapter 9
}


def models_folder() -> Path:
    """The folder of the published weights: ``$INSTR_MODELS``, or the one that comes with the library."""
    return Path(os.environ.get("INSTR_MODELS") or Path(__file__).with_name("weights"))


def save_model(model: nn.Module, path: str | os.PathLike, **about) -> Path:
    """Write weights as safetensors, and what is known ``about`` them as JSON; each file whole or not at all.

    Returns the path of the weights. The JSON has the same name with the ending ``.json``; it also holds
    the architecture and the SHA-256 of the weights.

    Raises
    ------
    WeightsError
        If the model's class is not in ``ARCHITECTURES``, or JSON cannot hold ``about``. Nothing is written then.
    """
    path = Path(path)
    architecture = next((name for name, kind in ARCHITECTURES.items() if type(model) is kind), None)
    if architecture is None:
        known = ", ".join(kind.__name__ for kind in ARCHITECTURES.values())
        raise WeightsError(f"{type(model).__name__} is not an architecture of instr_lib: save_model writes {known}")
    _json(about, path)  # raises before the weights are replaced
    with atomic_path(path) as part:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, part, {"architecture": architecture})
    # A process killed here leaves the old JSON beside new weights: model_info notices by the SHA-256.
    _write_info(path, {"architecture": architecture, "sha256": sha256(path), **about})
    return path


def add_info(network: str | os.PathLike, folder: str | os.PathLike | None = None, **more) -> dict:
    """Add to the JSON beside weights, whole or not at all, and return all of it.

    Parameters
    ----------
    network, folder
        As for :func:`load_model`.
    **more
        New keys, or new values of existing ones.

    Raises
    ------
    WeightsError
        As :func:`model_info`, and if JSON cannot hold ``more`` (NaN, for example).
    """
    info = {**model_info(network, folder), **more}
    _write_info(_locate(network, folder)[0], info)
    return info


def load_model(network: str | os.PathLike, folder: str | os.PathLike | None = None) -> nn.Module:
    """A network with trained weights, in eval mode.

    Parameters
    ----------
    network : str or path
        A name in ``PUBLISHED``, such as ``"compact"``, or a ``.safetensors`` file written by :func:`save_model`.
    folder : path, optional
        Take the file of that name from this folder instead.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, belongs to another architecture, or is not what the JSON
        beside it describes.
    """
    path, expected = _locate(network, folder)
    if not path.is_file():
        raise WeightsError(
            f"there are no weights at {path}: give one of {', '.join(PUBLISHED)}, or a .safetensors file of chapter 3; "
            "if a published one is missing, install instr_lib again"
        )
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


def model_info(network: str | os.PathLike, folder: str | os.PathLike | None = None) -> dict:
    """The JSON beside weights: architecture, sha256, data, settings, history, test scores.

    Parameters
    ----------
    network, folder
        As for :func:`load_model`.

    Raises
    ------
    WeightsError
        If the JSON is missing, damaged, or describes other weights.
    """
    weights = _locate(network, folder)[0].with_suffix(".safetensors")
    path = weights.with_suffix(".json")
    try:
        info = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error}): restore it or train again") from None
    if not isinstance(info, dict) or info.get("architecture") not in ARCHITECTURES or "sha256" not in info:
        raise WeightsError(f"{path} does not say which weights it describes: restore it or train again")
    if not weights.is_file():
        raise WeightsError(f"{path} describes weights that are not beside it: restore {weights.name} or train again")
    if sha256(weights) != info["sha256"]:
        raise WeightsError(f"{path} describes other weights than {weights.name}: restore both together, or train again")
    return info


def models_info(folder: str | os.PathLike | None = None) -> dict[str, dict]:
    """:func:`model_info` of all weights in a folder by name, such as ``"compact-1"``, original networks first.

    The default folder is that of the published weights. Empty if it holds no weights or does not exist. Raises what
    :func:`model_info` raises.
    """
    info = {file.stem: model_info(file) for file in Path(folder or models_folder()).glob("*.json")}
    architectures = list(ARCHITECTURES)
    return dict(sorted(info.items(), key=lambda item: (architectures.index(item[1]["architecture"]), item[0])))


def _locate(network: str | os.PathLike, folder: str | os.PathLike | None = None) -> tuple[Path, str | None]:
    """The file of weights and, if they have a published name, the architecture that they must have."""
    name = str(network).removesuffix(".safetensors")
    if folder is not None or str(network) in PUBLISHED:
        return Path(folder or models_folder()) / f"{name}.safetensors", PUBLISHED.get(name)
    return Path(network), None


def _json(info: dict, path: Path) -> str:
    try:
        return json.dumps(info, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"{path.with_suffix('.json')} cannot hold this ({error}): give it plain numbers, and None for NaN"
        ) from None


def _write_info(path: Path, info: dict):
    write_text(path.with_suffix(".json"), _json(info, path))
