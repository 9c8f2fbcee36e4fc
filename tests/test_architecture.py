"""How the library is built: rooms that import in one direction, modules of one sitting, names that say one thing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

import instr_lib as il

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "instr_lib").rglob("*.py"))
MODULE_LINES, FUNCTION_LINES = 350, 50
LONGER = {  # functions that may be longer, and why
    ("networks/training.py", "train"): "the training loop reads from top to bottom",
    ("__main__.py", "_arguments"): "the command line is one list of options",
    ("__main__.py", "_parser"): "the command line is one list of options",
}


def name(path: Path) -> str:
    return path.relative_to(ROOT / "instr_lib").as_posix()


each_module = pytest.mark.parametrize("path", MODULES, ids=name)


def functions(path: Path):
    """Functions and methods of a module, also nested ones."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]


def test_a_room_imports_only_from_the_rooms_before_it(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == EXIT_STATUS_SUCCESS, capsys.readouterr().out


@each_module
def test_a_module_is_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= MODULE_LINES


@each_module
def test_a_function_fits_on_a_screen(path):
    lines = {node.name: node.end_lineno - node.lineno + 1 for node in functions(path)}
    assert {f: n for f, n in lines.items() if n > FUNCTION_LINES and (name(path), f) not in LONGER} == {}


def test_no_module_bears_the_name_of_a_public_function():
    """Importing it would put it in the place of the function."""
    rooms = [
        getattr(il, path.parent.name)
        for path in MODULES
        if path.name == "__init__.py" and path.parent.parent.name == "instr_lib"
    ]
    called = {each for package in (il, *rooms) for each in package.__all__ if callable(getattr(package, each))}
    assert len(called) > 50
    assert {path.stem for path in MODULES} & called == set()


@each_module
def test_what_is_public_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    kinds = ast.FunctionDef | ast.ClassDef
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    for owner in [node for node in public if isinstance(node, ast.ClassDef)]:
        # what the language or PyTorch calls, and fields that are computed in one line, are explained in their class
        public += [n for n in owner.body if isinstance(n, ast.FunctionDef) and n.name[0] != "_" and n.name != "forward"]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_the_library_loads_lazily_and_leaves_the_process_alone():
    """Importing it loads no torch (2 s, 300 MB); neither that nor using it changes malloc."""
    code = "import os, sys, instr_lib as il; il.generate, il.curated_clips, il.Interval; assert 'torch' not in sys.modules"
    code += "; assert not [name for name in os.environ if name.startswith('MALLOC')]"
    environment = {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@each_module
def test_malloc_is_tuned_by_the_user_only(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    tuning = [call for call in calls if ast.unparse(call.func).split(".")[-1] in ("tune_malloc", "mallopt")]
    assert not tuning or name(path) in ("memory.py", "__main__.py")
