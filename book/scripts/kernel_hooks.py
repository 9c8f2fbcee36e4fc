"""Install the checks of ``ipython_startup.py`` in the kernels, and read the file access that they note."""

import shutil
from pathlib import Path


def install(ipython: Path):
    """Put the checks into the folder that IPYTHONDIR names."""
    startup = ipython / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("ipython_startup.py"), startup)


def environment(log: Path, folder: Path) -> dict[str, str]:
    """What a kernel's environment must hold for its access to files below ``folder`` to be noted in ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    return {"BOOK_ACCESS_LOG": str(log), "BOOK_ACCESS_FOLDER": str(folder)}


def read_access(log: Path) -> dict[str, list[str]]:
    """The paths, relative to the folder, that were "read" and "wrote"."""
    access = {"read": [], "wrote": []}
    for line in log.read_text().splitlines() if log.exists() else ():
        kind, _, path = line.partition(" ")
        access[kind].append(path.removesuffix(".part"))
    return access
