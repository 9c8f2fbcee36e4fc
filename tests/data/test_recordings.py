"""Recordings of one's own: read, refused with a sentence, listened to, and explained from the command line."""

import datetime
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

import instr_lib as il
from instr_lib import constants
from instr_lib.data import recordings
from instr_lib.networks import evaluation
from instr_lib.samples import recorded
from instr_lib.show import pages, widgets

ROOT = Path(__file__).parents[2]
RATE = 44_100


def tone(seconds, rate=RATE, channels=1, size=0.3):
    wave = size * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1)


def command(*arguments, cwd=None):
    line = [sys.executable, "-m", "instr_lib", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
def test_any_usual_file_becomes_windows_at_one_level(tmp_path, ending, rate):
    file = tmp_path / f"tone.{ending}"
    soundfile.write(file, tone(7, rate, channels=2), rate)
    windows = recordings.load_recording(file).windows()
    assert windows.shape == (2, 220_500) and windows.dtype == np.float32
    level = 20 * np.log10(np.sqrt((windows[0] ** 2).mean()))
    assert abs(level - recordings.LEVEL) < 0.2
    assert not windows[1][int(2.2 * RATE) :].any()  # filled up with silence
    spectrum = np.abs(np.fft.rfft(windows[0]))
    assert abs(spectrum.argmax() / 5 - 440) < 1  # neither faster nor slower


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("samples", [1, 1000, 100_001])
def test_resampling_is_librosas(rate, samples):
    audio = np.random.default_rng(rate).normal(0, 0.1, samples).astype(np.float32)
    resampled = recordings.resample(audio, rate)
    reference = librosa.resample(audio, orig_sr=rate, target_sr=RATE)
    assert (resampled.shape, resampled.dtype) == (reference.shape, np.float32)
    assert np.abs(resampled - reference).max() < 1e-6


def test_channels_are_averaged(tmp_path):
    left = tone(5, channels=2)
    left[:, 1] = 0
    for name, sound in (("left", left), ("both", tone(5))):
        soundfile.write(tmp_path / f"{name}.wav", sound, RATE, subtype="FLOAT")
    left_only, both = (recordings.load_recording(tmp_path / f"{name}.wav").audio for name in ("left", "both"))
    assert np.allclose(left_only, both, atol=1e-6)


def test_the_level_does_not_depend_on_how_loud_the_file_is(tmp_path):
    for name, size in (("loud", 0.9), ("quiet", 0.009)):
        soundfile.write(tmp_path / f"{name}.wav", tone(6, size=size), RATE, subtype="FLOAT")
    loud, quiet = (recordings.load_recording(tmp_path / f"{name}.wav").audio for name in ("loud", "quiet"))
    assert np.allclose(loud, quiet, atol=1e-5)


def test_midi_is_played_whole_with_all_its_instruments(need_soundfont, tmp_path):
    score = il.random_score(np.random.default_rng(1), instruments=["Violin", "Celesta"])
    score.to_midi().save(tmp_path / "clip.mid")
    played = recordings.load_recording(tmp_path / "clip.mid").windows()[0]
    mix = need_soundfont.render(score)
    assert np.corrcoef(played, mix)[0, 1] > 0.99
    chorale = recordings.load_recording(recorded.FOLDER / recorded.CHORALE)
    assert 20 < len(chorale.audio) / RATE < 21


def test_each_window_is_predicted(need_soundfont, tmp_path):
    model = il.load_model("compact")
    clips = [need_soundfont.render(il.clip_score(i, split="test")) for i in range(3)]
    soundfile.write(tmp_path / "three.wav", np.concatenate(clips), RATE, subtype="FLOAT")
    predictions = evaluation.predict_windows(model, recordings.load_recording(tmp_path / "three.wav"))
    assert predictions.probabilities.shape == (3, 12) and predictions.starts.tolist() == [0, 5, 10]
    for i, predicted in enumerate(predictions.probabilities > 0.5):
        assert tuple(np.flatnonzero(predicted)) == il.clip_score(i, split="test").instruments


def test_in_silence_no_instrument_is_predicted(tmp_path):
    soundfile.write(tmp_path / "gap.wav", np.concatenate([tone(5), np.zeros((5 * RATE, 1)), tone(2)]), RATE)
    predictions = evaluation.predict_windows(il.load_model("compact"), recordings.load_recording(tmp_path / "gap.wav"))
    assert (
        not predictions.probabilities[1].any() and predictions.probabilities[0].any() and predictions.probabilities[2].any()
    )


# Bad input: (what the sentence must say, how to make the file)


def wav_with(rate, channels=1):
    def write(path):
        data = bytes(2000 * channels)
        head = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVEfmt ", 16, 1, channels, rate,
                           2 * rate * channels, 2 * channels, 16, b"data", len(data))  # fmt: skip
        path.write_bytes(head + data)

    return write


def sound(audio, ending="wav", **options):
    def write(path):
        soundfile.write(path, audio, RATE, format=ending.upper(), **options)

    return write


def cut(ending):
    def write(path):
        sound(tone(5) + np.random.default_rng(0).normal(0, 0.01, (5 * RATE, 1)), ending)(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return write


def large(path):
    with open(path, "wb") as file:
        file.truncate(101_000_000)


def long(path):
    soundfile.write(path, np.zeros(601 * 8000), 8000, format="FLAC")


nan = tone(5)
nan[1000] = np.nan
BAD = {
    "text": ("not sound that can be read", lambda path: path.write_text("no sound")),
    "random": ("not sound that can be read", lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000))),
    "empty": ("is empty", lambda path: path.write_bytes(b"")),
    "no samples": ("lasts 0 s", sound(np.zeros((0, 1)))),
    "silent": ("is silent", sound(np.zeros((5 * RATE, 1)))),
    "clipped": ("is clipped", sound(np.clip(5 * tone(5), -1, 1))),
    "nan": ("NaN", sound(nan, subtype="FLOAT")),
    "1 Hz": ("1 samples a second", wav_with(1)),
    "1 MHz": ("1000000 samples a second", wav_with(1_000_000)),
    "32 channels": ("32 channels", wav_with(RATE, 32)),
    "mp4": ("is a video", lambda path: path.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(500))),
    "mkv": ("is a video", lambda path: path.write_bytes(b"\x1aE\xdf\xa3" + bytes(500))),
    "avi": ("is a video", lambda path: path.write_bytes(b"RIFF\0\1\0\0AVI LIST" + bytes(500))),
    "wav cut": ("ends in the middle", cut("wav")),
    "flac cut": ("ends in the middle", cut("flac")),
    "ogg cut": ("ends in the middle", cut("ogg")),
    "mp3 cut": ("ends in the middle", cut("mp3")),
    "midi cut": ("damaged or cut short", lambda path: path.write_bytes(b"MThd\0\0\0\6\0\1")),
    "too large": ("more than 100", large),
    "too long": ("more than 10", long),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_one_sentence(tmp_path, case):
    says, write = BAD[case]
    path = tmp_path / "file.bin"
    write(path)
    with pytest.raises(il.InstrError, match=says) as error:
        recordings.load_recording(path)
    message = str(error.value)
    assert message.startswith("file.bin") and len(message.splitlines()) == 1
    assert ":" in message or ";" in message  # what to do


def test_a_path_that_is_none_is_refused(tmp_path):
    with pytest.raises(il.AudioError, match="No such file"):
        recordings.load_recording(tmp_path / "missing.wav")
    with pytest.raises(il.AudioError, match="is a folder"):
        recordings.load_recording(tmp_path)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_whole_files_are_not_taken_for_cut_ones(tmp_path, ending):
    for seconds in (0.2, 5.3, 30):
        sound(tone(seconds), ending)(tmp_path / "whole.bin")
        read = len(recordings.load_recording(tmp_path / "whole.bin").audio) / constants.SAMPLE_RATE
        assert read == pytest.approx(seconds, abs=0.1)  # an MP3 is filled up to whole frames


def test_a_peak_at_full_scale_is_no_clipping(tmp_path):
    sound(tone(5, size=0.9999))(tmp_path / "peak.wav")
    assert recordings.load_recording(tmp_path / "peak.wav").audio.any()


# The command line


@pytest.mark.slow
def test_the_command_writes_one_page_that_needs_nothing_else(tmp_path):
    soundfile.write(tmp_path / "song <1>.ogg", tone(12), RATE)
    done = command("explain", "song <1>.ogg", "--model", "compact", "--out", "page.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 windows" in done.stdout and "window" in done.stderr  # the progress bar
    page = (tmp_path / "page.html").read_text()
    assert page.count('class="ex-column"') == 3 and "song &lt;1&gt;.ogg" in page
    assert 'src="http' not in page and 'href="' not in page
    assert sorted(f.name for f in tmp_path.iterdir()) == ["page.html", "song <1>.ogg"]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [
    ("explain", "missing.wav"), ("explain", "."), ("explain", "silent.wav"), ("explain", "good.wav", "--out", "there.html"),
    ("explain", "good.wav", "--out", "no/folder.html"), ("explain", "good.wav", "--out", "."),
    ("explain", "good.wav", "--model", "none", "--out", "x.html"), ("listen",), (),
])  # fmt: skip
def test_the_command_refuses_with_status_2_and_writes_nothing(tmp_path, arguments):
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "good.wav", tone(1), RATE)
    (tmp_path / "there.html").write_text("mine")
    before = sorted(f.name for f in tmp_path.iterdir())
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not done.stdout
    if arguments[:1] == ("explain",):
        assert done.stderr.startswith("instr_lib: ") and len(done.stderr.splitlines()) == 1
    assert sorted(f.name for f in tmp_path.iterdir()) == before and (tmp_path / "there.html").read_text() == "mine"


def test_help_says_what_goes_in_and_what_comes_out():
    done = command("explain", "--help")
    assert done.returncode == 0
    for word in ("WAV", "MIDI", "10 minutes", "100 MB", "robust", "--out", "Exit status"):
        assert word in done.stdout, word


@pytest.mark.slow
def test_a_recording_takes_less_than_a_third_of_its_length(tmp_path):
    """The promise is three minutes in one. Processor time is counted, with the start of Python: other tests run beside."""
    soundfile.write(
        tmp_path / "long.flac", tone(90, channels=2) + np.random.default_rng(0).normal(0, 0.01, (90 * RATE, 2)), RATE
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = command("explain", "long.flac", "--quiet", cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert 1 < seconds < 30, seconds


# In a notebook


def test_the_panel_shows_a_recording_and_says_what_is_wrong_with_another():
    panel = widgets.recording_panel({"compact": il.load_model("compact")})
    upload, below = panel.children[0].children[0], panel.children[1]
    assert "at most 10 minutes" in below.children[0].value

    def put(name, data):
        about = {
            "name": name,
            "type": "",
            "size": len(data),
            "content": memoryview(data),
            "last_modified": datetime.datetime.now(datetime.UTC),
        }
        upload.value = (about,)

    put("notes.txt", b"no sound")
    assert "notes.txt is not sound" in below.children[0].value
    put("ode.ogg", (recorded.FOLDER / recorded.ODE).read_bytes())
    (output,) = below.children
    assert "ode.ogg" not in str(getattr(output, "value", ""))  # an output, not a sentence


def test_timeline_says_in_words_what_it_shows():
    probabilities = np.zeros((4, 12), np.float32)
    probabilities[:2, 9] = 0.9
    predictions = evaluation.WindowPredictions(np.arange(4) * 5.0, np.zeros((4, 128, 431), np.float32), probabilities)
    text = pages.timeline(predictions)
    assert "Violin in 50%" in text and text.count("ex-column") == 4 and "0:00: Violin 90%" in text
    assert "0:10: none of the twelve" in text


# Real notes


def test_recorded_notes_are_whole_and_cover_seven_instruments():
    notes = il.recorded_notes()
    assert len({n.instrument for n in notes}) == 7 and len(notes) == 83
    assert all(n.audio.shape == (220_500,) and n.mel.max() > -40 for n in notes)
    assert not any(n.audio[: RATE // 4].any() for n in notes)


@pytest.mark.parametrize("note", il.recorded_notes()[::9], ids=lambda n: n.source)
def test_recorded_notes_have_the_pitch_that_they_are_said_to_have(note):
    """Some harmonic of the named pitch is the strongest in the spectrum, within a quarter of a tone."""
    spectrum = np.abs(np.fft.rfft(note.audio * np.hanning(len(note.audio))))
    strongest = spectrum[100:].argmax() / 5 + 20
    named = 440 * 2 ** ((note.pitch - 69) / 12)
    cents = 1200 * np.log2(strongest / (named * max(1, round(strongest / named))))
    assert abs(cents) < 50


def test_an_altered_recorded_note_is_refused(tmp_path, monkeypatch):
    import shutil

    shutil.copytree(recorded.FOLDER, tmp_path / "recorded")
    monkeypatch.setattr(recorded, "FOLDER", tmp_path / "recorded")
    file = sorted((tmp_path / "recorded").glob("violin*.ogg"))[0]
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(il.AudioError, match="missing or altered"):
        recorded.recorded_notes.__wrapped__()
