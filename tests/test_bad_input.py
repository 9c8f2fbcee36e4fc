"""Bad input: each raises an error of ours whose message names the file, or what was wrong, and the remedy."""

import io
import json
import pickle
import re
import shutil
from pathlib import Path

import mido
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import instr_lib as il
from instr_lib.data import dataset
from instr_lib.music.score import Note, Score

CASES = []


def bad(error: type[il.InstrError], remedy: str, what: str = ""):
    """Collects a case: a function that prepares something bad and gives (its file or None, the call that must fail).

    The error's message must name the file and contain ``what`` and ``remedy``, two regular expressions.
    """

    def collect(function):
        CASES.append(pytest.param(function, error, what, remedy, id=function.__name__))
        return function

    return collect


class Env:
    """For the cases: a folder, and any fixture by its name, so that only those which need a soundfont ask for it."""

    def __init__(self, request, folder: Path):
        self.request, self.folder = request, folder

    def __getattr__(self, name: str):
        return self.request.getfixturevalue(name)

    def write(self, name: str, content: bytes) -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def midi(self, *messages, **settings) -> Path:
        """A MIDI file with these messages in its only track."""
        track = mido.MidiTrack(messages)
        mido.MidiFile(**({"type": 0, "ticks_per_beat": 480, "tracks": [track]} | settings)).save(self.folder / "bad.mid")
        return self.folder / "bad.mid"

    def dataset(self, change_manifest=None) -> Path:
        """A copy of the clips, with its manifest changed in place."""
        folder = shutil.copytree(self.clips.path, self.folder / "clips")
        if change_manifest:
            manifest = json.loads((folder / "manifest.json").read_text())
            change_manifest(manifest)
            (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    def weights(self, name: str = "weights") -> Path:
        return il.save_model(il.CompactCNN(), self.folder / f"{name}.safetensors")


def on(note: int = 60, channel: int = 0, time: int = 0) -> mido.Message:
    return mido.Message("note_on", note=note, velocity=80, channel=channel, time=time)


def off(note: int = 60, channel: int = 0, time: int = 480) -> mido.Message:
    return mido.Message("note_off", note=note, channel=channel, time=time)


def program(number: int, channel: int = 0) -> mido.Message:
    return mido.Message("program_change", program=number, channel=channel)


# Soundfonts


@bad(il.SoundfontError, "INSTR_SOUNDFONT", "does not exist")
def soundfont_missing(env):
    file = env.folder / "none.sf2"
    return file, lambda: il.Synth(file)


@bad(il.SoundfontError, "INSTR_SOUNDFONT", "does not exist")
def soundfont_of_the_environment_missing(env):
    env.monkeypatch.setenv("INSTR_SOUNDFONT", str(env.folder / "none.sf2"))
    return env.folder / "none.sf2", il.Synth


@bad(il.SoundfontError, "apt-get install.*INSTR_SOUNDFONT", r"FluidR3_GM\.sf2 was not found")
def soundfont_nowhere_found(env):
    env.monkeypatch.delenv("INSTR_SOUNDFONT", raising=False)
    env.monkeypatch.setenv("INSTR_SOUNDFONT_PLACES", str(env.folder))
    return None, il.Synth


@bad(il.SoundfontError, "INSTR_SOUNDFONT", "empty")
def soundfont_empty(env):
    file = env.write("empty.sf2", b"")
    return file, lambda: il.Synth(file)


@bad(il.SoundfontError, "INSTR_SOUNDFONT", "not an SF2")
def soundfont_is_text(env):
    file = env.write("text.sf2", b"This is no soundfont at all.")
    return file, lambda: il.Synth(file)


@bad(il.SoundfontError, "INSTR_SOUNDFONT", "not an SF2")
def soundfont_is_a_wav_file(env):
    file = env.write("sound.sf2", b"RIFF\x24\0\0\0WAVEfmt " + bytes(24))
    return file, lambda: il.Synth(file)


@bad(il.SoundfontError, "INSTR_SOUNDFONT", "cut short")
def soundfont_cut_short(env):
    file = env.write_sf2(env.folder / "cut.sf2", [i.program for i in il.INSTRUMENTS])
    file.write_bytes(file.read_bytes()[:-100])
    return file, lambda: il.Synth(file)


@bad(il.SoundfontError, "INSTR_SOUNDFONT", "damaged")
def soundfont_damaged_inside(env):
    env.need_soundfont  # noqa: B018 (only FluidSynth sees the damage)
    file = env.write_sf2(env.folder / "damaged.sf2", [i.program for i in il.INSTRUMENTS])
    file.write_bytes(file.read_bytes().replace(b"pdta", b"nope"))
    return file, lambda: il.Synth(file)


@bad(il.SoundfontError, "use a General MIDI soundfont", r"lacks Violin \(program 40\), New Age Pad \(program 88\)")
def soundfont_lacks_two_programs(env):
    env.need_soundfont  # noqa: B018
    file = env.write_sf2(env.folder / "ten.sf2", [i.program for i in il.INSTRUMENTS if i.program not in (40, 88)])
    return file, lambda: il.Synth(file)


@bad(il.SoundfontError, "INSTR_SOUNDFONT", "does not exist")
def soundfont_missing_for_a_dataset(env):
    file = env.folder / "none.sf2"
    return file, lambda: il.generate(env.folder / "clips", 2, soundfont=file, n_jobs=1, progress=False)


# MIDI files


@bad(il.ScoreError, "check the path")
def midi_missing(env):
    file = env.folder / "none.mid"
    return file, lambda: Score.from_midi(file)


@bad(il.ScoreError, "check the path")
def midi_is_a_folder(env):
    return env.folder, lambda: Score.from_midi(env.folder)


@bad(il.ScoreError, "begins with 'MThd'", "empty")
def midi_empty(env):
    file = env.write("empty.mid", b"")
    return file, lambda: Score.from_midi(file)


@bad(il.ScoreError, "begins with 'MThd'", "empty")
def midi_empty_and_open(env):
    path = env.write("empty.mid", b"")

    def read():
        with open(path, "rb") as file:
            Score.from_midi(file)

    return path, read


@bad(il.ScoreError, "begins with 'MThd'", "not a MIDI file")
def midi_is_something_else(env):
    file = env.write("song.mid", b"ID3 this is an MP3")
    return file, lambda: Score.from_midi(file)


@bad(il.ScoreError, "export it again", "cut short")
def midi_cut_short(env):
    file = env.midi(on(), off())
    file.write_bytes(file.read_bytes()[:-5])
    return file, lambda: Score.from_midi(file)


@bad(il.ScoreError, "export", "damaged|clock|division")
def midi_without_a_clock(env):
    """Zero ticks a beat."""
    file = env.midi(on(), off())
    content = bytearray(file.read_bytes())
    content[12:14] = 0, 0
    file.write_bytes(content)
    return file, lambda: Score.from_midi(file)


@bad(il.ScoreError, "needs at least one note")
def midi_without_notes(env):
    file = env.midi(program(40))
    return file, lambda: Score.from_midi(file)


@bad(il.ScoreError, "choose among 0, 24, 48", "channel 3 plays program 41")
def midi_of_other_programs(env):
    file = env.midi(program(41, channel=2), on(channel=2), off(channel=2))
    return file, lambda: Score.from_midi(file)


@bad(il.ScoreError, "remove it", "channel 10 plays percussion")
def midi_of_sixteen_channels_at_once(env):
    programs = [program(il.INSTRUMENTS[c % 12].program, c) for c in range(16)]
    starts, ends = [on(channel=c) for c in range(16)], [off(channel=c, time=480 * (c == 0)) for c in range(16)]
    file = env.midi(*programs, *starts, *ends)
    return file, lambda: Score.from_midi(file)


@bad(il.ScoreError, "note-off|export|repair", "never end")
def midi_of_a_note_without_end(env):
    file = env.midi(on())
    return file, lambda: Score.from_midi(file)


@bad(il.ScoreError, "shorten", r"6\.00 s")
def midi_longer_than_a_clip(env):
    file = env.midi(on(), off(time=5760))
    return file, lambda: Score.from_midi(file)


@bad(il.ScoreError, "export it as type 0 or 1")
def midi_of_type_2(env):
    file = env.midi(on(), off(), type=2)
    return file, lambda: Score.from_midi(file)


@bad(il.ScoreError, "type 0 or 1")
def midi_object_of_type_2(env):
    midi = mido.MidiFile(env.midi(on(), off(), type=2))
    return None, lambda: Score.from_midi(midi)


def test_every_cut_of_a_midi_file_is_refused(tmp_path):
    file = tmp_path / "cut.mid"
    il.random_score(np.random.default_rng(0), 2).to_midi().save(file)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(il.ScoreError, match=re.escape(str(file))):
            Score.from_midi(file)


def test_a_damaged_midi_file_is_read_or_refused():
    """One byte in each is wrong. Many such files are still music; none may raise anything but our error."""
    rng, file = np.random.default_rng(0), io.BytesIO()
    il.random_score(rng, 2).to_midi().save(file=file)
    refused, strange = 0, {}
    for place in range(len(file.getvalue())):
        content = bytearray(file.getvalue())
        content[place] ^= int(rng.integers(1, 256))
        try:
            Score.from_midi(io.BytesIO(content))
        except il.ScoreError:
            refused += 1
        except Exception as error:
            strange[place] = repr(error)
    assert not strange
    assert refused > 50


# Scores


@bad(il.ScoreError, "at least one note")
def score_without_notes(env):
    return None, lambda: Score(())


@bad(il.ScoreError, "0-127")
def score_with_an_impossible_pitch(env):
    return None, lambda: Score((Note(0, 128, 80, 0.0, 1.0),))


@bad(il.ScoreError, "whole|0-127")
def score_between_two_keys(env):
    return None, lambda: Score((Note(0, 60.5, 80, 0.0, 1.0),))


@bad(il.ScoreError, "shorten")
def score_with_nan(env):
    return None, lambda: Score((Note(0, 60, 80, float("nan"), 1.0),))


@bad(il.ScoreError, "shorten", "Violin")
def score_longer_than_a_clip(env):
    return None, lambda: Score((Note(9, 60, 80, 4.5, 1.0),))


@bad(il.ScoreError, "plays no note")
def score_without_the_instrument_asked_for(env):
    score = il.random_score(np.random.default_rng(0), instruments=[0])
    return None, lambda: score.only("Violin")


@bad(il.ScoreError, r"default_rng")
def random_score_from_a_seed(env):
    return None, lambda: il.random_score(7)


@bad(il.ScoreError, "from 1 to 12")
def random_score_of_thirteen(env):
    return None, lambda: il.random_score(np.random.default_rng(0), 13)


@bad(il.ScoreError, "from 1 to 12")
def random_score_of_none(env):
    return None, lambda: il.random_score(np.random.default_rng(0), 0)


@bad(il.ScoreError, "not both")
def random_score_asked_twice(env):
    return None, lambda: il.random_score(np.random.default_rng(0), 2, instruments=[0])


@bad(il.ScoreError, r"Score\.from_midi")
def rendering_a_midi_file(env):
    synth = env.need_soundfont
    return None, lambda: synth.render(mido.MidiFile())


# Instruments


@bad(il.InstrumentError, "did you mean 'Violin'", "Violine")
def instrument_misspelt(env):
    return None, lambda: il.instrument_index("Violine")


@bad(il.InstrumentError, r"il\.INSTRUMENTS", "xyzzy")
def instrument_unheard_of(env):
    return None, lambda: il.instrument_index("xyzzy")


@bad(il.InstrumentError, "0 to 11", "12")
def instrument_number_twelve(env):
    return None, lambda: il.instrument_index(12)


@bad(il.InstrumentError, "0 to 11", "-1")
def instrument_counted_from_the_end(env):
    return None, lambda: il.instrument_index(-1)


@bad(il.InstrumentError, "0 to 11", "1.5")
def instrument_between_two(env):
    return None, lambda: il.instrument_index(1.5)


@bad(il.InstrumentError, "0 to 11", "True")
def instrument_true(env):
    return None, lambda: il.instrument_index(np.True_)


@bad(il.InstrumentError, r"0 to 11|il\.INSTRUMENTS")
def instrument_infinite(env):
    return None, lambda: il.instrument_index(float("inf"))


@bad(il.InstrumentError, "did you mean")
def instrument_misspelt_for_a_score(env):
    return None, lambda: il.random_score(np.random.default_rng(0), instruments=["Trompet"])


@bad(il.InstrumentError, "at least one")
def instruments_none(env):
    return None, lambda: il.random_score(np.random.default_rng(0), instruments=[])


@bad(il.InstrumentError, "0 to 11")
def score_of_an_unknown_instrument(env):
    return None, lambda: Score((Note(12, 60, 80, 0.0, 1.0),))


@bad(il.InstrumentError, "did you mean 'Trumpet'")
def relevance_of_an_unknown_instrument(env):
    return None, lambda: il.relevance(il.CompactCNN(), env.mels, [0, 1, "Trumpets"])


# Audio


@bad(il.AudioError, "clip|220500|5 s", "empty")
def audio_empty(env):
    return None, lambda: il.log_mel(np.zeros(0, np.float32))


@bad(il.AudioError, "repair", "NaN")
def audio_with_nan(env):
    return None, lambda: il.log_mel(np.where(np.arange(220_500) == 1000, np.nan, 0.0))


@bad(il.AudioError, "repair", "infinity")
def audio_with_infinity(env):
    return None, lambda: il.log_mel(np.where(np.arange(220_500) == 1000, np.inf, 0.0))


@bad(il.AudioError, "pad it", r"\(220499,\)")
def audio_too_short(env):
    return None, lambda: il.log_mel(np.zeros(220_499, np.float32))


@bad(il.AudioError, "resample", "22050")
def audio_at_another_rate(env):
    return None, lambda: il.log_mel(np.zeros(220_500, np.float32), sample_rate=22_050)


@bad(il.AudioError, "average its channels", r"\(220500, 2\)")
def audio_stereo(env):
    return None, lambda: il.log_mel(np.zeros((220_500, 2), np.float32))


@bad(il.AudioError, "scale it", "int16")
def audio_of_integers(env):
    return None, lambda: il.log_mel(np.zeros(220_500, np.int16))


@bad(il.AudioError, "real numbers", "complex")
def audio_complex(env):
    return None, lambda: il.log_mel(np.zeros(220_500, complex))


@bad(il.AudioError, r"\(instruments, samples\)")
def stems_of_one_clip(env):
    return None, lambda: il.ownership(np.zeros(220_500, np.float32))


@bad(il.AudioError, "repair", "NaN")
def stems_with_nan(env):
    return None, lambda: il.ownership(np.full((2, 220_500), np.nan, np.float32))


# Spectrograms, classes, labels


@bad(il.InputError, r"il\.log_mel", r"\(128, 431\)")
def spectrogram_without_a_batch(env):
    return None, lambda: il.predict(il.CompactCNN(), env.mels[0])


@bad(il.InputError, r"il\.log_mel")
def spectrogram_too_narrow(env):
    return None, lambda: il.relevance(il.CompactCNN(), env.mels[:, :, :-1], [0, 1, 2])


@bad(il.InputError, r"il\.log_mel|repair", "NaN")
def spectrogram_with_nan(env):
    return None, lambda: il.predict(il.CompactCNN(), np.full((1, 128, 431), np.nan, np.float32))


@bad(il.InputError, r"il\.log_mel", "-120")
def spectrogram_below_the_scale(env):
    return None, lambda: il.predict(il.CompactCNN(), env.mels * 1.5)


@bad(il.InputError, r"il\.log_mel", "uint8")
def spectrogram_as_it_is_stored(env):
    return None, lambda: il.predict(il.CompactCNN(), np.zeros((1, 128, 431), np.uint8))


@bad(il.InputError, r"il\.log_mel")
def spectrogram_above_the_scale(env):
    """dB relative to something else, as librosa gives them without a reference."""
    return None, lambda: il.predict(il.CompactCNN(), env.mels + 10)


@bad(il.InputError, "3 spectrograms need 3 classes")
def relevance_with_too_few_classes(env):
    return None, lambda: il.relevance(il.CompactCNN(), env.mels, [0, 1])


@bad(il.InputError, "epsilon_plus, epsilon_plus_flat", "delta")
def relevance_by_an_unknown_rule(env):
    return None, lambda: il.relevance(il.CompactCNN(), env.mels, [0, 1, 2], composite="delta")


@bad(il.InputError, "rules must be of epsilon, z", "zeta")
def relevance_by_an_unknown_rule_for_a_layer(env):
    return None, lambda: il.relevance(il.CompactCNN(), env.mels, [0, 1, 2], composite=(("z+", "zeta"), "epsilon"))


@bad(il.InputError, "threshold")
def f1_of_probabilities(env):
    return None, lambda: il.f1_scores(np.zeros((2, 12)), np.full((2, 12), 0.3))


@bad(il.InputError, "0 or 1")
def f1_of_an_unknown_label(env):
    return None, lambda: il.bootstrap_f1(np.full((2, 12), 2), np.zeros((2, 12)))


@bad(il.InputError, r"\(n, classes\)", r"\(2, 12\).*\(3, 12\)")
def f1_of_different_shapes(env):
    return None, lambda: il.f1_scores(np.zeros((2, 12)), np.zeros((3, 12)))


@bad(il.InputError, "n > 0")
def f1_of_nothing(env):
    return None, lambda: il.f1_scores(np.zeros((0, 12)), np.zeros((0, 12)))


# Dataset folders


def growing(folder: Path, n_clips: int = 120, **settings):
    return lambda: il.generate(folder, n_clips, **({"n_jobs": 1, "progress": False} | settings))


@bad(il.DatasetError, r"il\.generate", "no dataset folder")
def dataset_missing(env):
    return env.folder / "none", lambda: il.ClipDataset(env.folder / "none")


@bad(il.DatasetError, "another folder", "not a dataset")
def dataset_is_another_folder(env):
    env.write("thesis.txt", b"do not overwrite")
    return env.folder, lambda: il.ClipDataset(env.folder)


@bad(il.DatasetError, "another folder", "not a dataset")
def dataset_into_another_folder(env):
    env.need_soundfont  # noqa: B018
    env.write("thesis.txt", b"do not overwrite")
    return env.folder, growing(env.folder)


@bad(il.DatasetError, "another|delete", "not a folder|is a file")
def dataset_into_a_file(env):
    env.need_soundfont  # noqa: B018
    file = env.write("clips", b"")
    return file, growing(file)


@bad(il.DatasetError, r"il\.generate", "not finished")
def dataset_not_finished(env):
    folder = env.dataset(lambda manifest: manifest["shards"].__setitem__(1, None))
    return folder, lambda: il.ClipDataset(folder)


@bad(il.DatasetError, r"il\.generate", "missing")
def dataset_with_a_missing_shard(env):
    file = env.dataset() / "clips-00001.npy"
    file.unlink()
    return file, lambda: il.ClipDataset(file.parent)


@bad(il.DatasetError, r"il\.generate", "cut short")
def dataset_with_a_truncated_shard(env):
    file = env.dataset() / "clips-00001.npy"
    file.write_bytes(file.read_bytes()[:-1])
    return file, lambda: il.ClipDataset(file.parent)


@bad(il.DatasetError, r"il\.generate", "altered")
def dataset_with_an_altered_shard(env):
    file = env.dataset() / "clips-00001.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return file, lambda: il.ClipDataset(file.parent)


@bad(il.DatasetError, r"il\.generate", "altered")
def dataset_with_two_shards_exchanged(env):
    folder = env.dataset()
    (folder / "clips-00000.npy").rename(folder / "x")
    (folder / "clips-00001.npy").rename(folder / "clips-00000.npy")
    (folder / "x").rename(folder / "clips-00001.npy")
    return folder / "clips-00000.npy", lambda: il.ClipDataset(folder)


@bad(il.DatasetError, "delete the folder", "damaged")
def dataset_with_a_cut_manifest(env):
    file = env.dataset() / "manifest.json"
    file.write_bytes(file.read_bytes()[:-10])
    return file, lambda: il.ClipDataset(file.parent)


@bad(il.DatasetError, "delete the folder", "damaged")
def dataset_with_another_manifest(env):
    file = env.write("manifest.json", b"[1, 2, 3]")
    return file, lambda: il.ClipDataset(env.folder)


@bad(il.DatasetError, "delete the folder", "damaged")
def dataset_with_a_shard_not_described(env):
    folder = env.dataset(lambda manifest: manifest["shards"][1].pop("sha256"))
    return folder, lambda: il.ClipDataset(folder)


@bad(il.DatasetError, "delete the folder|il.generate", "damaged|label")
def dataset_with_a_label_that_does_not_exist(env):
    folder = env.dataset(lambda manifest: manifest["shards"][1]["labels"][7].append(12))
    return folder, lambda: il.ClipDataset(folder)


@bad(il.DatasetError, "delete the folder|il.generate", "damaged|label")
def dataset_with_a_label_too_few(env):
    """Else all labels after it would belong to the clip before."""
    folder = env.dataset(lambda manifest: manifest["shards"][1]["labels"].pop(7))
    return folder, lambda: il.ClipDataset(folder)


@bad(il.DatasetError, "delete the folder", "format 99")
def dataset_of_another_format(env):
    folder = env.dataset(lambda manifest: manifest.update(format=99))
    return folder, lambda: il.ClipDataset(folder)


@bad(il.DatasetError, "generate", "spectrogram|floor_db")
def dataset_with_another_scale(env):
    """It would be read as if its silence were at -80 dB."""
    folder = env.dataset(lambda manifest: manifest["spectrogram"].update(floor_db=-100.0))
    return folder, lambda: il.ClipDataset(folder)


@bad(il.DatasetError, "generate", "instruments")
def dataset_with_instruments_in_another_order(env):
    """Its labels would be read as those of other instruments."""
    folder = env.dataset(lambda manifest: manifest["instruments"].reverse())
    return folder, lambda: il.ClipDataset(folder)


@bad(il.DatasetError, "another folder", "seed = 0, not 1")
def dataset_made_with_another_seed(env):
    folder = env.dataset()
    return folder, growing(folder, seed=1)


@bad(il.DatasetError, "another folder", "split = 'train', not 'test'")
def dataset_made_for_another_split(env):
    folder = env.dataset()
    return folder, growing(folder, split="test")


@bad(il.DatasetError, "another folder", "soundfont")
def dataset_made_with_another_soundfont(env):
    folder = env.dataset()
    font = env.write_sf2(env.folder / "sine.sf2", [i.program for i in il.INSTRUMENTS])
    return folder, growing(folder, soundfont=font)


@bad(il.DatasetError, "another folder", "120")
def dataset_with_more_clips_than_asked_for(env):
    folder = env.dataset()
    return folder, growing(folder, 100)


@bad(il.DatasetError, "delete it", r"0\.0\.1")
def dataset_begun_with_another_fluidsynth(env):
    folder = env.dataset(lambda manifest: manifest["versions"].update(fluidsynth="0.0.1"))
    return folder, growing(folder, 130)


@bad(il.DatasetError, "free", "MB")
def dataset_on_a_full_disk(env):
    env.need_soundfont  # noqa: B018
    usage = shutil.disk_usage(env.folder)
    env.monkeypatch.setattr(dataset.shutil, "disk_usage", lambda _: usage._replace(free=51_000_000))
    return env.folder / "clips", growing(env.folder / "clips")


@bad(il.InputError, "whole number of at least 1", "n_clips")
def dataset_of_no_clips(env):
    return None, growing(env.folder / "clips", 0)


@bad(il.InputError, "whole number of at least 1", "n_clips")
def dataset_of_half_a_clip(env):
    return None, growing(env.folder / "clips", 1.5)


@bad(il.InputError, "whole number of at least 0", "seed")
def dataset_with_a_negative_seed(env):
    return None, growing(env.folder / "clips", 1, seed=-1)


@bad(il.InputError, "train, test", "dev")
def dataset_of_an_unknown_split(env):
    return None, growing(env.folder / "clips", 1, split="dev")


@bad(il.InputError, "n_jobs")
def dataset_by_nobody(env):
    env.need_soundfont  # noqa: B018
    return None, growing(env.folder / "clips", 1, n_jobs=0)


@bad(il.InputError, "train, test", "dev")
def score_of_an_unknown_split(env):
    return None, lambda: il.clip_score(0, split="dev")


def test_a_refused_folder_is_not_touched(clips, need_soundfont, hashes, tmp_path):
    (tmp_path / "thesis.txt").write_text("do not overwrite")
    folder = shutil.copytree(clips.path, tmp_path / "clips")
    for call in (growing(tmp_path), growing(folder, seed=1), growing(folder, 100)):
        with pytest.raises(il.DatasetError):
            call()
    assert [f.name for f in sorted(tmp_path.iterdir())] == ["clips", "thesis.txt"]
    assert hashes(folder) == hashes(clips.path)


# Weights


@bad(il.WeightsError, "'original', 'compact'", "no weights")
def weights_missing(env):
    file = env.folder / "none.safetensors"
    return file, lambda: il.load_model(file)


@bad(il.WeightsError, "'original', 'compact'", "no weights")
def weights_not_published(env):
    env.monkeypatch.setenv("INSTR_MODELS", str(env.folder))
    return env.folder / "compact.safetensors", lambda: il.load_model("compact")


@bad(il.WeightsError, "'original', 'compact'", "resnet")
def weights_of_an_unknown_name(env):
    return None, lambda: il.load_model("resnet")


@bad(il.WeightsError, "train again|restore", "damaged")
def weights_truncated(env):
    file = env.weights()
    file.write_bytes(file.read_bytes()[:-1000])
    return file, lambda: il.load_model(file)


@bad(il.WeightsError, "train again|restore", "damaged")
def weights_empty(env):
    file = env.write("weights.safetensors", b"")
    return file, lambda: il.load_model(file)


@bad(il.WeightsError, "choose", "'compact', not 'original'")
def weights_of_the_other_network(env):
    env.monkeypatch.setenv("INSTR_MODELS", str(env.folder))
    return env.weights("original"), lambda: il.load_model("original")


@bad(il.WeightsError, "choose", "architecture None")
def weights_of_somebody_else(env):
    save_file({"weight": torch.zeros(2)}, env.folder / "foreign.safetensors")
    return env.folder / "foreign.safetensors", lambda: il.load_model(env.folder / "foreign.safetensors")


@bad(il.WeightsError, "choose|train again|restore", "does not fit")
def weights_that_claim_to_be_the_other_network(env):
    file = env.folder / "weights.safetensors"
    save_file(il.CompactCNN().state_dict(), file, {"architecture": "original"})
    return file, lambda: il.load_model(file)


@bad(il.WeightsError, "choose|train again|restore", "does not fit")
def weights_with_a_layer_missing(env):
    file, state = env.folder / "weights.safetensors", il.CompactCNN().state_dict()
    del state["layers.linear.bias"]
    save_file(state, file, {"architecture": "compact"})
    return file, lambda: il.load_model(file)


@bad(il.WeightsError, "restore")
def weights_without_a_description(env):
    file = env.weights()
    file.with_suffix(".json").unlink()
    return file.with_suffix(".json"), lambda: il.model_info(file)


@bad(il.WeightsError, "restore")
def weights_with_a_damaged_description(env):
    file = env.weights()
    file.with_suffix(".json").write_text('{"architecture": ')
    return file.with_suffix(".json"), lambda: il.model_info(file)


# Training


def training(env, checkpoint: bytes | None = None, parts=None, settings=None):
    if checkpoint is not None:
        env.write("checkpoint.safetensors", checkpoint)
    settings = settings or il.TrainSettings(epochs=1)
    parts = parts or env.clips.split()
    return lambda: il.train(il.CompactCNN(), env.clips, *parts, settings, run=env.folder, progress=False)


@bad(il.TrainingError, "delete the folder", "damaged")
def checkpoint_truncated(env):
    save_file({"model.weight": torch.zeros(100)}, env.folder / "x", {"identity": "{}", "history": "[]"})
    return env.folder / "checkpoint.safetensors", training(env, (env.folder / "x").read_bytes()[:-10])


@bad(il.TrainingError, "delete the folder", "damaged")
def checkpoint_is_a_pickle(env):
    return env.folder / "checkpoint.safetensors", training(env, pickle.dumps({"model": 1}))


@bad(il.TrainingError, "delete the folder", "damaged")
def checkpoint_is_only_weights(env):
    return env.folder / "checkpoint.safetensors", training(env, env.weights().read_bytes())


@bad(il.TrainingError, "more clips")
def training_on_too_few_clips(env):
    return None, training(env, parts=(range(3), range(3, 6)))


@bad(il.TrainingError, "valid", "no clip|empty|at least")
def training_without_validation(env):
    return None, training(env, parts=(range(40), []))


@bad(il.InstrError, "120", "clip")
def training_on_clips_that_do_not_exist(env):
    return None, training(env, parts=(range(60, 121), range(60)))


@bad(il.TrainingError, "'constant' or 'one-cycle'")
def training_with_an_unknown_schedule(env):
    return None, lambda: il.TrainSettings(schedule="cosine")


@bad(il.TrainingError, "positive")
def training_for_no_epoch(env):
    return None, lambda: il.TrainSettings(epochs=0)


@bad(il.TrainingError, "positive|whole")
def training_for_half_an_epoch(env):
    return None, lambda: il.TrainSettings(epochs=1.5)


@bad(il.TrainingError, "positive")
def training_at_no_rate(env):
    return None, lambda: il.TrainSettings(learning_rate=float("nan"))


@pytest.mark.parametrize(("prepare", "error", "what", "remedy"), CASES)
def test_bad_input(prepare, error, what, remedy, request, tmp_path):
    assert issubclass(error, il.InstrError)
    file, call = prepare(Env(request, tmp_path))
    with pytest.raises(error) as raised:
        call()
    message = str(raised.value)
    assert str(file or "") in message
    assert re.search(what, message)
    assert re.search(remedy, message)
