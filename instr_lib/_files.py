"""Files that are written whole or not at all, hashes of files, and folders with one writer at a time."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import filelock

from .errors import InstrError

LOCK_FILE = ".lock"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A path beside ``path`` to write to: it replaces ``path`` when the block ends, and is deleted if the block fails.

    The file is synced to the disk before it is renamed, so that a power cut leaves the old file or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        handle = os.open(part, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike, text: str):
    """Write a text file, whole or not at all."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked_folder(folder: str | os.PathLike, error: type[InstrError]):
    """Make a folder if it does not exist, and lock it for this process; the lock ends with the process at the latest.

    The lock is a file in the folder, deleted at the end. Where the file system has no locks (some network drives),
    nothing is locked.

    Raises
    ------
    error
        At once, if another process holds the lock, or there is a file in its place.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise error(f"{folder} is a file: choose another folder, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        remedy = "wait until it has ended, or choose another folder"
        raise error(f"another process is writing to {folder}: {remedy}") from None
    except (NotImplementedError, OSError):
        pass
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):  # on Windows an open file stays, and filelock deletes it on release
                os.unlink(lock.lock_file)  # while it is locked: a process that has it open sees that, and tries anew
        lock.release()
