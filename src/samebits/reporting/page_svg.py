"""SVG drawings in a page's colours, light or dark, readable on a phone."""

import io
import re
from collections.abc import Mapping

import matplotlib.style
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from samebits.reporting import canvas
from samebits.reporting.canvas import BLUE, GRID, INK, LINE, SKY, VERMILLION

SIZE = 5.0, 3.4  # inches: 360 points wide, so that a phone does not scale the text
FONT_SIZE = 11.0
# The name of each colour in the page's style sheet.
_VARIABLES = {INK: "ink", LINE: "line", GRID: "grid", BLUE: "blue", SKY: "sky", VERMILLION: "vermillion"}
_STYLE = canvas.STYLE | {
    "svg.fonttype": "none",
    "svg.hashsalt": "samebits",
    "font.size": FONT_SIZE,
    "xtick.labelsize": FONT_SIZE,
    "ytick.labelsize": FONT_SIZE,
    "legend.fontsize": FONT_SIZE,
    "figure.constrained_layout.use": True,
}
# A decorator: what a function draws is in the style of a page.
page_style = matplotlib.style.context(["default", _STYLE])


def svg(page: Figure, told: str, titles: Mapping[str, str] | None = None) -> Markup:
    """Return the drawing as SVG that leaves size, font and colours to the page; `told` describes it in words.

    `titles` are shown over the artists whose gid is the key.
    """
    target = io.StringIO()
    page.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"; font-family: [^;\"]+", "", text)
    for colour, name in _VARIABLES.items():
        text = re.sub(colour, f"var(--{name})", text, flags=re.IGNORECASE)
    if titles:
        named = {name: f'<g id="{name}"><title>{escape(title)}</title>' for name, title in titles.items()}
        text = re.sub(r'<g id="([^"]+)">', lambda found: named.get(found[1], found[0]), text)
    label = Markup('<svg role="img" aria-label="{}" ').format(told)
    return Markup(text.replace("<svg ", label, 1))
