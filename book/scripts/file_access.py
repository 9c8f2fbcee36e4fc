"""Notes which files below a folder a notebook reads and writes, from inside its kernel.

``install`` puts the hook among IPython's startup files. It is silent unless BOOK_ACCESS_LOG names a file to write to.
Files that libraries open without Python's ``open`` are not seen; the JSON beside each of them is.
"""

from pathlib import Path

HOOK = """\
def _note_file_access():
    import os, sys

    if not (log := os.environ.get("BOOK_ACCESS_LOG")):
        return
    folder = os.environ["BOOK_ACCESS_FOLDER"] + os.sep
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    seen = set()

    def note(kind, path):
        if isinstance(path, (str, os.PathLike)):
            path = os.path.abspath(path)
            if path.startswith(folder) and (kind, path) not in seen:
                seen.add((kind, path))
                os.write(out, f"{kind} {path[len(folder):]}\\n".encode())

    def hook(event, arguments):
        if event == "open":
            path, mode, flags = arguments
            note("wrote" if flags & (os.O_WRONLY | os.O_RDWR) else "read", path)
        elif event == "os.rename":
            note("wrote", arguments[1])
        elif event in ("os.listdir", "os.scandir"):
            note("read", arguments[0])

    sys.addaudithook(hook)


_note_file_access()
del _note_file_access
"""


def install(ipython: Path):
    """Write the hook into the folder that IPYTHONDIR names."""
    file = ipython / "profile_default" / "startup" / "note_file_access.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(HOOK)


def environment(log: Path, folder: Path) -> dict[str, str]:
    """What a kernel's environment must hold for its access to files below ``folder`` to be noted in ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    return {"BOOK_ACCESS_LOG": str(log), "BOOK_ACCESS_FOLDER": str(folder)}


def read_log(log: Path) -> dict[str, list[str]]:
    """The paths, relative to the folder, that were "read" and "wrote"."""
    access = {"read": [], "wrote": []}
    for line in log.read_text().splitlines() if log.exists() else ():
        kind, _, path = line.partition(" ")
        access[kind].append(path.removesuffix(".part"))
    return access
