"""Answers to heatmaps: which cells, and which hidden channels, an answer comes from."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["attribution", "concepts", "dissection", "lrp", "methods", "prior", "maximisation"],
    submod_attrs={"attribution": ["relevance"], "methods": ["METHODS"]},
)
