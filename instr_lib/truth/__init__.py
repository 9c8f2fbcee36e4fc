"""Heatmaps to grades: is an explanation in the right place, and for the right reason?

``stems`` says which instrument owns which cell; ``localisation`` scores heatmaps against that (right place); ``notes``
takes notes away, ``agreement`` compares what that does with the heatmap, and ``causal`` takes cells away (right reason);
``sanity`` checks that a method depends on what the network learned, and ``planted`` plants a reason that is known;
``grading`` puts the scores into one row. ``edits`` and ``experiments`` change the music itself and ask again.
Chapters 7 to 9 use this room.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        *("agreement", "causal", "edits", "experiments", "grading", "localisation", "notes", "planted", "sanity"),
        *("source_maps", "stems"),
    ],
    submod_attrs={
        "agreement": ["note_agreement"],
        "grading": ["compute_heatmaps", "grade"],
        "notes": ["note_effects", "note_parts", "shapley_values"],
        "stems": ["ownership", "pairs_from_stems", "render_pairs"],
    },
)
