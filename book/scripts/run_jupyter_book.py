"""Jupyter Book's command line, in two processes: it has no option for that, the function that it calls has one."""

import functools

import sphinx_jupyterbook_latex
import sphinx_multitoc_numbering
from jupyter_book import sphinx
from jupyter_book.cli.main import main


def declare_parallel(setup):
    """A Sphinx extension's setup, which then says that it is safe in parallel."""

    @functools.wraps(setup)
    def declared(app):
        return (setup(app) or {}) | {"parallel_read_safe": True, "parallel_write_safe": True}

    return declared


if __name__ == "__main__":
    # These say nothing about it. The first replaces a method that runs after all pages are read, the second is for LaTeX.
    for extension in (sphinx_multitoc_numbering, sphinx_jupyterbook_latex):
        extension.setup = declare_parallel(extension.setup)
    sphinx.build_sphinx = functools.partial(sphinx.build_sphinx, jobs=2)
    main()
