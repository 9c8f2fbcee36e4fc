"""One writer a folder: what a dataset and a training run share."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .errors import InstrError


@contextlib.contextmanager
def claimed(folder: str | os.PathLike, error: type[InstrError]):
    """Keep a folder, made if it does not exist, to this process; ends with the process, however that ends.

    The lock is on the folder itself, so nothing is left behind in it. Where the file system knows no
    locks (some network drives) nothing is locked.

    Raises
    ------
    error
        At once, if another process has claimed the folder, or it is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise error(f"{folder} is a file: choose another folder, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remedy = "wait until it has ended, or choose another folder"
            raise error(f"another process is writing to {folder}: {remedy}") from None
        except OSError:
            pass
        yield
    finally:
        os.close(handle)
