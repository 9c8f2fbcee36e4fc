"""Errors by name: each message says what is wrong and what to do about it.

All are :class:`InstrError`, and each is also the error of Python that a caller would expect: ``ValueError`` for a bad
value, ``OSError`` for a bad file or folder, ``RuntimeError`` for something that cannot run.
"""


class InstrError(Exception):
    """Base of every error that this library raises on purpose."""


class InputError(InstrError, ValueError):
    """An argument of the wrong shape, type or range."""


class InstrumentError(InstrError, ValueError):
    """An instrument name or index that is not one of the twelve."""


class ScoreError(InstrError, ValueError):
    """A score or a MIDI file that cannot be used as a clip."""


class AudioError(InstrError, ValueError):
    """Sound of the wrong length, shape or rate, or with values that are not numbers; a file that holds no usable sound."""


class SynthError(InstrError, RuntimeError):
    """FluidSynth is missing or cannot do what was asked."""


class SoundfontError(SynthError, OSError):
    """A soundfont that is missing, damaged or lacks a program."""

    __new__ = OSError.__new__  # RuntimeError's cannot make what is also an OSError


class DatasetError(InstrError, OSError):
    """A dataset folder that is incomplete, altered or made with other settings."""


class WeightsError(InstrError, OSError):
    """Weights that are missing, damaged or belong to another architecture."""


class ResultsError(InstrError, OSError):
    """A file of results that is missing, damaged or of other settings."""


class TrainingError(InstrError, RuntimeError):
    """A training run that cannot start or continue."""
