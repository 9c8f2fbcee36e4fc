"""Fill values into the pages in Markdown, which are Jinja templates."""

import traceback
from pathlib import Path

import jinja2
from filters import FILTERS
from project import stop


def fill_pages(source: Path, context: dict):
    """Replace {{ values }} and follow {% loops %} in all pages of a folder; a name that does not exist is an error."""
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(source),
        undefined=jinja2.StrictUndefined,
        comment_start_string="<!--",  # instead of {#, which has a meaning in MyST
        comment_end_string="-->",
        keep_trailing_newline=True,
    )
    pages.filters |= FILTERS
    for page in sorted(source.rglob("*.md")):
        name = page.relative_to(source).as_posix()
        try:
            page.write_text(pages.get_template(name).render(context))
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(page)]
            line = getattr(error, "lineno", None) or (lines or "?")[-1]
            stop(f"{name}, line {line}: {error}: correct the page, or make what it names")
