"""Colab: the first cell of each notebook, and what it does there.

`python book/scripts/colab.py` writes that cell into all notebooks, with the repository's address from _config.yml. On Colab
the cell fetches the repository and calls `set_up`. It uses the standard library only, for Colab has nothing of ours yet.
"""

import json
import os
import re
import subprocess
import sys
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
    """The first code cell of a notebook; it asks for the address if that is not known. Pages do not show it."""
    known = json.dumps(address) if address else 'input("Address of the book\'s repository: ")'
    source = CELL.format(address=known).splitlines(keepends=True)
    tags = {"tags": ["remove-cell"]}
    return {"cell_type": "code", "execution_count": None, "id": "colab", "metadata": tags, "outputs": [], "source": source}


def write_cells():
    """Put the cell before the first code cell of each notebook, in place of the one that is there."""
    import yaml  # of .venv: this part is for us

    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = json.loads(file.read_text())
        cells = [c for c in notebook["cells"] if c.get("id") != "colab"]
        cells.insert([c["cell_type"] for c in cells].index("code"), cell(address))
        text = json.dumps({**notebook, "cells": cells}, indent=1, ensure_ascii=False) + "\n"
        if text != file.read_text():
            file.write_text(text)
            print(f"colab: wrote {file.relative_to(ROOT)}")


def missing(installed=metadata.version) -> list[str]:
    """What instr_lib and the notebooks need and this Python lacks, as locked. Of torch and the rest Colab's own stay."""
    wanted = (ROOT / "requirements.txt").read_text().split("# notebooks and book")[0]
    locked = re.findall(r"^([\w.-]+)(==.*)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    versions = {name.lower(): version for name, version in locked}
    found = []
    for name in re.findall(r"^[\w.-]+", wanted, re.MULTILINE):
        try:
            installed(name)
        except metadata.PackageNotFoundError:
            found.append(name + versions[name.lower()])
    return found


def set_up():
    """In the kernel that runs the notebook: the system's packages, Python's, the library, and the folder to work in."""
    sys.path[:0] = [str(ROOT), str(ROOT / "book" / "scripts")]
    import setup

    if packages := setup.missing_packages(new=False):
        setup.install_packages(packages, setup.sudo())
    if names := missing():
        print("installing", *names, flush=True)
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *names], check=True)
    os.chdir(ROOT / "notebooks")


if __name__ == "__main__":
    write_cells()
