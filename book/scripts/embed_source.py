"""Let a page's download button give the notebook as it is committed."""

import base64
import re
from pathlib import Path

import nbformat
from project import NOTEBOOKS, stop

DOWNLOAD = re.compile(r'href="[^"]*"(?:\s+target="_blank")?(\s+class="[^"]*btn-download-source-button)')


def embed_source(page: Path):
    """Put the notebook into the page itself: a page that is opened as a file may not fetch another file.

    The theme's button would lead to the executed copy, which is large, and which a browser shows as text.
    """
    notebook = nbformat.read(NOTEBOOKS / f"{page.stem}.ipynb", 4)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.outputs, cell.execution_count = [], None
    data = base64.b64encode(nbformat.writes(notebook).encode()).decode()
    link = f'href="data:application/x-ipynb+json;base64,{data}" download="{page.stem}.ipynb"'
    text, count = DOWNLOAD.subn(rf"{link}\1", page.read_text())
    if count != 1:
        stop(f"{page.name} has {count} download buttons instead of one: has the theme changed?")
    page.write_text(text)
    (page.parents[1] / "_sources" / "notebooks" / f"{page.stem}.ipynb").unlink()
