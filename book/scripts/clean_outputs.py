"""An executed notebook becomes a page: no traces of papermill, no live widgets, its provenance at the end.

A notebook can leave out sections for which something is missing on this machine: a cell displays the tags of their cells
as ``application/x-leave-out+json``. Chapter 9 does so for soundfonts that are not installed.
"""

import base64

from quantise import quantise_png

INJECTED = "injected-parameters"  # papermill's tag of the cell that it adds
WIDGET = "application/vnd.jupyter.widget-view+json"
LEAVE_OUT = (
    "application/x-leave-out+json"  # output that lists tags: the page is built without the cells that have one of them
)


def clean_outputs(notebook):
    """Change an executed notebook, in place, into what Jupyter Book reads."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    absent = {tag for output in outputs for tag in output.get("data", {}).get(LEAVE_OUT, [])}
    notebook.cells = [cell for cell in notebook.cells if not absent & set(cell.metadata.get("tags", []))]
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if INJECTED in cell.metadata.get("tags", []):
            cell.metadata.tags.append("remove-cell")
        if "outputs" in cell:  # without a kernel a widget does nothing, and its text is no substitute
            cell.outputs = [o for o in cell.outputs if not {WIDGET, LEAVE_OUT} & o.get("data", {}).keys()]
    note = f"---\n\n{notebook.metadata.made.provenance}"
    from nbformat.v4 import new_markdown_cell  # takes a second, for which a build that reuses everything need not wait

    notebook.cells.append(new_markdown_cell(note, id="provenance"))
    for name in ("made", "papermill", "widgets"):
        notebook.metadata.pop(name, None)


def quantise_figures(notebook):
    """Make the PNGs among a notebook's outputs smaller, in place."""
    for data in (output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])):
        if "image/png" in data:
            data["image/png"] = base64.b64encode(quantise_png(base64.b64decode(data["image/png"]))).decode()


def find_problem(notebook) -> str | None:
    """What must not be on a page: an error, or else anything on stderr. Cells are counted as in the source."""
    warnings = []
    cells = [c for c in notebook.cells if not {INJECTED, "papermill-error-cell-tag"} & set(c.metadata.get("tags", []))]
    for number, cell in enumerate(cells, 1):
        for output in cell.get("outputs", []):
            where = f"cell {number} of {len(cells)}"
            if output.output_type == "error":
                return f"{where} failed: {output.ename}: {(output.evalue.strip() or 'no message').splitlines()[-1]}"
            if output.get("name") == "stderr":
                warnings.append(f"{where} wrote to stderr: {(output.text.strip() or 'a blank').splitlines()[0]}")
    return warnings[0] if warnings else None
