"""What shows sound and pictures needs no notebook, and the command line takes every published network."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile

import instr_lib as il
from instr_lib import __main__ as command_line
from instr_lib.networks import weights
from instr_lib.show import pages

# Stands at the beginning of a program: packages of the notebook extra cannot be imported.
BLOCK = (
    "import sys\n"
    "for name in ('IPython', 'ipywidgets', 'pandas', 'ipykernel', 'jupyterlab', 'papermill'):\n"
    "    sys.modules[name] = None\n"
)


def test_explain_needs_no_notebook_packages(tmp_path):
    clip = il.curated_clips()[9]
    soundfile.write(tmp_path / "violin.wav", clip.audio, 44_100)
    code = BLOCK + "sys.argv[1:] = ['explain', 'violin.wav', '--model', 'compact', '--quiet']\n"
    code += "from instr_lib.__main__ import script\nscript()\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "violin.html").read_text("utf-8")
    assert page.startswith("<!doctype html>") and "Violin" in page and page.count('class="ex-column"') == 1


def test_pages_players_and_plots_need_no_notebook_packages():
    code = BLOCK + (
        "import numpy as np, instr_lib as il\n"
        "from instr_lib.show import audio, pages, plots\n"
        "assert '<audio' in audio.player(np.zeros(4410, np.float32), 'silence').data\n"
        "try:\n    from instr_lib.show import widgets\nexcept ImportError:\n    print('no widgets')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "no widgets\n", done.stderr


@pytest.mark.parametrize("name", [*weights.PUBLISHED, "file"])
def test_every_published_network_and_a_file_can_explain(name, tmp_path, monkeypatch, capsys):
    soundfile.write(tmp_path / "tone.wav", np.sin(np.arange(44_100) / 10), 44_100)
    monkeypatch.chdir(tmp_path)
    model = name if name != "file" else str(il.save_model(il.CompactCNN(), tmp_path / "mine.safetensors"))
    calls = []
    monkeypatch.setattr(pages, "document", lambda network, recording, name, progress: calls.append((network, name)) or "")
    monkeypatch.setattr(sys, "argv", ["instr_lib", "explain", "tone.wav", "--model", model, "--quiet"])
    assert command_line.main() == 0, capsys.readouterr().err
    ((network, called),) = calls
    architecture = weights.PUBLISHED.get(name, "compact")
    assert type(network) is il.ARCHITECTURES[architecture] and called == ("mine" if name == "file" else name)
