"""Notes, random scores, and scores as MIDI files.

Conventions: times are seconds from the start of the clip and lie on the MIDI clock (multiples
of 1/960 s: 480 ticks per beat at 120 beats per minute), so that a score written to a MIDI file is
read back unchanged. Pitches and velocities are MIDI numbers. Chapter 1 uses all of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import mido
import numpy as np

from ..constants import CLIP_SECONDS
from ..errors import InstrumentError, ScoreError
from .instruments import BY_PROGRAM, INSTRUMENTS, instrument_index, instrument_indices
from .midi import PERCUSSION, PlayedNote, played_notes, read_midi

TICKS_PER_BEAT = 480
TICKS_PER_SECOND = 960  # 480 ticks per beat, 120 beats per minute
PITCHES = (60, 72)  # C4 to C5, both included, as in the report
VELOCITIES = (50, 100)
GAPS = (0.0, 1.0)  # seconds of rest before a note
LENGTHS = (0.3, 2.0)  # seconds that a note is held
MAX_NOTES = 5  # per instrument
MAX_INSTRUMENTS = 4
LEAD_IN = 0.5  # the first note of a clip starts within this many seconds


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

    def only(self, *instruments: str | int) -> Score:
        """The same score with only these instruments (names or indices). Raises ScoreError if they play no note."""
        indices = instrument_indices(instruments)
        notes = tuple(note for note in self.notes if note.instrument in indices)
        if not notes:
            names, known = (", ".join(INSTRUMENTS[i].name for i in group) for group in (indices, self.instruments))
            raise ScoreError(f"{names} plays no note in this score: choose among {known}")
        return Score(notes)

    def to_midi(self) -> mido.MidiFile:
        """The score as a MIDI file: one track and one channel per instrument, exactly as long as a clip."""
        midi = mido.MidiFile(type=1, ticks_per_beat=TICKS_PER_BEAT)
        midi.tracks.append(mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(120), time=0)]))
        for index in self.instruments:
            channel = index if index < PERCUSSION else index + 1
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
        source = file.filename if isinstance(file, mido.MidiFile) else getattr(file, "name", None)
        name = str(file if isinstance(file, (str, os.PathLike)) else source or "the MIDI file")
        midi = read_midi(file, name)
        try:
            return cls(tuple(_on_clock(note) for note in played_notes(midi)))
        except (ScoreError, InstrumentError) as error:
            raise ScoreError(f"{name}: {error}") from None


def _on_clock(note: PlayedNote) -> Note:
    """A note read from a MIDI file, moved to the nearest ticks of our clock."""
    onset, end = (round(time * TICKS_PER_SECOND) for time in (note.onset, note.end))
    instrument = _instrument(note.channel, note.program)
    return Note(instrument, note.pitch, note.velocity, onset / TICKS_PER_SECOND, max(1, end - onset) / TICKS_PER_SECOND)


def _instrument(channel: int, program: int) -> int:
    if channel == PERCUSSION:
        raise ScoreError("channel 10 plays percussion, which has no instrument here: remove it")
    if program not in BY_PROGRAM:
        known = ", ".join(str(i.program) for i in INSTRUMENTS)
        raise ScoreError(
            f"channel {channel + 1} plays program {program}, which is not one of the twelve instruments: "
            f"choose among {known} (counted from 0)"
        )
    return BY_PROGRAM[program]


def random_score(
    rng: np.random.Generator, n_instruments: int | None = None, instruments: Iterable[str | int] | None = None
) -> Score:
    """A random 5 s score after the original report: 1 to 4 instruments, up to 5 notes each.

    Every instrument rests, plays, rests, plays … with gaps of 0-1 s, lengths of 0.3-2 s, pitches
    60-72 and velocities 50-100, all uniform. Unlike the original's, all clips last 5 s and the first
    onset has the same distribution for any number of instruments, so neither reveals the label.

    Parameters
    ----------
    rng : numpy.random.Generator
        The only source of randomness: the same state gives the same score.
    n_instruments : int, optional
        1 to 12; drawn from 1 to 4 if not given.
    instruments : iterable of str or int, optional
        Names or indices, instead of random ones.

    Raises
    ------
    ScoreError
        If ``rng`` is not a generator, ``n_instruments`` is not within 1-12, or both are given.
    InstrumentError
        If an instrument does not exist.
    """
    if not isinstance(rng, np.random.Generator):
        raise ScoreError(f"rng must be a numpy Generator such as np.random.default_rng(0), not {type(rng).__name__}")
    if instruments is None:
        indices = _random_instruments(rng, n_instruments)
    elif n_instruments is None:
        indices = instrument_indices(instruments)
    else:
        raise ScoreError("give n_instruments or instruments, not both")
    # One instrument, chosen at random, opens the clip; the others come in up to a gap later. The first
    # onset is then uniform in 0 … LEAD_IN for any number of instruments.
    lead_in, opener = LEAD_IN * rng.random(), rng.choice(indices)
    return Score(tuple(note for index in indices for note in _random_notes(rng, index, lead_in, index == opener)))


def _random_instruments(rng: np.random.Generator, count: int | None) -> list[int]:
    if count is None:
        count = int(rng.integers(1, MAX_INSTRUMENTS + 1))
    if not (isinstance(count, (int, np.integer)) and 1 <= count <= len(INSTRUMENTS)):
        raise ScoreError(f"n_instruments must be a whole number from 1 to {len(INSTRUMENTS)}, not {count!r}")
    return sorted(rng.choice(len(INSTRUMENTS), count, replace=False).tolist())


def _random_notes(rng: np.random.Generator, instrument: int, start: float, opens: bool) -> list[Note]:
    """One instrument's notes, one after another, from ``start`` on: at once if it opens the clip, else after a gap."""
    notes, now = [], start
    for n in range(MAX_NOTES):
        gap, length = _between(GAPS, rng.random()), _between(LENGTHS, rng.random())
        pitch, velocity = rng.integers(*PITCHES, endpoint=True), rng.integers(*VELOCITIES, endpoint=True)
        now += 0 if n == 0 and opens else gap
        onset, end = (round(time * TICKS_PER_SECOND) for time in (now, min(now + length, CLIP_SECONDS)))
        # A last note that is too short to be heard as a note would only be a click at the end of the clip.
        if end - onset < LENGTHS[0] * TICKS_PER_SECOND:
            break
        times = onset / TICKS_PER_SECOND, (end - onset) / TICKS_PER_SECOND
        notes.append(Note(instrument, int(pitch), int(velocity), *times))
        now += length
    return notes


def _between(ends: tuple[float, float], share: float) -> float:
    """What ``rng.uniform(*ends)`` makes of the same random number, in a tenth of the time."""
    return ends[0] + (ends[1] - ends[0]) * share
