"""The twelve General MIDI instruments, in the order of the original report.

An *instrument index* is a position in :data:`INSTRUMENTS`; it is also the network's output
and the column of every label array. A *program* is the General MIDI number, 0 to 127. Every chapter uses it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..errors import InstrumentError


class Instrument(NamedTuple):
    """One instrument: its name as in the report and its General MIDI program, counted from 0."""

    name: str
    program: int


INSTRUMENTS = (
    Instrument("Acoustic Grand Piano", 0),
    Instrument("Nylon Acoustic Guitar", 24),
    Instrument("String Ensemble 1", 48),
    Instrument("Piccolo", 72),
    Instrument("Celesta", 8),
    Instrument("Acoustic Bass", 32),
    Instrument("Trumpet", 56),
    Instrument("Square Wave Lead", 80),
    Instrument("Hammond Organ", 16),
    Instrument("Violin", 40),
    Instrument("Soprano Sax", 64),
    Instrument("New Age Pad", 88),
)
_BY_NAME = {instrument.name.lower(): i for i, instrument in enumerate(INSTRUMENTS)}
BY_PROGRAM = {instrument.program: i for i, instrument in enumerate(INSTRUMENTS)}


def instrument_index(instrument: str | int) -> int:
    """Index into :data:`INSTRUMENTS` of a name (in upper or lower case) or an index.

    Raises
    ------
    InstrumentError
        If there is no such instrument; the message suggests the nearest name.
    """
    if isinstance(instrument, str):
        if instrument.lower() in _BY_NAME:
            return _BY_NAME[instrument.lower()]
        nearest = difflib.get_close_matches(instrument.lower(), _BY_NAME, n=1, cutoff=0.4)
        hint = f"did you mean '{INSTRUMENTS[_BY_NAME[nearest[0]]].name}'?" if nearest else "see il.INSTRUMENTS"
        raise InstrumentError(f"no instrument is called '{instrument}': {hint}")
    try:
        index = int(instrument)
    except (TypeError, ValueError, OverflowError):
        raise InstrumentError(
            f"{instrument!r} is neither the name nor the index of an instrument: see il.INSTRUMENTS"
        ) from None
    if index != instrument or isinstance(instrument, (bool, np.bool_)) or not 0 <= index < len(INSTRUMENTS):
        raise InstrumentError(f"no instrument has index {instrument!r}: indices go from 0 to {len(INSTRUMENTS) - 1}")
    return index


def instrument_indices(instruments: Iterable[str | int]) -> tuple[int, ...]:
    """Ascending indices, without repetition, of several names or indices.

    Raises
    ------
    InstrumentError
        If one of them does not exist or none was given.
    """
    instruments = [instruments] if isinstance(instruments, str) else instruments
    indices = tuple(sorted({instrument_index(instrument) for instrument in instruments}))
    if not indices:
        raise InstrumentError("no instrument was given: name at least one of il.INSTRUMENTS")
    return indices
