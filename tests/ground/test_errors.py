"""Errors are ours and Python's at once, and survive the way out of a worker process."""

import inspect
import pickle

import pytest

import instr_lib as il
from instr_lib import errors

PYTHONS = {
    il.InputError: ValueError,
    il.InstrumentError: ValueError,
    il.ScoreError: ValueError,
    il.AudioError: ValueError,
    il.SynthError: RuntimeError,
    il.TrainingError: RuntimeError,
    il.SoundfontError: OSError,
    il.DatasetError: OSError,
    il.WeightsError: OSError,
    il.ResultsError: OSError,
}
OURS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


def test_each_error_is_also_one_of_pythons():
    assert {*OURS} == {*PYTHONS, il.InstrError}
    for kind, python in PYTHONS.items():
        assert issubclass(kind, il.InstrError) and issubclass(kind, python), kind
    assert issubclass(il.SoundfontError, il.SynthError)
    assert not issubclass(il.InstrError, (ValueError, OSError, RuntimeError))


@pytest.mark.parametrize("kind", OURS)
def test_messages_survive_pickling(kind):
    message = "x.sf2 is empty: install it, 100 % of it"
    error = pickle.loads(pickle.dumps(kind(message)))
    assert type(error) is kind and str(error) == message and error.args == (message,)


def test_a_caller_may_catch_what_python_would_raise(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'Violin'"):
        il.instrument_index("Violine")
    with pytest.raises(OSError, match=r"il\.generate"):
        il.ClipDataset(tmp_path / "none")
    with pytest.raises(OSError, match="INSTR_SOUNDFONT"):
        il.Synth(tmp_path / "none.sf2")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("FluidR3", ("fluid-soundfont-gm", "INSTR_SOUNDFONT", "make soundfonts")),
        ("OPL3", ("opl3-soundfont", "~/.local/share/soundfonts", "make soundfonts")),
        ("Sonivox", ("npm package @coderline/alphatab", "~/.local/share/soundfonts", "make soundfonts")),
        ("Freepats", ("freepats", "tools/freepats.py", "~/.local/share/soundfonts", "make soundfonts")),
    ],
)
def test_a_missing_soundfont_says_what_to_do_with_a_wheel_and_with_a_checkout(name, words, tmp_path, monkeypatch):
    from instr_lib.music import soundfonts

    monkeypatch.delenv("INSTR_SOUNDFONT", raising=False)
    monkeypatch.setenv("INSTR_SOUNDFONT_PLACES", str(tmp_path))
    with pytest.raises(il.SoundfontError, match="was not found") as error:
        soundfonts.find_soundfont(name)
    for word in words:
        assert word in str(error.value)


def test_a_missing_fluidsynth_says_what_to_do(monkeypatch):
    from instr_lib.music import _fluidsynth

    def fail(name):
        raise ImportError("no such library")

    monkeypatch.setattr(_fluidsynth.importlib, "import_module", fail)
    with pytest.raises(il.SynthError, match=r"libfluidsynth3.*brew install.*pyfluidsynth.*make setup"):
        _fluidsynth.bindings.__wrapped__()
