"""Sound to clips: what does the network get to see?"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["augmentation", "dataset", "recordings", "spectrogram"],
    submod_attrs={
        "spectrogram": ["log_mel"],
        "dataset": ["ClipDataset", "clip_score", "generate"],
        "augmentation": ["Augmentation"],
        "recordings": ["Recording", "load_recording"],
    },
)
