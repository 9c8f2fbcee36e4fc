"""Notes, random scores, MIDI in and out. The only module that knows mido.

Conventions: times are seconds from the start of the clip and lie on the MIDI clock (multiples
of 1/960 s: 480 ticks a beat at 120 beats a minute), so that a score survives the way through a
MIDI file unchanged. Pitches and velocities are MIDI numbers. Chapter 1 of the book uses all of it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import mido
import numpy as np

from ..constants import CLIP_SECONDS
from ..errors import InstrumentError, ScoreError
from .instruments import BY_PROGRAM, INSTRUMENTS, instrument_index, instrument_indices

TICKS_PER_BEAT = 480
TICKS_PER_SECOND = 960  # 480 ticks a beat, 120 beats a minute
PITCHES = (60, 72)  # C4 to C5, both included, as in the report
VELOCITIES = (50, 100)
GAPS = (0.0, 1.0)  # seconds of rest before a note
LENGTHS = (0.3, 2.0)  # seconds a note is held
MAX_NOTES = 5  # an instrument
MAX_INSTRUMENTS = 4
LEAD_IN = 0.5  # the first note of a clip starts within this many seconds
MIDI_MAGIC = b"MThd"  # how a Standard MIDI File begins
_PERCUSSION = 9  # MIDI channel 10, where General MIDI keeps the drums


class Note(NamedTuple):
    """One note: instrument index, MIDI pitch, MIDI velocity, onset and duration in seconds."""

    instrument: int
    pitch: int
    velocity: int
    onset: float
    duration: float

    @property
    def end(self) -> float:
        """Time of the note-off, in seconds."""
        return self.onset + self.duration


@dataclass(frozen=True)
class Score:
    """The notes of one 5 s clip, ordered by onset.

    Raises
    ------
    ScoreError
        If there are no notes or one of them has an impossible value or lies outside the clip.
    """

    notes: tuple[Note, ...]

    def __post_init__(self):
        object.__setattr__(self, "notes", tuple(sorted((Note(*n) for n in self.notes), key=lambda n: (n.onset, n[:4]))))
        if not self.notes:
            raise ScoreError("a score needs at least one note")
        for note in self.notes:
            instrument_index(note.instrument)
            if note.pitch not in range(128) or note.velocity not in range(1, 128):
                raise ScoreError(f"{note} has a pitch outside 0-127 or a velocity outside 1-127, or not a whole number")
            if not (note.onset >= 0 and note.duration > 0 and note.end <= CLIP_SECONDS + 0.5 / TICKS_PER_SECOND):
                raise ScoreError(
                    f"a {INSTRUMENTS[note.instrument].name} note sounds from {note.onset:.2f} s to {note.end:.2f} s, but "
                    f"a clip lasts {CLIP_SECONDS:g} s: shorten the music, or cut it into clips"
                )

    @property
    def instruments(self) -> tuple[int, ...]:
        """Indices of the instruments that play, ascending."""
        return tuple(sorted({note.instrument for note in self.notes}))

    def only(self, *which: str | int) -> Score:
        """The same score with only these instruments (names or indices)."""
        keep = instrument_indices(which)
        notes = tuple(note for note in self.notes if note.instrument in keep)
        if not notes:
            names = ", ".join(INSTRUMENTS[i].name for i in keep)
            raise ScoreError(f"{names} plays no note in this score")
        return Score(notes)

    def to_midi(self) -> mido.MidiFile:
        """The score as a MIDI file: a track and a channel an instrument, lasting exactly one clip."""
        midi = mido.MidiFile(type=1, ticks_per_beat=TICKS_PER_BEAT)
        midi.tracks.append(mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(120), time=0)]))
        for index in self.instruments:
            channel = index if index < _PERCUSSION else index + 1
            events = [
                # At the same tick a note ends before the next one starts.
                (round(time * TICKS_PER_SECOND), kind, note)
                for note in self.notes
                if note.instrument == index
                for time, kind in ((note.onset, "note_on"), (note.end, "note_off"))
            ]
            events.sort(key=lambda e: (e[0], e[1]))
            track = mido.MidiTrack([mido.MetaMessage("track_name", name=INSTRUMENTS[index].name, time=0)])
            track.append(mido.Message("program_change", channel=channel, program=INSTRUMENTS[index].program, time=0))
            now = 0
            for tick, kind, note in events:
                velocity = note.velocity if kind == "note_on" else 0
                track.append(mido.Message(kind, channel=channel, note=note.pitch, velocity=velocity, time=tick - now))
                now = tick
            track.append(mido.MetaMessage("end_of_track", time=max(0, round(CLIP_SECONDS * TICKS_PER_SECOND) - now)))
            midi.tracks.append(track)
        return midi

    @classmethod
    def from_midi(cls, file: str | os.PathLike | BinaryIO | mido.MidiFile) -> Score:
        """Read a clip from a MIDI file: its path, an open binary file, or a ``mido.MidiFile``.

        Program changes say which instrument plays; controllers and pitch bend are ignored.

        Raises
        ------
        ScoreError
            If the file is missing, damaged, has no notes, uses percussion or a program that is
            not one of the twelve, or holds more than one clip of music.
        """
        name = str(file) if isinstance(file, (str, os.PathLike)) else str(getattr(file, "name", None) or "the MIDI file")
        if isinstance(file, mido.MidiFile):
            name = str(file.filename or "the MIDI file")
        midi = file if isinstance(file, mido.MidiFile) else read_midi(file, name)
        if midi.type == 2:
            raise ScoreError(f"{name} is of MIDI type 2 (independent tracks); export it as type 0 or 1")
        if midi.ticks_per_beat <= 0:
            raise ScoreError(f"{name} is damaged: its clock has {midi.ticks_per_beat} ticks a beat; export it again")
        try:
            return cls(tuple(_notes(midi)))
        except (ScoreError, InstrumentError) as error:
            raise ScoreError(f"{name}: {error}") from None


def read_midi(file: str | os.PathLike | BinaryIO, name: str) -> mido.MidiFile:
    """A Standard MIDI File from its path, or an open binary file. Raises ScoreError, which names it, if it is damaged."""
    try:
        data = file.read() if hasattr(file, "read") else Path(file).read_bytes()
    except OSError as error:
        raise ScoreError(f"{name} cannot be read: {error.strerror}; check the path") from None
    if not data.startswith(MIDI_MAGIC):
        what = "is empty" if not data else "is not a MIDI file"
        raise ScoreError(f"{name} {what}: a Standard MIDI File begins with 'MThd'")
    try:
        midi = mido.MidiFile(file=io.BytesIO(data))
    except Exception as error:  # mido lets EOFError, KeySignatureError, ValueError, IndexError … through
        raise ScoreError(f"{name} is damaged or cut short ({error or type(error).__name__}); export it again") from None
    return midi


class Event(NamedTuple):
    """What a player of MIDI does at a moment, in seconds: ``kind`` and two numbers of a channel message."""

    time: float
    kind: str
    channel: int
    first: int
    second: int


def midi_events(midi: mido.MidiFile) -> list[Event]:
    """All channel messages of a MIDI file of any length, on the common clock, whatever the instruments are."""
    now, found = 0.0, []
    fields = {"note_on": ("note", "velocity"), "note_off": ("note", "velocity"), "control_change": ("control", "value")}
    fields |= {"program_change": ("program", None), "pitchwheel": ("pitch", None)}
    for message in midi:
        now += message.time
        if message.type in fields:
            first, second = (getattr(message, name) if name else 0 for name in fields[message.type])
            found.append(Event(now, message.type, message.channel, first, second))
    return found


def _notes(midi: mido.MidiFile):
    """Pair note-ons with note-offs, first in first out, on the common clock of all tracks."""
    now, program, sounding = 0.0, {}, {}
    for message in midi:  # iterating the file, unlike a track, gives seconds
        now += message.time
        if message.type == "program_change":
            program[message.channel] = message.program
        elif message.type == "note_on" and message.velocity > 0:
            sounding.setdefault((message.channel, message.note), []).append(
                (now, message.velocity, _instrument(message.channel, program))
            )
        elif message.type in ("note_on", "note_off") and sounding.get((message.channel, message.note)):
            onset, velocity, instrument = sounding[message.channel, message.note].pop(0)
            start, end = round(onset * TICKS_PER_SECOND), round(now * TICKS_PER_SECOND)
            yield Note(instrument, message.note, velocity, start / TICKS_PER_SECOND, max(1, end - start) / TICKS_PER_SECOND)
    left = [key for key, notes in sounding.items() if notes]
    if left:
        raise ScoreError(
            f"{len(left)} notes never end (the first: pitch {left[0][1]} on channel {left[0][0] + 1}): "
            "export it again with their note-offs"
        )


def _instrument(channel: int, program: dict[int, int]) -> int:
    if channel == _PERCUSSION:
        raise ScoreError("channel 10 plays percussion, which has no instrument here; remove it")
    number = program.get(channel, 0)  # General MIDI starts every channel as a piano
    if number not in BY_PROGRAM:
        known = ", ".join(str(i.program) for i in INSTRUMENTS)
        raise ScoreError(
            f"channel {channel + 1} plays program {number}, which is not one of the twelve instruments; "
            f"choose among {known} (counted from 0)"
        )
    return BY_PROGRAM[number]


def random_score(
    rng: np.random.Generator, n_instruments: int | None = None, instruments: Iterable[str | int] | None = None
) -> Score:
    """A random 5 s score after the original report: 1 to 4 instruments, up to 5 notes each.

    Every instrument rests, plays, rests, plays … with gaps of 0-1 s, lengths of 0.3-2 s, pitches
    60-72 and velocities 50-100, all uniform. Unlike the original's, all clips last 5 s and the first
    onset has the same distribution for any number of instruments, so neither gives the label away.

    Parameters
    ----------
    rng : numpy.random.Generator
        The only source of chance: the same state gives the same score.
    n_instruments : int, optional
        1 to 12; drawn from 1 to 4 if not given.
    instruments : iterable of str or int, optional
        Names or indices, instead of drawing them.

    Raises
    ------
    ScoreError
        If ``rng`` is not a generator, ``n_instruments`` is not within 1-12, or both are given.
    InstrumentError
        If an instrument does not exist.
    """
    if not isinstance(rng, np.random.Generator):
        raise ScoreError(f"rng must be a numpy Generator such as np.random.default_rng(0), not {type(rng).__name__}")
    if instruments is not None:
        if n_instruments is not None:
            raise ScoreError("give n_instruments or instruments, not both")
        chosen = instrument_indices(instruments)
    else:
        if n_instruments is None:
            n_instruments = int(rng.integers(1, MAX_INSTRUMENTS + 1))
        if not (isinstance(n_instruments, (int, np.integer)) and 1 <= n_instruments <= len(INSTRUMENTS)):
            raise ScoreError(f"n_instruments must be a whole number from 1 to {len(INSTRUMENTS)}, not {n_instruments!r}")
        chosen = sorted(rng.choice(len(INSTRUMENTS), n_instruments, replace=False).tolist())
    # One instrument, drawn by lot, opens the clip; the others come in up to a gap later. The first
    # onset is then uniform in 0 … LEAD_IN however many play.
    lead_in, opener = LEAD_IN * rng.random(), rng.choice(chosen)
    notes = []
    for index in chosen:
        now = lead_in
        for n in range(MAX_NOTES):
            gap, length = _between(GAPS, rng.random()), _between(LENGTHS, rng.random())
            pitch, velocity = rng.integers(*PITCHES, endpoint=True), rng.integers(*VELOCITIES, endpoint=True)
            now += 0 if n == 0 and index == opener else gap
            onset, end = (round(t * TICKS_PER_SECOND) for t in (now, min(now + length, CLIP_SECONDS)))
            # A last note too short to be heard as one would only be a click at the end of the clip.
            if end - onset < LENGTHS[0] * TICKS_PER_SECOND:
                break
            notes.append(Note(index, int(pitch), int(velocity), onset / TICKS_PER_SECOND, (end - onset) / TICKS_PER_SECOND))
            now += length
    return Score(tuple(notes))


def _between(ends: tuple[float, float], share: float) -> float:
    """What ``rng.uniform(*ends)`` makes of the same random number, in a tenth of the time."""
    return ends[0] + (ends[1] - ends[0]) * share
