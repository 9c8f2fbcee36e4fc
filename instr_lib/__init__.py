"""What does a network listen to when it recognises an instrument, and is the explanation true?

The modules follow the way of the data; each imports only from those before it: ``instruments``,
``score``, ``synth``, ``spectrogram``, ``variation``, ``dataset``, ``models``, ``evaluation``, ``augmentation``,
``training``, ``lrp``, ``relevance``, ``concepts``, ``naming``, ``truth``, ``truthful``, ``methods``, ``interventions``,
``curated``, ``listening``, ``recorded``, ``plots``, ``explorer``, ``explorer_page``. Beside the way lie ``errors``,
``memory``, ``folders`` (one writer a folder), ``processes`` (one process or several) and ``results`` (kept as JSON).
The names below are offered here too.
"""

import sys
from importlib import import_module
from types import ModuleType

from . import errors
from .errors import *  # noqa: F403
from .instruments import INSTRUMENTS, Instrument, instrument_index, instrument_indices

__version__ = "0.1.0"

# Imported on first use: a process that only generates clips then never loads torch (2 s, 300 MB).
_LAZY = {
    "score": ("Note", "Score", "random_score"),
    "synth": ("Playing", "Synth", "find_soundfont"),
    "spectrogram": ("log_mel",),
    "variation": ("Variation",),
    "dataset": ("ClipDataset", "clip_score", "generate"),
    "models": (
        *("ARCHITECTURES", "CompactCNN", "OriginalCNN", "RobustCNN", "layer_table"),
        *("add_info", "load_model", "model_info", "models_info", "save_model"),
    ),
    "evaluation": ("bootstrap_f1", "f1_scores", "predict", "test_scores"),
    "augmentation": ("Augmentation",),
    "training": ("TrainSettings", "describe_run", "positive_weights", "train"),
    "relevance": ("relevance",),
    "lrp": (),
    "concepts": (),
    "naming": (),
    "truth": ("ownership",),
    "truthful": (),
    "methods": (),
    "interventions": (),
    "curated": ("curated_clips",),
    "recorded": ("recorded_notes",),
    "listening": (),
    "report": (),
    "results": (),
    "plots": (),
    "explorer": ("player",),
    "explorer_page": (),
}
_HOME = {name: module for module, names in _LAZY.items() for name in names}

__all__ = ["INSTRUMENTS", "Instrument", "instrument_index", "instrument_indices", *_HOME]
__all__ += [name for name in vars(errors) if name.endswith("Error")]


def __getattr__(name: str):
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in _LAZY:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__():
    return sorted({*globals(), *_LAZY, *_HOME})


class _Package(ModuleType):
    """Importing the submodule ``relevance`` must not hide the function ``il.relevance``."""

    def __setattr__(self, name, value):
        if name == "relevance" and isinstance(value, ModuleType):
            value = value.relevance
        super().__setattr__(name, value)

    def __reduce__(self):
        """By name, like any module, so that functions of a notebook that use the package reach joblib's workers."""
        return import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Package
