"""The calls of the design's section "Contract", as they are written there: other people rely on these names."""

import inspect
import subprocess
import sys

import joblib
import mido
import numpy as np
import pytest

import instr_lib as il


def is_array(array, shape: tuple, kind=np.float32) -> bool:
    return isinstance(array, np.ndarray) and array.shape == shape and array.dtype == kind


def test_instruments():
    assert isinstance(il.INSTRUMENTS, tuple)
    assert [i.program for i in il.INSTRUMENTS] == [0, 24, 48, 72, 8, 32, 56, 80, 16, 40, 64, 88]
    assert [i.name for i in il.INSTRUMENTS] == [
        *("Acoustic Grand Piano", "Nylon Acoustic Guitar", "String Ensemble 1", "Piccolo", "Celesta", "Acoustic Bass"),
        *("Trumpet", "Square Wave Lead", "Hammond Organ", "Violin", "Soprano Sax", "New Age Pad"),
    ]


def test_score(tmp_path):
    score = il.random_score(np.random.default_rng([7, 0, 0]), n_instruments=None)
    assert 1 <= len(score.instruments) <= 4
    assert list(score.instruments) == sorted(set(score.instruments))
    assert isinstance(score.to_midi(), mido.MidiFile)
    score.to_midi().save(tmp_path / "clip.mid")
    assert il.Score.from_midi(tmp_path / "clip.mid") == score
    with open(tmp_path / "clip.mid", "rb") as file:
        assert il.Score.from_midi(file) == score


def test_sound_and_spectrogram(need_soundfont):
    score = il.random_score(np.random.default_rng([7, 0, 0]), n_instruments=3)
    synth = il.Synth(soundfont=None, effects=False)
    stems = synth.render_stems(score)
    assert is_array(stems, (3, 220_500))
    mix = synth.render(score)
    assert is_array(mix, (220_500,))
    assert np.allclose(mix, stems.sum(axis=0), atol=1e-6)
    mel = il.log_mel(mix)
    assert is_array(mel, (128, 431))
    assert mel.min() == -80
    assert -80 < mel.max() <= 0
    mask = il.ownership(stems)
    assert is_array(mask, (3, 128, 431))
    assert np.all(mask[:, mel == -80] == 0)
    assert np.allclose(mask[:, mel > -80].sum(axis=0), 1, atol=1e-5)


def test_dataset(need_soundfont, tmp_path):
    ds = il.generate(tmp_path / "clips", 3, seed=0, split="train", n_jobs=1)
    assert isinstance(ds, il.ClipDataset)
    assert len(il.generate(tmp_path / "clips", 3, seed=0, split="train", n_jobs=1)) == 3  # resumes
    ds = il.ClipDataset(tmp_path / "clips")
    assert len(ds) == 3
    mel, label = ds[2]
    assert is_array(mel, (1, 128, 431))
    assert is_array(label, (12,))
    assert set(label) <= {0, 1}


def test_all_cores_are_used_by_default():
    defaults = {name: p.default for name, p in inspect.signature(il.generate).parameters.items()}
    assert (defaults["seed"], defaults["split"], defaults["n_jobs"]) == (0, "train", -1)


@pytest.mark.parametrize(("name", "kind"), [("compact", il.CompactCNN), ("original", il.OriginalCNN)])
def test_model(name, kind, mels):
    model = il.load_model(name)
    assert type(model) is kind
    assert not model.training
    probs = il.predict(model, mels)
    assert is_array(probs, (3, 12))
    assert probs.min() >= 0
    assert probs.max() <= 1
    heat = il.relevance(model, mels, [0, 5, 11])
    assert is_array(heat, (3, 128, 431))
    assert np.isfinite(heat).all()
    assert heat.any(axis=(1, 2)).all()


def test_every_error_is_an_instr_error():
    errors = [getattr(il, name) for name in dir(il) if name.endswith("Error")]
    assert len(errors) >= 8
    assert all(issubclass(error, il.InstrError) for error in errors)


def test_every_name_that_is_offered_exists():
    for name in il.__all__:
        assert getattr(il, name) is not None, name


@pytest.mark.slow
@pytest.mark.parametrize(
    "first", ["from instr_lib.explain.attribution import COMPOSITES", "from instr_lib import relevance"]
)
def test_relevance_is_the_function_however_it_is_imported(first):
    """No module has its name, so importing one cannot replace it."""
    code = f"{first}; from instr_lib import relevance; import instr_lib as il; assert il.relevance is relevance"
    subprocess.run([sys.executable, "-c", f"{code}; relevance.__code__"], check=True)


def test_generating_needs_no_torch():
    """Each worker process imports the library: torch would cost 2 s and 300 MB."""
    code = "import sys, instr_lib as il; il.generate, il.Synth, il.log_mel; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_functions_that_use_the_package_reach_worker_processes():
    """As in a notebook: defined there and so pickled by value, with the package among their globals."""
    namespace = {"il": il}
    exec("def names(i):\n    return il.INSTRUMENTS[i].name, callable(il.relevance)", namespace)
    names = joblib.Parallel(2)(joblib.delayed(namespace["names"])(i) for i in range(2))
    assert names == [(il.INSTRUMENTS[i].name, True) for i in range(2)]
