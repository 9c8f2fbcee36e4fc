"""Notes to sound: which notes does a clip have, and how do they sound?"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["instruments", "midi", "randomisation", "renderers", "score", "soundfonts", "synth"],
    submod_attrs={
        "instruments": ["INSTRUMENTS", "Instrument", "instrument_index", "instrument_indices"],
        "randomisation": ["DomainRandomisation"],
        "renderers": ["Renderer", "SoundfontRenderer"],
        "score": ["Note", "Score", "random_score"],
        "soundfonts": ["SOUNDFONTS", "find_soundfont"],
        "synth": ["Synth", "SynthOverrides", "cached_synth"],
    },
)
