"""Which notebook reads what another one writes: the declaration in notebooks/dependencies.yml, and its check.

The build notes which files below FOLDER each notebook opens (``kernel_hooks.py``) and stops if two notebooks share a file
and the declaration does not say which of them comes first.
"""

from pathlib import Path

import yaml
from project import NOTEBOOKS, PROFILES, notebooks, stop

FILE = NOTEBOOKS / "dependencies.yml"


def declaration() -> dict:
    return (yaml.safe_load(FILE.read_text()) if FILE.exists() else None) or {}


def trains_networks(profile: str) -> bool:
    """Whether a profile's chapters work with networks that the build has trained, instead of the published ones."""
    return "_build" in (yaml.safe_load((PROFILES / f"{profile}.yml").read_text()).get("MODELS") or "")


def dependencies(profile: str) -> dict[str, list[str]]:
    """For each notebook of _toc.yml, by name, the notebooks that must have run before it."""
    declared = declaration()
    names = [page.stem for page in notebooks()]
    needs = {name: list(declared.get("always", {}).get(name, [])) for name in names}
    if trains_networks(profile):
        for name, earlier in declared.get("own_networks", {}).items():
            needs.setdefault(name, []).extend(earlier)
    for name, earlier in needs.items():
        for other in earlier:
            if name not in names or other not in names[: names.index(name)]:
                stop(f"notebooks/dependencies.yml: {name} needs {other}, which _toc.yml does not name before it")
    return needs


def typical_seconds() -> dict[str, float]:
    """How long notebooks take in profile quick, as declared: which to start first if nothing was ever measured."""
    return declaration().get("seconds", {})


def uses_soundfonts() -> set[str]:
    """Notebooks that play whichever soundfonts are installed, not only FluidR3."""
    return set(declaration().get("soundfonts", []))


def ancestors(name: str, needs: dict[str, list[str]]) -> set[str]:
    """All notebooks that a notebook depends on, directly or through others."""
    return {name for earlier in needs[name] for name in (earlier, *ancestors(earlier, needs))}


def undeclared(access: dict[str, dict], needs: dict[str, list[str]]) -> list[str]:
    """Problems: files that one notebook wrote and another read, with neither declared to depend on the other.

    ``access`` has for each notebook the paths that it "read" and "wrote". Who lists a folder reads all that is in it.
    """
    before = {name: ancestors(name, needs) for name in needs}
    problems = []
    for writer, reader in ((a, b) for a in access for b in access if a != b):
        if writer in before.get(reader, ()) or reader in before.get(writer, ()):
            continue
        read = set(access[reader]["read"])
        for path in sorted(access[writer]["wrote"]):
            if found := {path, str(Path(path).parent)} & read:
                problems.append(f"{reader} reads {found.pop()}, which {writer} writes")
                break
    return problems
