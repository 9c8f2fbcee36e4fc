"""Heatmaps to grades: is an explanation in the right place, and for the right reason?

``stems`` says which instrument owns which cell; ``localisation`` scores heatmaps against that (right place); ``causal``
takes cells away and asks the network again (right reason); ``sanity`` checks that a method depends on what the network
learned; ``grading`` puts the scores into one row. ``edits`` and ``experiments`` change the music itself and ask again.
Chapters 7 to 9 use this room.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["causal", "edits", "experiments", "grading", "localisation", "sanity", "source_maps", "stems"],
    submod_attrs={"stems": ["ownership", "pairs_from_stems", "render_pairs"], "grading": ["compute_heatmaps", "grade"]},
)
