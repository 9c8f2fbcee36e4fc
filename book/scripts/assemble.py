"""Put together the folder that Jupyter Book reads: pages in Markdown, executed notebooks, settings."""

import shutil
from pathlib import Path

import nbformat
import yaml
from clean_outputs import clean_outputs
from execute import executed_copy
from fill_pages import fill_pages
from project import ROOT, repository
from provenance import provenance
from quantise import quantise_png
from template_context import template_context

# Where a reader can run a notebook that is on GitHub.
LAUNCH = {"colab_url": "https://colab.research.google.com", "binderhub_url": "https://mybinder.org"}


def assemble(notebooks: list[Path], profile: str, out: Path) -> Path:
    """Make the folder, from nothing each time. Returns its path."""
    source = out / profile / "source"
    shutil.rmtree(source, ignore_errors=True)
    copy_book(source)
    fill_pages(source, template_context(profile, out))
    note = provenance(profile)
    for page in source.rglob("*.md"):
        with page.open("a") as end:
            end.write(f"\n---\n\n{note}\n")
    for page in notebooks:
        notebook = nbformat.read(executed_copy(page, profile, out), 4)
        clean_outputs(notebook)
        (source / page).parent.mkdir(exist_ok=True)
        nbformat.write(notebook, source / page)
    return source


def copy_book(source: Path):
    """Copy pages, static files and settings."""
    shutil.copytree(ROOT / "book", source / "book", ignore=shutil.ignore_patterns("scripts", "results", ".*"))
    for picture in (source / "book" / "_static").glob("*.png"):
        picture.write_bytes(quantise_png(picture.read_bytes()))
    # Jupyter Book links the styles and scripts in this folder on every page.
    shutil.copytree(source / "book" / "_static", source / "_static", ignore=shutil.ignore_patterns("*.png"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, source)
    if url := repository():
        add_buttons(source / "_config.yml", url)


def add_buttons(config: Path, url: str):
    """Add to a copy of _config.yml the buttons that lead to the repository and to services that run its notebooks."""
    settings = yaml.safe_load(config.read_text())
    services = LAUNCH if "github.com" in url else {"binderhub_url": LAUNCH["binderhub_url"]}
    settings["launch_buttons"] |= services | {"notebook_interface": "jupyterlab"}
    settings["html"] |= {"use_repository_button": True, "use_issues_button": True}
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
