"""Everything to figures, players, widgets and pages."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["audio", "pages", "plots", "widgets"],
    submod_attrs={"audio": ["audio_players", "player"]},
)
