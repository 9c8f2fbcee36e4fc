"""An executed notebook becomes a page: no traces of papermill, no live widgets, its provenance at the end."""

import base64

import nbformat
from quantise import quantise_png

INJECTED = "injected-parameters"  # papermill's tag of the cell that it adds
WIDGET = "application/vnd.jupyter.widget-view+json"


def clean_outputs(notebook):
    """Change an executed notebook, in place, into what Jupyter Book reads."""
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if INJECTED in cell.metadata.get("tags", []):
            cell.metadata.tags.append("remove-cell")
        if "outputs" in cell:  # without a kernel a widget does nothing, and its text is no substitute
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    note = f"---\n\n{notebook.metadata.made.provenance}"
    notebook.cells.append(nbformat.v4.new_markdown_cell(note, id="provenance"))
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
