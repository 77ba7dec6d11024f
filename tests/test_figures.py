"""Pictures: readable PNG files, the same bytes in every process."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager, get_data_path
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
from PIL import Image

from samebits import portability
from samebits.evaluation.metrics.summary import Calibration
from samebits.reporting import canvas, figures

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BINS = 15
PROCESSOR_FEATURES = [name for name in __cpu_dispatch__ if __cpu_features__[name]]
# Of this process conftest has switched off those of AVX-512.
AVX512 = [name for name in portability.SETTINGS["NPY_DISABLE_CPU_FEATURES"].split() if name in __cpu_dispatch__]
HOSTILE_MATPLOTLIBRC = """
backend: pdf
font.family: serif
font.size: 23
figure.dpi: 40
savefig.dpi: 50
savefig.bbox: tight
savefig.transparent: True
savefig.facecolor: red
image.origin: lower
image.cmap: jet
lines.linewidth: 9
text.antialiased: False
axes.grid: True
axes.titlelocation: right
legend.loc: center
path.sketch: 3, 100, 2
"""


def history(rows: int = 30, validate_every: int | None = 5) -> pd.DataFrame:
    step = 50 * np.arange(1, rows + 1)
    measured = np.zeros(rows, bool) if validate_every is None else np.arange(1, rows + 1) % validate_every == 0
    return pd.DataFrame(
        {
            "step": step,
            "epoch": (step - 1) // 250 + 1,
            "train_loss": 2.0 / np.sqrt(1 + step / 100),
            "validation_loss": np.where(measured, 2.1 / np.sqrt(1 + step / 120), np.nan),
            "validation_accuracy": np.where(measured, 0.8 - 30 / (step + 60), np.nan),
        }
    )


def counts(classes: int) -> np.ndarray:
    return np.arange(classes * classes).reshape(classes, classes) % 37 + 400 * np.eye(classes, dtype=int)


def images(number: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, height, width, 3), np.uint8)


def calibration() -> Calibration:
    count = np.arange(BINS) ** 2
    count[[0, 4]] = 0
    middle = np.where(count > 0, (np.arange(BINS) + 0.5) / BINS, np.nan)
    return Calibration(middle, middle**1.3, count, 0.04)


DRAWINGS: dict[str, Callable[[Path], None]] = {
    "curves": lambda path: figures.training_curves(history(), path, "Training"),
    "confusion": lambda path: figures.confusion_matrix(counts(10), NAMES, path, "Confusion"),
    "images": lambda path: figures.labelled_images(images(10), NAMES, [True, False] * 5, path, "Images"),
    "reliability": lambda path: figures.reliability_diagram(calibration(), path, "Reliability"),
    "classes": lambda path: figures.per_class_accuracy(np.linspace(0, 1, 10), 0.6, NAMES, path, "Classes"),
}
EDGE_CASES: dict[str, Callable[[Path], None]] = {
    "no validation": lambda path: figures.training_curves(history(validate_every=None), path, ""),
    "one row": lambda path: figures.training_curves(history(1), path, "a title too long for its page " * 9),
    "diverged": lambda path: figures.training_curves(
        history().assign(train_loss=np.inf, validation_loss=np.nan), path, "Diverged"
    ),
    "two classes": lambda path: figures.confusion_matrix(counts(2), ["no", "yes"], path, "Two"),
    "forty classes": lambda path: figures.confusion_matrix(
        counts(40), [f"class {index} of a ${index}^{{2}}$ kind, with a long name" for index in range(40)], path, "40"
    ),
    "empty row": lambda path: figures.confusion_matrix(np.array([[0, 0], [1, 2]]), ["a", "b"], path, "Empty row"),
    "no image": lambda path: figures.labelled_images(images(0), [], [], path, "No mistakes"),
    "one image": lambda path: figures.labelled_images(images(1), ["cat"], None, path, "One"),
    "forty images": lambda path: figures.labelled_images(
        images(40, 20, 90), ["two words, andaverylongone" * 2] * 40, [True] * 40, path, "Forty"
    ),
    "large images": lambda path: figures.labelled_images(images(2, 700, 1), ["", "b\nc"], None, path, "Large"),
    "one full bin": lambda path: figures.reliability_diagram(
        Calibration(np.array([np.nan, 0.9]), np.array([np.nan, 1.0]), np.array([0, 3]), 0.1), path, "One"
    ),
    "hundred classes": lambda path: figures.per_class_accuracy(
        np.linspace(0, 1, 100), 1.0, [f"c{index}" for index in range(100)], path, "Hundred"
    ),
    "class without images": lambda path: figures.per_class_accuracy([np.nan, 0.5], 0.0, ["a", "b"], path, "None"),
}


def named(cases: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("draw", cases.values(), ids=cases.keys())


@named(DRAWINGS | EDGE_CASES)
@pytest.mark.filterwarnings("error")
def test_writes_a_picture(draw: Callable[[Path], None], tmp_path: Path) -> None:
    draw(tmp_path / "picture.partial")
    with Image.open(tmp_path / "picture.partial") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert set(picture.info) == {"dpi"}
        pixels = np.asarray(picture.convert("RGB"))
    # Something is drawn, and nothing reaches the edge of the page, where it would be cut.
    assert len(np.unique(pixels)) > 10
    frame = np.concatenate([pixels[:8].ravel(), pixels[-8:].ravel(), pixels[:, :8].ravel(), pixels[:, -8:].ravel()])
    assert (frame == 255).all()


def test_bytes_are_the_same_in_another_process_under_a_hostile_matplotlibrc(tmp_path: Path) -> None:
    (tmp_path / "hostile").write_text(HOSTILE_MATPLOTLIBRC)
    environment = os.environ | {
        "MATPLOTLIBRC": str(tmp_path / "hostile"),
        "NPY_DISABLE_CPU_FEATURES": " ".join([*PROCESSOR_FEATURES, *AVX512]),
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    program = "import sys, pathlib, test_figures; test_figures.print_digests(pathlib.Path(sys.argv[1]))"
    other = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert other.stdout.split() == digests(tmp_path)


def test_image_pixels_are_drawn_exactly(tmp_path: Path) -> None:
    image = images(1)
    figures.labelled_images(image, ["cat"], None, tmp_path / "picture.png", "One")
    with Image.open(tmp_path / "picture.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    enlarged = image[0].repeat(6, axis=0).repeat(6, axis=1)
    places = np.argwhere((pixels == enlarged[0, 0]).all(axis=2))
    assert any(np.array_equal(pixels[top : top + 192, left : left + 192], enlarged) for top, left in places)


def test_grey_images_are_drawn_as_colours_that_are_equal(tmp_path: Path) -> None:
    grey = images(2)[..., :1]
    figures.labelled_images(grey, ["a", "b"], None, tmp_path / "grey.png", "Two")
    figures.labelled_images(grey.repeat(3, axis=3), ["a", "b"], None, tmp_path / "colour.png", "Two")
    assert (tmp_path / "grey.png").read_bytes() == (tmp_path / "colour.png").read_bytes()


def test_text_is_set_in_the_bundled_font() -> None:
    for weight in ("normal", "bold"):
        font = font_manager.FontProperties(family="DejaVu Sans", weight=weight)
        assert Path(font_manager.findfont(font)).is_relative_to(get_data_path())


def digests(folder: Path) -> list[str]:
    """Draw each picture twice and give its digest."""
    for name, draw in list(DRAWINGS.items()) * 2:
        draw(folder / name)
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in DRAWINGS]


def print_digests(folder: Path) -> None:
    print(*digests(folder))


def test_letters_that_the_font_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded picture spells them out, whatever fonts the machine has; others take a font of the machine."""
    images = np.zeros((1, 8, 8, 3), dtype=np.uint8)

    def draw(caption: str, path: Path) -> bytes:
        figures.labelled_images(images, [caption], None, path, "A title")
        return path.read_bytes()

    spelt = draw("\\u732b größer", tmp_path / "spelt.png")
    assert draw("猫 größer", tmp_path / "without.png") == spelt
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    font_manager.fontManager.addfont(font_of("猫", tmp_path / "cat.ttf"))
    assert draw("猫 größer", tmp_path / "with.png") == spelt
    with canvas.system_fonts("猫 größer"):
        drawn = draw("猫 größer", tmp_path / "drawn.png")
        assert draw("größer", tmp_path / "plain.png") != drawn != spelt
    assert draw("größer", tmp_path / "plain.png") == draw("größer", tmp_path / "again.png")
    monkeypatch.undo()
    with canvas.system_fonts("\U000f0000"):  # no font has it
        assert draw("\U000f0000", tmp_path / "none.png") == draw("\\U000f0000", tmp_path / "code.png")


def font_of(character: str, path: Path) -> Path:
    """Make a font that has one letter: a filled square."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 700), (800, 700), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = {".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()}
    font = FontBuilder(1000)
    font.setupGlyphOrder(list(names))
    font.setupCharacterMap({ord(character): "square"})
    font.setupGlyf(names)
    font.setupHorizontalMetrics({name: (900, 100) for name in names})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "One Letter", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return path
