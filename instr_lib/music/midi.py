"""Standard MIDI Files: open them, and read what is played. With :mod:`instr_lib.music.score` the only one that knows mido.

Conventions: times are seconds from the start, on the common clock of all tracks. Chapter 1 uses it for clips, chapter 10
for whole pieces.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import mido

from ..errors import ScoreError

MIDI_MAGIC = b"MThd"  # how a Standard MIDI File begins
PERCUSSION = 9  # MIDI channel 10, where General MIDI keeps the drums
# The two numbers of each kind of channel message, by their names in mido.
_FIELDS = {
    "note_on": ("note", "velocity"),
    "note_off": ("note", "velocity"),
    "control_change": ("control", "value"),
    "program_change": ("program", None),
    "pitchwheel": ("pitch", None),
}


class Event(NamedTuple):
    """One channel message: its time in seconds, its kind as mido names it, its channel and its two numbers."""

    time: float
    kind: str
    channel: int
    first: int
    second: int


class PlayedNote(NamedTuple):
    """One note of a MIDI file: its channel, the channel's program at its onset, and when it sounds, in seconds."""

    channel: int
    program: int
    pitch: int
    velocity: int
    onset: float
    end: float


def read_midi(file: str | os.PathLike | BinaryIO | mido.MidiFile, name: str) -> mido.MidiFile:
    """A Standard MIDI File of type 0 or 1 from its path, an open binary file, or mido.

    Raises
    ------
    ScoreError
        If it is missing, damaged or of type 2; the message calls it ``name``.
    """
    midi = file if isinstance(file, mido.MidiFile) else _open(file, name)
    if midi.type == 2:
        raise ScoreError(f"{name} is of MIDI type 2 (independent tracks): export it as type 0 or 1")
    if midi.ticks_per_beat <= 0:
        raise ScoreError(f"{name} is damaged: its clock has {midi.ticks_per_beat} ticks per beat; export it again")
    return midi


def _open(file: str | os.PathLike | BinaryIO, name: str) -> mido.MidiFile:
    try:
        data = file.read() if hasattr(file, "read") else Path(file).read_bytes()
    except OSError as error:
        raise ScoreError(f"{name} cannot be read ({error.strerror}): check the path") from None
    if not data.startswith(MIDI_MAGIC):
        problem = "is empty" if not data else "is not a MIDI file"
        raise ScoreError(f"{name} {problem}: a Standard MIDI File begins with 'MThd'")
    try:
        return mido.MidiFile(file=io.BytesIO(data))
    except Exception as error:  # mido lets EOFError, KeySignatureError, ValueError, IndexError … through
        raise ScoreError(f"{name} is damaged or cut short ({error or type(error).__name__}): export it again") from None


def midi_events(midi: mido.MidiFile) -> list[Event]:
    """All channel messages of a MIDI file of any length and any instruments, in order of time."""
    now, events = 0.0, []
    for message in midi:  # iterating the file, unlike a track, gives seconds
        now += message.time
        if message.type in _FIELDS:
            first, second = (getattr(message, name) if name else 0 for name in _FIELDS[message.type])
            events.append(Event(now, message.type, message.channel, first, second))
    return events


def played_notes(midi: mido.MidiFile) -> Iterator[PlayedNote]:
    """The notes of a MIDI file in order of their ends: note-ons paired with note-offs, first in, first out.

    Raises
    ------
    ScoreError
        If a note has no note-off.
    """
    programs: dict[int, int] = {}
    sounding: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
    for time, kind, channel, first, second in midi_events(midi):
        notes = sounding.setdefault((channel, first), [])
        if kind == "program_change":
            programs[channel] = first
        elif kind == "note_on" and second > 0:
            notes.append((programs.get(channel, 0), second, time))  # General MIDI starts every channel as a piano
        elif kind in ("note_on", "note_off") and notes:
            program, velocity, onset = notes.pop(0)
            yield PlayedNote(channel, program, first, velocity, onset, time)
    endless = [key for key, notes in sounding.items() if notes]
    if endless:
        channel, pitch = endless[0]
        raise ScoreError(
            f"{len(endless)} notes never end (the first: pitch {pitch} on channel {channel + 1}): "
            "export it again with their note-offs"
        )
