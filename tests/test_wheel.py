"""The wheel is the whole library: it works without the checkout, with its run-time dependencies alone."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WEIGHTS = sorted(file.stem for file in (ROOT / "instr_lib" / "networks" / "weights").glob("*.safetensors"))
# What notebooks, the book and tests need, by its name on PyPI and in Python; none of it may be needed at run time.
NOT_AT_RUN_TIME = {
    "jupyterlab": "jupyterlab", "ipython": "IPython", "ipykernel": "ipykernel", "ipywidgets": "ipywidgets",
    "papermill": "papermill", "pandas": "pandas", "librosa": "librosa", "music21": "music21",
    "jupyter-book": "jupyter_book", "playwright": "playwright", "pypdf": "pypdf", "pytest": "pytest", "quantus": "quantus",
    "lightning-fabric": "lightning_fabric", "distributed": "distributed",
}  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


def closure(requirements: list[str]) -> set[str]:
    """The installed distributions that these requirements need, directly or not, by their canonical names."""
    needed, waiting = set(), [(Requirement(line), "") for line in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        lines = map(Requirement, metadata.requires(name) or ())
        if name not in needed:
            needed.add(name)
            lines = list(lines)
            waiting += [(line, "") for line in lines]
        waiting += [(line, extra) for line in lines for extra in requirement.extras]
    return needed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of what git has, so that nothing is left in the checkout and nothing old gets in."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", *{PROJECT["readme"], *PROJECT["license-files"]}):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "instr_lib", source / "instr_lib", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "-q", "-w", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A function that runs Python in an empty folder, in an environment of the wheel and its dependencies only.

    The dependencies are links to this environment's: a second torch would be gigabytes.
    """
    venv = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    for name in closure(PROJECT["dependencies"]):
        files = metadata.files(name)
        folder = Path(metadata.distribution(name).locate_file("")).resolve()
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            if not (packages / top).exists() and not top.endswith(".pth"):
                (packages / top).symlink_to(folder / top)
    install = ["install", "--no-deps", "--no-index", "-q", wheel]
    done = subprocess.run([sys.executable, "-m", "pip", "--python", venv / "bin" / "python", *install], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "INSTR_"))}

    def run(*arguments):
        folder = tmp_path_factory.mktemp("empty")
        command = [venv / "bin" / "python", *arguments]
        return folder, subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    return run


def test_few_dependencies_and_none_of_them_for_notebooks_or_tests():
    direct = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert len(direct) <= 20
    assert closure(PROJECT["dependencies"]) & NOT_AT_RUN_TIME.keys() == set()


def test_a_wheel_is_small(wheel):
    assert wheel.stat().st_size < 20e6


EVERYTHING = """
import importlib, json, sys
import numpy as np
import instr_lib as il

clips, notes = il.curated_clips(), il.recorded_notes()
mels = np.stack([clip.mel for clip in clips[:2]])
networks = {}
for name in sys.argv[1].split():
    model = il.load_model(name)
    heat = il.relevance(model, mels, [0, 1])
    networks[name] = [il.predict(model, mels).shape, heat.shape, bool(np.isfinite(heat).all())]
for room in ("music", "data", "samples", "networks", "explain", "truth", "show", *il.__all__):
    getattr(il, room)
absent = []
for module in sys.argv[2].split():
    try:
        importlib.import_module(module)
    except ModuleNotFoundError:
        absent.append(module)
said = {"file": il.__file__, "networks": networks, "clips": len(clips), "notes": len(notes), "absent": absent}
json.dump(said, sys.stdout)
"""


def test_everything_works_from_the_wheel(python):
    _, done = python("-c", EVERYTHING, " ".join(WEIGHTS), " ".join(NOT_AT_RUN_TIME.values()))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert "site-packages" in said["file"] and not Path(said["file"]).is_relative_to(ROOT)
    assert said["networks"] == {name: [[2, 12], [2, 128, 431], True] for name in WEIGHTS} and "compact" in WEIGHTS
    assert said["clips"] > 10 and said["notes"] > 10
    assert set(said["absent"]) == set(NOT_AT_RUN_TIME.values())  # else what works here might not work elsewhere


def test_the_command_line_works_from_the_wheel(python, tones, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "tones.wav", tones[0], 44_100)
    folder, done = python("-m", "instr_lib", "explain", tmp_path / "tones.wav", "--quiet")
    assert done.returncode == 0, done.stderr
    (page,) = folder.iterdir()
    assert page.name == "tones.html" and "tones.wav" in page.read_text()
