"""Heatmaps to grades: is relevance in the right place, and for the right reason?"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["causal", "edits", "experiments", "grading", "localisation", "sanity", "source_maps", "stems"],
    submod_attrs={"stems": ["ownership", "pairs_from_stems", "render_pairs"], "grading": ["compute_heatmaps", "grade"]},
)
