"""Colab: the first cell of each notebook, and what it does there.

`python book/scripts/colab.py` writes that cell into all notebooks, with the repository's address from _config.yml. On Colab
the cell fetches the repository and calls `set_up`. It uses the standard library only, for Colab has nothing of ours yet.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CELL = """\
import os
import runpy
import sys

if "google.colab" in sys.modules:  # fetch the book and what it needs
    address = {address}
    os.system(f"git clone --depth 1 {{address}} /content/book")
    runpy.run_path("/content/book/book/scripts/colab.py")["set_up"]()"""


def cell(address: str) -> dict:
    """The first code cell of a notebook, hidden on pages; it asks for the address if none is set."""
    known = json.dumps(address) if address else 'input("Address of the book\'s repository: ")'
    source = CELL.format(address=known).splitlines(keepends=True)
    tags = {"tags": ["remove-cell"]}
    return {"cell_type": "code", "execution_count": None, "id": "colab", "metadata": tags, "outputs": [], "source": source}


def write_cells():
    """Insert the cell before the first code cell of each notebook, or replace it."""
    import yaml  # from .venv: this part does not run on Colab

    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = json.loads(file.read_text())
        cells = [c for c in notebook["cells"] if c.get("id") != "colab"]
        cells.insert([c["cell_type"] for c in cells].index("code"), cell(address))
        text = json.dumps({**notebook, "cells": cells}, indent=1, ensure_ascii=False) + "\n"
        if text != file.read_text():
            file.write_text(text)
            print(f"colab: wrote {file.relative_to(ROOT)}")


def required(project: dict) -> list[str]:
    """Names of what the library and the notebooks need, from the [project] table of pyproject.toml."""
    wanted = [*project.get("dependencies", []), *project.get("optional-dependencies", {}).get("notebooks", [])]
    return [re.match(r"[\w.-]+", requirement)[0] for requirement in wanted]


def missing(installed=metadata.version) -> list[str]:
    """What the library and the notebooks need and this Python lacks, as locked. Colab's own torch and others stay."""
    locked = re.findall(r"^([\w.-]+)(==.*)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    versions = {name.lower(): version for name, version in locked}
    absent = []
    for name in required(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]):
        try:
            installed(name)
        except metadata.PackageNotFoundError:
            absent.append(name + versions[name.lower()])
    return absent


def set_up():
    """In the kernel that runs the notebook: install packages, make the library importable, change to notebooks/."""
    sys.path[:0] = [str(ROOT), str(ROOT / "book" / "scripts")]
    import system_packages

    if packages := system_packages.missing_packages(new=False):
        system_packages.install_packages(packages, system_packages.sudo())
    if names := missing():
        print("installing", *names, flush=True)
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *names], check=True)
    os.chdir(ROOT / "notebooks")


if __name__ == "__main__":
    write_cells()
