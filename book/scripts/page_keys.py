"""Hashes that say whether a page has to be made again.

A page's key is a hash of its notebook, the profile, the library, the installed packages, the sound, and the keys of the
pages that it depends on (``dependencies.py``). Equal keys mean an equal page.
"""

import hashlib
import json
import platform
from pathlib import Path

from dependencies import dependencies, uses_soundfonts
from project import LOCK, PROFILES, ROOT, notebooks

INPUTS = ("instr_lib", "book/results")  # folders that any notebook may read


def digest(*parts: str | Path) -> str:
    """SHA-256 of texts and files, each kept apart from the next."""
    single = (part.read_bytes() if isinstance(part, Path) else part.encode() for part in parts)
    return hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in single)).hexdigest()


def read_notebook(path: Path) -> list[dict]:
    """A notebook's cells. Not by nbformat, whose import takes longer than a build in which nothing has changed."""
    return json.loads((ROOT / path).read_text(encoding="utf-8"))["cells"]


def _text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def digest_tree(folder: Path) -> str:
    """SHA-256 of a folder's files with their names."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return digest(*(part for file in files for part in (str(file.relative_to(folder)), file)))


def page_keys(profile: str, sound: str, soundfonts: str = "") -> dict[Path, str]:
    """The key of each notebook's page, in the order of _toc.yml.

    ``sound`` is what the sound of all notebooks depends on, ``soundfonts`` which further soundfonts are installed.
    """
    shared = [sound, platform.python_version(), *(digest_tree(ROOT / name) for name in INPUTS)]
    shared = digest(*shared, LOCK, PROFILES / f"{profile}.yml")
    further = uses_soundfonts()
    pages, needs, keys = {page.stem: page for page in notebooks()}, dependencies(profile), {}

    def key(name: str) -> str:
        if name not in keys:
            # Cells, not the file: saving it in JupyterLab, with outputs, changes no page.
            cells = [[cell["cell_type"], _text(cell["source"]), cell["metadata"]] for cell in read_notebook(pages[name])]
            keys[name] = digest(
                shared, soundfonts * (name in further), json.dumps(cells), *(key(earlier) for earlier in needs[name])
            )
        return keys[name]

    return {page: key(name) for name, page in pages.items()}
