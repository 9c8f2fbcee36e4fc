"""What does a network listen to when it recognises an instrument, and is the explanation true?

The library has six rooms, in the order in which the data pass through them:

``music``     notes to sound: instruments, scores, MIDI, FluidSynth, domain randomisation
``data``      sound to clips: mel spectrograms, data sets, augmentation, recordings
``networks``  clips to answers: architectures, published weights, training, evaluation
``explain``   answers to heatmaps: relevance propagation, concepts, other attribution methods
``truth``     heatmaps to grades: stems, localisation, causal scores, edits of the music
``show``      everything to figures, players, widgets and pages

``samples`` holds the sounds that ship with the library. A room imports only from the rooms above it in this list.
ARCHITECTURE.md in the repository draws the way of the data.
"""

import lazy_loader as _lazy

__version__ = "0.2.0"

# Imported on first use: a process that only generates clips then never loads torch (2 s, 300 MB).
__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        *("music", "data", "samples", "networks", "explain", "truth", "show"),
        *("constants", "errors", "memory", "results", "stats"),
    ],
    submod_attrs={
        "errors": [
            *("AudioError", "DatasetError", "InputError", "InstrError", "InstrumentError", "ResultsError"),
            *("ScoreError", "SoundfontError", "SynthError", "TrainingError", "WeightsError"),
        ],
        "memory": ["tune_malloc"],
        "stats": ["Interval"],
        "music.instruments": ["INSTRUMENTS", "Instrument", "instrument_index", "instrument_indices"],
        "music.score": ["Note", "Score", "random_score"],
        "music.soundfonts": ["find_soundfont"],
        "music.synth": ["Synth", "SynthOverrides"],
        "music.randomisation": ["DomainRandomisation"],
        "data.spectrogram": ["log_mel"],
        "data.dataset": ["ClipDataset", "clip_score", "generate"],
        "data.augmentation": ["Augmentation"],
        "data.recordings": ["Recording", "load_recording"],
        "samples.curated": ["curated_clips"],
        "samples.recorded": ["recorded_notes"],
        "networks.models": ["ARCHITECTURES", "CompactCNN", "OriginalCNN", "RobustCNN", "layer_table"],
        "networks.weights": ["add_info", "load_model", "model_info", "models_info", "save_model"],
        "networks.evaluation": ["bootstrap_f1", "evaluate", "f1_scores", "predict"],
        "networks.training": ["TrainSettings", "describe_run", "pos_weight", "train"],
        "explain.attribution": ["relevance"],
        "truth.stems": ["ownership"],
        "show.audio": ["player"],
    },
)
