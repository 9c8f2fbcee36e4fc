"""Where the project's files are, and the settings that the build reads from them."""

import os
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"


def stop(message: str):
    """End the build with one line and status 1."""
    sys.exit(f"book: {message}")


def parameters(profile: str, out: Path) -> dict:
    """The notebooks' parameters. Profiles write ../_build, relative to notebooks/, for the folder that --out sets."""
    text = (PROFILES / f"{profile}.yml").read_text()
    return yaml.safe_load(text.replace("../_build", os.path.relpath(out, NOTEBOOKS)))


def notebooks() -> list[Path]:
    """The notebooks that _toc.yml names, in its order, as paths relative to the project."""
    names = re.findall(r"^[\s-]*file:\s*(notebooks/\S+)", (ROOT / "_toc.yml").read_text(), re.MULTILINE)
    pages = [Path(f"{name}.ipynb") for name in names]
    for page in pages:
        if not (ROOT / page).is_file():
            stop(f"_toc.yml names {page.with_suffix('')}, but there is no {page}")
    return pages


def repository() -> str:
    """The repository's address from _config.yml, which buttons and links need, or "" if none is set."""
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    if url and not re.fullmatch(r"https://git(hub|lab)\.com/[\w.-]+/[\w.-]+", url):
        stop(f"_config.yml: repository.url is {url!r}: it must read https://github.com/OWNER/NAME, or be empty")
    return url
