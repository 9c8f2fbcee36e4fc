"""Make the files in instr_lib/samples/recorded again: ``python tools/recorded_notes.py FOLDER``.

FOLDER holds the npm packages ``tonejs-instrument-*-mp3``, each unpacked into a folder named as in ``PACKAGES``. The notes
are cut from them, the Ode to Joy is put together from the notes, and the chorale comes from music21's corpus.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import mido
import numpy as np
import soundfile

import instr_lib as il
from instr_lib._files import sha256
from instr_lib.constants import SAMPLE_RATE
from instr_lib.samples.recorded import ABOUT, BWV, CHORALE, FOLDER, ODE, note_rows

# What each package holds, and the instrument of ours that is closest to it.
PACKAGES = {
    "piano": "Acoustic Grand Piano",
    "guitar-nylon": "Nylon Acoustic Guitar",
    "contrabass": "Acoustic Bass",
    "trumpet": "Trumpet",
    "organ": "Hammond Organ",
    "violin": "Violin",
    "saxophone": "Soprano Sax",
}
PER_INSTRUMENT = 12
SECONDS, FADE = 4.0, 0.05
_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


def build_notes(folder: Path):
    """Cut and encode the notes from the unpacked packages, evenly over each instrument's pitches."""
    FOLDER.mkdir(exist_ok=True)
    rows = []
    for package, instrument in PACKAGES.items():
        about = json.loads((folder / package / "package.json").read_text())
        files = sorted((folder / package).glob("*.mp3"), key=pitch_of)
        for n in np.unique(np.linspace(0, len(files) - 1, PER_INSTRUMENT).round().astype(int)):
            audio, rate = soundfile.read(files[n], frames=int(SECONDS * SAMPLE_RATE), dtype="float32")
            if rate != SAMPLE_RATE or audio.ndim > 1:
                raise il.AudioError(f"{files[n]} is not mono at {SAMPLE_RATE} Hz, as all of them were: check the package")
            _fade_out(audio, FADE)
            pitch = pitch_of(files[n])
            file = f"{package}-{pitch:03d}.ogg"
            soundfile.write(FOLDER / file, audio, SAMPLE_RATE, format="OGG", subtype="VORBIS", compression_level=0.7)
            source = f"{about['name']} {about['version']}, {files[n].name}"
            rows.append(
                {"file": file, "instrument": instrument, "pitch": pitch, "source": source, "sha256": sha256(FOLDER / file)}
            )
    (FOLDER / "notes.json").write_text(json.dumps({**ABOUT, "notes": rows}, indent=1) + "\n")


def pitch_of(file: Path) -> int:
    """MIDI pitch of the note in a file's name, such as ``Cs4.mp3`` for C sharp."""
    name = file.stem
    return _SEMITONES[name[0]] + (name[1] == "s") + 12 * (int(name[-1]) + 1)


def _fade_out(audio: np.ndarray, seconds: float):
    """Fade the end of a sound, in place."""
    samples = min(len(audio), int(seconds * SAMPLE_RATE))
    audio[-samples:] *= np.linspace(1, 0, samples, dtype=np.float32)


# The first line of Beethoven's Ode to Joy in C: semitones above C, and beats.
MELODY = (
    *((4, 1), (4, 1), (5, 1), (7, 1)),
    *((7, 1), (5, 1), (4, 1), (2, 1)),
    *((0, 1), (0, 1), (2, 1), (4, 1)),
    *((4, 1.5), (2, 0.5), (2, 2)),
)


class Entry(NamedTuple):
    """An instrument's turn to play the melody: its package, the pitch of its C, and when it begins, in seconds."""

    package: str
    c: int
    start: float


ENTRIES = (
    Entry("violin", 72, 0),
    Entry("piano", 60, 5),
    Entry("trumpet", 60, 10),
    Entry("saxophone", 60, 15),
    Entry("contrabass", 36, 15),
)


def build_ode():
    """A piece of twenty seconds made of the recorded notes: violin, piano, trumpet, then saxophone with double bass."""
    notes = [(row["file"].rsplit("-", 1)[0], row["pitch"], _from_attack(row["file"])) for row in note_rows()]
    beat = 5 / sum(beats for _, beats in MELODY)
    piece = np.zeros(21 * SAMPLE_RATE, np.float32)
    for entry in ENTRIES:
        now = float(entry.start)
        for semitones, beats in MELODY:
            pitch, seconds = entry.c + semitones, beats * beat
            candidates = [(recorded, sound) for package, recorded, sound in notes if package == entry.package]
            recorded, sound = min(candidates, key=lambda candidate: abs(candidate[0] - pitch))
            # Played faster or slower, like a tape, to reach the pitch.
            places = np.arange(int(seconds * SAMPLE_RATE)) * 2 ** ((pitch - recorded) / 12)
            note = np.interp(places, np.arange(len(sound)), sound, right=0).astype(np.float32)
            _fade_out(note, 0.03)
            first = int(now * SAMPLE_RATE)
            piece[first : first + len(note)] += note / max(np.abs(sound).max(), 1e-6) * np.float32(0.4)
            now += seconds
    soundfile.write(FOLDER / ODE, piece[: 20 * SAMPLE_RATE], SAMPLE_RATE, format="OGG", subtype="VORBIS")


def _from_attack(file: str) -> np.ndarray:
    """A recorded note without the silence before it."""
    audio = soundfile.read(FOLDER / file, dtype="float32")[0]
    return audio[int((np.abs(audio) > 0.05 * np.abs(audio).max()).argmax()) :]


CHORALE_INSTRUMENTS = ("String Ensemble 1", "Soprano Sax", "Hammond Organ", "Acoustic Bass")  # from soprano to bass


def build_chorale():
    """A chorale by Bach from music21's corpus as a MIDI file: twenty seconds for four of our instruments."""
    from music21 import corpus  # seconds to import

    midi = mido.MidiFile(ticks_per_beat=480)
    midi.tracks.append(mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(92))]))
    parts = corpus.parse(f"bach/bwv{BWV}").parts
    for channel, (name, part) in enumerate(zip(CHORALE_INSTRUMENTS, parts, strict=True)):
        program = il.INSTRUMENTS[il.instrument_index(name)].program
        track = mido.MidiTrack([mido.Message("program_change", channel=channel, program=program)])
        events = []
        for note in part.flatten().notes:
            start, end = (round(480 * float(beats)) for beats in (note.offset, note.offset + note.quarterLength))
            if end <= 480 * 30:
                events += [(start, 1, note.pitch.midi, 90), (end, 0, note.pitch.midi, 0)]
        now = 0
        for tick, _, pitch, velocity in sorted(events):
            track.append(mido.Message("note_on", channel=channel, note=pitch, velocity=velocity, time=tick - now))
            now = tick
        midi.tracks.append(track)
    midi.save(FOLDER / CHORALE)


if __name__ == "__main__":
    build_notes(Path(sys.argv[1]))
    build_ode()
    build_chorale()
