"""Self-contained HTML pages, rendered from the templates in this folder."""

import base64
from collections.abc import Mapping
from typing import Any

import jinja2


def render_page(template: str, pictures: Mapping[str, bytes], **context: Any) -> str:  # noqa: ANN401
    """Render a page with its pictures embedded, so that it opens from disk.

    Args:
        template: File name of the template in this folder.
        pictures: PNG files by name. The template reads them as data URIs from ``pictures``.
        context: The template's other variables.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fer.reports", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    embedded = {
        name: "data:image/png;base64," + base64.b64encode(png).decode()
        for name, png in pictures.items()
    }
    return environment.get_template(template).render(pictures=embedded, **context)
