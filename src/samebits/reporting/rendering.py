"""The pages' templates: self-contained HTML that opens from disk without a network."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(name: str, page: dict[str, Any]) -> str:
    """Return a page of HTML: the template `name` filled with `page`."""
    templates = Environment(
        loader=PackageLoader("samebits.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template(f"{name}.html.j2").render(page=page)
