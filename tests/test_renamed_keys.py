"""The published JSON is what it was, under other names."""

import json
import subprocess

import pytest

from tools import rename_result_keys as renaming

HISTORY = subprocess.run(["git", "-C", renaming.ROOT, "cat-file", "-e", renaming.BEFORE], capture_output=True).returncode


@pytest.mark.skipif(HISTORY != 0, reason="the git history with the old names is not here")
@pytest.mark.parametrize("old", renaming.FILES)
def test_only_names_changed(old):
    before, after = (json.loads(t) for t in (renaming.before(old), (renaming.ROOT / renaming.FILES[old]).read_text()))
    assert leaves(before) == leaves(after)
    assert renaming.renamed(before) == after


def leaves(content) -> list:
    """All values in order, without the keys; text under its new name."""
    if isinstance(content, dict):
        return [leaf for value in content.values() for leaf in leaves(value)]
    if isinstance(content, list):
        return [leaf for value in content for leaf in leaves(value)]
    return [renaming.VALUES.get(content, content) if isinstance(content, str) else content]
