"""Pages from templates: HTML, in which every value is escaped, and Markdown."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

__all__ = ["render"]


def render(template: str, **values: Any) -> str:
    """Fill in a template of ``napari_sparseattn/templates``.

    Parameters
    ----------
    template : str
        Name of the file, e.g. ``"report.html"``.
    **values
        What the template names; `markupsafe.Markup` is taken as HTML, anything
        else as text.

    Returns
    -------
    str
        The page.

    Raises
    ------
    jinja2.TemplateNotFound
        If there is no such template.
    jinja2.UndefinedError
        If the template names a value that is not given.
    """
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("napari_sparseattn"),
        # Markdown and plain text are no HTML: there, an apostrophe stays one.
        autoescape=jinja2.select_autoescape(("html", "svg"), default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
