"""Sounds that come with the library, and the numbers of the original report."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["curated", "original_report", "recorded"],
    submod_attrs={"curated": ["CuratedClip", "curated_clips"], "recorded": ["RecordedNote", "recorded_notes"]},
)
