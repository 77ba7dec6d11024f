"""The page for every picture: fixed style, layout in inches, and byte-equal PNG files.

The style builds on matplotlib's own defaults and its bundled DejaVu Sans, so neither a user's matplotlibrc nor the machine's
fonts change anything; a letter that the font does not have is written as its code. Files carry neither a date nor a software
version. Layout comes from measured text, not from a layout engine; pyplot is not used. Not thread-safe: matplotlib's settings
are global.
"""

import logging
from bisect import bisect_right
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.ft2font import FT2Font

from samebits import atomic

DPI = 144
MARGIN = 0.25  # inches, on every side
HEAD = 0.7  # inches, from the top edge to what is under the title
LINE_HEIGHT = 1.4 / 72  # inches for each point of font size

# Okabe and Ito's colours, distinct with every common kind of colour blindness; the darker two are for text.
BLUE, SKY, VERMILLION = "#0072B2", "#56B4E9", "#D55E00"
BLUE_TEXT, VERMILLION_TEXT = "#005F94", "#B34700"
INK, LINE, GRID = "#222222", "#8C8C8C", "#E6E6E6"
DASHES = (0, (4, 3))

_TITLE_SIZES = 9.0, 11.5  # points, smallest and largest
_WIDEST_TITLE = 6.5  # inches: a title widens a page no further
_WIDEST_NAME = 1.8  # inches that a class name may take
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # a class name with a dollar sign is text, not a formula
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.borderaxespad": 0.3,
    "legend.borderpad": 0.0,
    "hatch.linewidth": 0.7,
}
# A decorator: what a function draws has this module's settings over matplotlib's own defaults, whatever the user's are.
fixed_style = matplotlib.style.context(["default", STYLE])


def new_page(width: float, height: float, title: str) -> Figure:
    """Return a page of the given inches, or wider if the title needs it, with the title at its top left."""
    smallest, largest = _TITLE_SIZES
    natural = max(_text_width(title, largest, "bold"), 0.01)
    width = max(width, min(natural, _WIDEST_TITLE) + 2 * MARGIN)
    room = width - 2 * MARGIN
    size = min(largest, max(smallest, largest * room / natural))
    page = Figure(figsize=(width, height), dpi=DPI)
    write(page, MARGIN, height - MARGIN, shorten(title, size, room, "bold"), INK, size, weight="bold")
    return page


def add_axes(page: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes; all lengths are inches, from the bottom left of the page."""
    wide, high = page.get_size_inches()
    return page.add_axes((left / wide, bottom / high, width / wide, height / high))


def write(page: Figure, x: float, top: float, text: str, colour: str, size: float, **style: Any) -> None:
    """Write one line with its upper edge at `top`; x and top are inches from the bottom left of the page."""
    wide, high = page.get_size_inches()
    page.text(x / wide, top / high, text, color=colour, fontsize=size, va="top", **style)


def shorten(text: str, size: float, room: float, weight: str = "normal") -> str:
    """Return the text as one line, cut with an ellipsis if it is wider than `room` inches."""
    text = _drawable(" ".join(text.split()), weight)
    if _text_width(text, size, weight) <= room:
        return text
    lengths = range(1, len(text))
    fits = bisect_right(lengths, room, key=lambda length: _text_width(text[:length] + "…", size, weight))
    return text[:fits].rstrip() + "…"


def wrap(text: str, size: float, room: float) -> list[str]:
    """Return the text in lines of at most `room` inches, broken between words; a longer word is cut."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in _drawable(" ".join(paragraph.split())).split():
            longer = f"{line} {word}" if line else word
            if line and _text_width(longer, size) > room:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return [shorten(line, size, room) for line in lines]


def class_labels(class_names: Sequence[str], size: float) -> tuple[list[str], float]:
    """Return the class names, cut if very long, and the width of the widest in inches."""
    names = [shorten(name, size, _WIDEST_NAME) for name in class_names]
    return names, max(_text_width(name, size) for name in names)


@contextmanager
def system_fonts(text: str) -> Iterator[None]:
    """Let fonts of this machine draw what DejaVu Sans does not have of `text`: for pictures that are no outputs of DVC."""
    before = STYLE["font.family"]
    missing = {character for character in text if not character.isspace() and not _is_in_font(character, before)}
    names = []
    for entry in sorted(fontManager.ttflist, key=lambda entry: (entry.name, entry.fname)) if missing else []:
        if "last resort" in entry.name.lower():  # matplotlib's own, which draws any letter as a box
            continue
        if found := _drawn_by(entry.fname, missing):
            names.append(entry.name)
            missing -= found
    STYLE["font.family"] = [*before, *names]
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of a font without a bold variant
    try:
        yield
    finally:
        STYLE["font.family"] = before
        log.setLevel(level)


def percent(share: float, _position: float = 0.0) -> str:
    """Return a share as a percentage of at most two decimals: 0.5 as 50%, 0.8125 as 81.25%."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"


def save(page: Figure, path: Path) -> None:
    """Write the page as a PNG file, completely or not at all; equal pages give equal bytes."""
    with atomic.replacing(path) as temporary:
        page.savefig(temporary, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})


def _drawable(text: str, weight: str = "normal") -> str:
    """Return the text with codes, such as \\u732b, instead of the letters that no font in use has."""
    families = matplotlib.rcParams["font.family"]
    return "".join(
        character if _is_in_font(character, families, weight) else character.encode("unicode_escape").decode()
        for character in text
    )


def _is_in_font(character: str, families: Sequence[str], weight: str = "normal") -> bool:
    return character.isascii() or any(
        get_font(findfont(FontProperties(family=name, weight=weight))).get_char_index(ord(character))
        for name in families
    )


def _drawn_by(path: str, characters: Set[str]) -> Set[str]:
    """Return those of the characters that a font file has as outlines; an emoji font may have them as pictures alone."""
    with suppress(RuntimeError, OSError):
        font = FT2Font(path)
        found = {character for character in characters if font.get_char_index(ord(character))}
        if found:
            font.set_size(10, 72)
            font.load_char(ord(min(found)))  # fails if it is a picture
        return found
    return set()


def _text_width(text: str, size: float, weight: str = "normal") -> float:
    """Return the width of one line of text in inches."""
    font = FontProperties(weight=weight, size=100)  # measured large and scaled, so that hinting does not round it
    renderer: Any = RendererAgg(1, 1, 72)  # type: ignore[no-untyped-call]
    return float(renderer.get_text_width_height_descent(text, font, False)[0]) * size / 7200
