"""Two checks that run inside each notebook's kernel; ``kernel_hooks.install`` makes this one of IPython's startup files."""


def _note_file_access():
    """Note in the file BOOK_ACCESS_LOG which files below BOOK_ACCESS_FOLDER the notebook reads and writes.

    Files that libraries open without Python's ``open`` are not seen; the JSON beside each of them is.
    """
    import os
    import sys

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
                os.write(out, f"{kind} {path[len(folder) :]}\n".encode())

    def hook(event, arguments):
        if event == "open":
            path, _, flags = arguments
            note("wrote" if flags & (os.O_WRONLY | os.O_RDWR) else "read", path)
        elif event == "os.rename":
            note("wrote", arguments[1])
        elif event in ("os.listdir", "os.scandir"):
            note("read", arguments[0])

    sys.addaudithook(hook)


def _watch_figures():
    """Complain on stderr, which stops the build, about figures that have panels with nothing in them."""
    import sys

    from IPython import get_ipython

    def look():
        if not (pyplot := sys.modules.get("matplotlib.pyplot")):
            return
        for number in pyplot.get_fignums():
            panels = pyplot.figure(number).axes
            empty = [panel for panel in panels if not (panel.has_data() or panel.texts or panel.get_legend())]
            # A grid may end in blanks, with their axes off.
            if any(panel.axison for panel in empty) or 2 * len(empty) > len(panels):
                print(f"a figure has {len(empty)} empty panels of {len(panels)}", file=sys.stderr)

    get_ipython().events.register("post_execute", look)  # before the inline backend closes the figures


_note_file_access()
_watch_figures()
del _note_file_access, _watch_figures
