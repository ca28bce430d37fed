"""HTML pages that open from disk: templates of this folder, with their pictures inside."""

import base64
from collections.abc import Mapping
from typing import Any

import jinja2


def render_page(template: str, pictures: Mapping[str, bytes], **context: Any) -> str:  # noqa: ANN401
    """Return a page.

    Args:
        template: Name of its template in this folder.
        pictures: PNG files by name, which the template finds as data URIs under ``pictures``.
        context: What else the template asks for.
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
