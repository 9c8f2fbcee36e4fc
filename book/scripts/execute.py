"""Execute one notebook with papermill."""

import json
import logging
import os
import sys
import time
from pathlib import Path

import kernel_hooks
from clean_outputs import find_problem, quantise_figures
from project import NOTEBOOKS, ROOT, parameters, stop
from provenance import provenance


def isolate(cache: Path):
    """Keep the user's own settings of Jupyter, IPython and matplotlib from changing a page."""
    os.environ.update(
        JUPYTER_PATH=f"{sys.prefix}/share/jupyter",  # searched first, so that a user's own kernel "python3" is not used
        IPYTHONDIR=str(cache / "ipython"),
        MPLCONFIGDIR=str(cache / "matplotlib"),
        TQDM_DISABLE="1",  # no progress bars on pages
        # Threads that wait for each other sleep instead of spinning: results are the same, and where processes share the
        # cores, as notebooks do here, they take a third of the time.
        OMP_WAIT_POLICY="PASSIVE",
    )
    if named := os.environ.get("INSTR_SOUNDFONT"):  # kernels run in notebooks/
        os.environ["INSTR_SOUNDFONT"] = str(Path(named).expanduser().absolute())
    os.environ.pop("MPLBACKEND", None)  # the kernel's own puts figures into the notebook
    kernel_hooks.install(cache / "ipython")


def prepare():
    """Import and adjust what executing needs, once for all notebooks."""
    import matplotlib.font_manager  # noqa: F401  makes its list of fonts; a kernel would mention it on stderr
    import papermill  # noqa: F401
    from nbclient import NotebookClient

    # nbclient answers Output widgets as a browser would, and sometimes hangs (its issue 312). Without that, what
    # `interact` shows first is kept as the cell's output, which is what a page needs.
    NotebookClient.on_comm_open_jupyter_widget = lambda client, message: None
    logging.getLogger("papermill").setLevel(logging.ERROR)  # not every notebook has every parameter


def executed_copy(page: Path, profile: str, out: Path) -> Path:
    """Where the executed copy of a notebook lies."""
    return out / profile / "executed" / page.name


def made(page: Path, profile: str, out: Path) -> dict:
    """What the executed copy says about itself: its key, seconds, provenance and file access; empty if there is none."""
    done = executed_copy(page, profile, out)
    return json.loads(done.read_text(encoding="utf-8"))["metadata"].get("made", {}) if done.exists() else {}


def execute(page: Path, profile: str, key: str, out: Path) -> float:
    """Execute a notebook into the build folder. Returns its seconds; stops the build if a cell fails."""
    prepare()
    import nbformat
    import papermill

    start, done, values = time.monotonic(), executed_copy(page, profile, out), parameters(profile, out)
    done.unlink(missing_ok=True)  # the files that it left for later pages are about to change
    done.parent.mkdir(parents=True, exist_ok=True)
    part, log = done.with_suffix(".part.ipynb"), out / "cache" / "access" / page.stem
    folder = Path(os.path.normpath(NOTEBOOKS / values.get("FOLDER", out / profile)))
    os.environ |= kernel_hooks.environment(log, folder)
    options = dict(kernel_name="python3", language="python", start_timeout=180, progress_bar=False)
    options["extra_arguments"] = ["--log-level=CRITICAL"]  # of the kernel's own log; ours is the notebook
    try:
        papermill.execute_notebook(ROOT / page, part, values, cwd=ROOT / page.parent, **options)
    except papermill.PapermillExecutionError:
        pass  # the copy says more precisely what failed
    except RuntimeError as error:  # nbclient's DeadKernelError and the like
        stop(f"{page} was not executed: {error} (out of memory?)")
    notebook = nbformat.read(part, 4)
    if problem := find_problem(notebook):
        stop(f"{page}, {problem} (all of it: {part})")
    quantise_figures(notebook)
    seconds = time.monotonic() - start
    access = kernel_hooks.read_access(log)
    notebook.metadata.made = {"key": key, "seconds": seconds, "provenance": provenance(profile), "access": access}
    nbformat.write(notebook, part)
    part.replace(done)
    return seconds
