"""Files that are whole or not there, and folders with one writer at a time."""

import hashlib
import subprocess
import sys

import pytest

import instr_lib as il
from instr_lib import _files


def test_a_file_is_whole_or_as_it_was(tmp_path):
    file = tmp_path / "some" / "file.txt"
    _files.write_text(file, "one")
    with pytest.raises(KeyboardInterrupt), _files.atomic_path(file) as part:
        part.write_text("tw")
        raise KeyboardInterrupt
    assert file.read_text() == "one" and list(file.parent.iterdir()) == [file]
    _files.write_text(file, "two ö")
    assert file.read_text(encoding="utf-8") == "two ö" and list(file.parent.iterdir()) == [file]


def test_sha256(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1000)
    assert _files.sha256(tmp_path / "file") == hashlib.sha256(bytes(range(256)) * 1000).hexdigest()


def test_one_process_at_a_time_and_nothing_left_behind(tmp_path):
    folder = tmp_path / "new" / "folder"
    code = f"from instr_lib import _files, errors\nwith _files.locked_folder({str(folder)!r}, errors.DatasetError): pass"
    with _files.locked_folder(folder, il.DatasetError):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "another process is writing to" in done.stderr and done.returncode == 1
        with pytest.raises(il.TrainingError, match="wait until"), _files.locked_folder(folder, il.TrainingError):
            pass
    assert folder.is_dir() and not list(folder.iterdir())
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(ZeroDivisionError), _files.locked_folder(folder, il.DatasetError):
        _ = 1 / 0
    assert not list(folder.iterdir())


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(il.DatasetError, match="is a file"), _files.locked_folder(tmp_path / "file", il.DatasetError):
        pass
