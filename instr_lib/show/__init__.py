"""Everything to figures, sound players, widgets and pages.

``plots`` draws, ``audio`` plays, ``pages`` puts both into pages that work without a kernel, ``widgets`` into panels for a
live one. Only ``widgets`` needs ipywidgets and IPython. All chapters use this room.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["audio", "html", "pages", "plots", "widgets"],
    submod_attrs={"audio": ["audio_players", "player"]},
)
