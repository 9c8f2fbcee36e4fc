"""HTML that a notebook shows, written by the Jinja templates in ``templates/``, which escape all text."""

from __future__ import annotations

from dataclasses import dataclass, field

import jinja2

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader(__package__),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.policies["json.dumps_kwargs"] = {"separators": (",", ":")}


@dataclass(frozen=True)
class HTML:
    """A piece of HTML as text in ``data``; a notebook shows it, and a template takes it as it is."""

    data: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.data

    __html__ = _repr_html_  # for Jinja: this needs no escaping


def render(template: str, **context) -> HTML:
    """A template of this folder with its names filled in. A name that is missing raises an error."""
    return HTML(_ENVIRONMENT.get_template(template).render(**context))
