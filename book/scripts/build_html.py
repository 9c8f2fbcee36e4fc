"""Run Jupyter Book, optimise and check what it builds, and only then replace the last book."""

import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

from check_page import check_page
from embed_source import embed_source
from optimise_site import optimise_site

JUPYTER_BOOK = Path(__file__).with_name("run_jupyter_book.py")


def build_html(source: Path, html: Path):
    """Build the pages of a folder into another one, which stays as it was if there is any warning."""
    staging = source.with_name("staging")
    shutil.rmtree(staging, ignore_errors=True)
    command = [sys.executable, JUPYTER_BOOK, "build", source, "--path-output", staging, "-W", "--keep-going", "-q"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr.replace(f'{source}/', '')}book: jupyter-book has warnings or errors: see above")
    built = staging / "_build" / "html"
    unused = shutil.ignore_patterns("SVG", "localization")  # a second way to draw, and the menu in other languages
    shutil.copytree(str(resources.files("jupyter_server_mathjax") / "static"), built / "mathjax", ignore=unused)
    optimise_site(built)
    for page in (built / "notebooks").glob("*.html"):
        embed_source(page)
    files = [*sorted(built.rglob("*.html")), *built.rglob("*.css")]
    problems = [problem for file in files for problem in check_page(file)]
    if problems:
        sys.exit("\n".join(problems) + f"\nbook: pages that must not be published: see above and {built}")
    shutil.rmtree(html, ignore_errors=True)
    built.replace(html)
    shutil.rmtree(staging)
