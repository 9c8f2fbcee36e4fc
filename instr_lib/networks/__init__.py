"""Clips to answers: architectures, published weights, training and evaluation."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["distributed", "evaluation", "models", "training", "weights"],
    submod_attrs={
        "models": ["ARCHITECTURES", "CompactCNN", "OriginalCNN", "RobustCNN"],
        "weights": ["load_model", "save_model"],
        "training": ["TrainSettings", "train"],
        "evaluation": ["evaluate", "predict"],
    },
)
