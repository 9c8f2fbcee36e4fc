"""What can go wrong, by name. Every message names the thing and the remedy."""


class InstrError(Exception):
    """Base of every error this library raises on purpose."""


class InstrumentError(InstrError):
    """An instrument name or index that is not one of the twelve."""


class ScoreError(InstrError):
    """A score or a MIDI file that cannot be used as a clip."""


class SynthError(InstrError):
    """FluidSynth is missing or cannot do what was asked."""


class SoundfontError(SynthError):
    """A soundfont that is missing, damaged or lacks a program."""


class AudioError(InstrError):
    """Sound of the wrong length, shape or rate, or with values that are not numbers."""


class InputError(InstrError):
    """An argument of the wrong shape, type or range."""


class DatasetError(InstrError):
    """A dataset folder that is incomplete, altered or made with other settings."""


class WeightsError(InstrError):
    """Weights that are missing, damaged or belong to another architecture."""


class TrainingError(InstrError):
    """A training run that cannot start or go on."""


class ResultsError(InstrError):
    """A file of results that is missing, damaged or of other settings."""
