"""Real notes: seven instruments recorded, a dozen notes each, to test networks with that only ever heard synthesisers.

They travel with the library (OGG, 4 s at most) so that the test needs no network, with a SHA-256 each. They come from the
npm packages ``tonejs-instrument-*-mp3`` of N. Brosowsky's tonejs-instruments, whose samples are CC BY 3.0; changed here:
cut, faded, encoded anew. Nothing is chosen or learned by them. ``python -m instr_lib.recorded FOLDER`` makes them again
from a folder into which these packages were unpacked.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from .._files import sha256
from ..constants import CLIP_SAMPLES, SAMPLE_RATE
from ..data.recordings import normalise_level
from ..data.spectrogram import log_mel
from ..errors import AudioError
from ..music.instruments import INSTRUMENTS, instrument_index

FOLDER = Path(__file__).parent / "recorded"
# What each package holds, and the instrument of ours that it comes nearest to.
PACKAGES = {
    "piano": "Acoustic Grand Piano",
    "guitar-nylon": "Nylon Acoustic Guitar",
    "contrabass": "Acoustic Bass",
    "trumpet": "Trumpet",
    "organ": "Hammond Organ",
    "violin": "Violin",
    "saxophone": "Soprano Sax",
}
ABOUT = {"licence": "CC BY 3.0", "by": "N. Brosowsky and others, tonejs-instruments"}
PER_INSTRUMENT = 12
SECONDS, FADE, LEAD_IN = 4.0, 0.05, 0.25
_TONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


class RecordedNote(NamedTuple):
    """One note: what it is, what recorded it, its sound as a clip float32 (220_500,), its spectrogram (128, 431) in dB."""

    instrument: int
    pitch: int
    source: str
    audio: np.ndarray
    mel: np.ndarray


@functools.cache
def recorded_notes() -> tuple[RecordedNote, ...]:
    """All of them, as clips: a quarter of a second of silence, then the note, as loud as a clip of ours.

    Raises
    ------
    AudioError
        If a file is missing, damaged or altered.
    """
    return tuple(_read(row) for row in _rows())


def _read(row: dict) -> RecordedNote:
    path = FOLDER / row["file"]
    if not path.is_file() or sha256(path) != row["sha256"]:
        raise AudioError(f"the recorded note {path} is missing or altered: restore it")
    audio, _ = soundfile.read(path, dtype="float32")
    clip = np.zeros(CLIP_SAMPLES, np.float32)
    start = int(LEAD_IN * SAMPLE_RATE)
    clip[start : start + len(audio)] = audio
    clip = normalise_level(path.name, clip)
    return RecordedNote(instrument_index(row["instrument"]), row["pitch"], row["source"], clip, log_mel(clip))


def build(folder: Path):
    """Cut and encode the notes anew from the unpacked packages: evenly over the pitches that there are."""
    FOLDER.mkdir(exist_ok=True)
    rows = []
    for package, instrument in PACKAGES.items():
        about = json.loads((folder / package / "package.json").read_text())
        files = sorted((folder / package).glob("*.mp3"), key=_pitch)
        for n in np.unique(np.linspace(0, len(files) - 1, PER_INSTRUMENT).round().astype(int)):
            audio, rate = soundfile.read(files[n], frames=int(SECONDS * SAMPLE_RATE), dtype="float32")
            if rate != SAMPLE_RATE or audio.ndim > 1:
                raise AudioError(f"{files[n]} is not mono at {SAMPLE_RATE} Hz, as all of them were")
            fade = int(FADE * SAMPLE_RATE)
            audio[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
            file = f"{package}-{_pitch(files[n]):03d}.ogg"
            soundfile.write(FOLDER / file, audio, SAMPLE_RATE, format="OGG", subtype="VORBIS", compression_level=0.7)
            sha256 = hashlib.sha256((FOLDER / file).read_bytes()).hexdigest()
            source = f"{about['name']} {about['version']}, {files[n].name}"
            rows.append(
                {"file": file, "instrument": instrument, "pitch": _pitch(files[n]), "source": source, "sha256": sha256}
            )
    (FOLDER / "notes.json").write_text(json.dumps({**ABOUT, "notes": rows}, indent=1) + "\n")


ODE, CHORALE, BWV = "ode.ogg", "chorale.mid", 269
# Beethoven's Ode to Joy in C, a line after another: who plays, which octave, from which second on.
_ODE = (
    (4, 1),
    (4, 1),
    (5, 1),
    (7, 1),
    (7, 1),
    (5, 1),
    (4, 1),
    (2, 1),
    (0, 1),
    (0, 1),
    (2, 1),
    (4, 1),
    (4, 1.5),
    (2, 0.5),
    (2, 2),
)
_LINES = (("violin", 72, 0), ("piano", 60, 5), ("trumpet", 60, 10), ("saxophone", 60, 15), ("contrabass", 36, 15))


def build_ode():
    """A piece of twenty seconds made of the recorded notes: violin, piano, trumpet, then saxophone with double bass."""
    notes = [(row["file"].rsplit("-", 1)[0], row["pitch"], _sound(row)) for row in _rows()]
    beat = 5 / sum(length for _, length in _ODE)
    piece = np.zeros(21 * SAMPLE_RATE, np.float32)
    for package, octave, start in _LINES:
        now = float(start)
        for step, length in _ODE:
            pitch, seconds = octave + step, length * beat
            near, sound = min(((p, s) for name, p, s in notes if name == package), key=lambda one: abs(one[0] - pitch))
            # Played faster or slower, like a tape, to the pitch that is wanted.
            at = np.arange(int(seconds * SAMPLE_RATE)) * 2 ** ((pitch - near) / 12)
            note = np.interp(at, np.arange(len(sound)), sound, right=0).astype(np.float32)
            fade = min(len(note), int(0.03 * SAMPLE_RATE))
            note[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
            first = int(now * SAMPLE_RATE)
            piece[first : first + len(note)] += note / max(np.abs(sound).max(), 1e-6) * np.float32(0.4)
            now += seconds
    soundfile.write(FOLDER / ODE, piece[: 20 * SAMPLE_RATE], SAMPLE_RATE, format="OGG", subtype="VORBIS")


def build_chorale():
    """BWV 269, a chorale by Bach, from music21's corpus: twenty seconds for four of our instruments."""
    import mido
    from music21 import corpus

    midi = mido.MidiFile(ticks_per_beat=480)
    midi.tracks.append(mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(92))]))
    players = ("String Ensemble 1", "Soprano Sax", "Hammond Organ", "Acoustic Bass")
    for channel, (player, part) in enumerate(zip(players, corpus.parse(f"bach/bwv{BWV}").parts, strict=True)):
        program = INSTRUMENTS[instrument_index(player)].program
        track = mido.MidiTrack([mido.Message("program_change", channel=channel, program=program)])
        events = []
        for note in part.flatten().notes:
            start, end = (round(480 * float(x)) for x in (note.offset, note.offset + note.quarterLength))
            if end <= 480 * 30:
                events += [(start, 1, note.pitch.midi, 90), (end, 0, note.pitch.midi, 0)]
        now = 0
        for tick, _, pitch, velocity in sorted(events):
            track.append(mido.Message("note_on", channel=channel, note=pitch, velocity=velocity, time=tick - now))
            now = tick
        midi.tracks.append(track)
    midi.save(FOLDER / CHORALE)


def _rows() -> list[dict]:
    return json.loads((FOLDER / "notes.json").read_text())["notes"]


def _sound(row: dict) -> np.ndarray:
    """From where it begins: recordings have some silence before the note."""
    audio = soundfile.read(FOLDER / row["file"], dtype="float32")[0]
    return audio[int((np.abs(audio) > 0.05 * np.abs(audio).max()).argmax()) :]


def _pitch(file: Path) -> int:
    """MIDI number of a note in a file's name, such as ``Cs4``."""
    name = file.stem
    return _TONES[name[0]] + (name[1] == "s") + 12 * (int(name[-1]) + 1)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    build_ode()
    build_chorale()
