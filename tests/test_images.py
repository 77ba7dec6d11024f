"""Reading image files: every common kind as a person sees it, and of every bad one a reason."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samebits.data import decoding, image_files, images
from samebits.data.images import FileImage, UnreadableImage

SHAPE = (3, 8, 8)
RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def picture(side: int = 8) -> Image.Image:
    """Red above, green below."""
    image = Image.new("RGB", (side, side), RED)
    image.paste(GREEN, (0, side // 2, side, side))
    return image


def pixels(path: Path, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return images.read(str(path), shape).pixels


@pytest.mark.parametrize("form", ["png", "jpg", "jp2", "webp", "gif", "bmp", "tiff", "ppm", "avif", "ico"])
@pytest.mark.parametrize("side", [8, 64])
def test_common_formats_and_sizes(form: str, side: int, tmp_path: Path) -> None:
    path = tmp_path / f"image.{form}"
    options = {"sizes": [(side, side)]} if form == "ico" else {"lossless": True} if form == "webp" else {}
    picture(side).save(path, **options)
    read = pixels(path)
    assert read.shape == (8, 8, 3) and read.dtype == np.uint8
    tolerance = 40 if form in {"jpg", "avif"} else 0
    for row, colour in ((1, RED), (6, GREEN)):
        assert np.abs(read[row].astype(int) - colour).max() <= tolerance
    assert path.suffix in images.extensions()


def test_the_first_frame_is_taken(tmp_path: Path) -> None:
    picture().save(tmp_path / "two.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    assert tuple(pixels(tmp_path / "two.gif")[1, 1]) == RED


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(images.MAX_FILE_BYTES + 1)
    with pytest.raises(UnreadableImage, match="more than the limit of 268,435,456"):
        pixels(tmp_path / "huge.png")


def test_an_image_of_the_right_size_is_not_touched(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert np.array_equal(pixels(tmp_path / "noise.png"), noise)


def test_the_whole_picture_is_resized(tmp_path: Path) -> None:
    wide = Image.new("RGB", (80, 20), "black")
    wide.paste(WHITE, (0, 0, 10, 20))
    wide.paste(WHITE, (70, 0, 80, 20))
    wide.save(tmp_path / "wide.png")
    row = pixels(tmp_path / "wide.png")[4, :, 0]
    assert row[0] > 200 and row[-1] > 200 and row[3] < 20  # both ends are there


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, WHITE),
        ("LA", (100, 255), (100, 100, 100)),
        ("RGBA", (255, 0, 0, 0), WHITE),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("P", 1, GREEN),
        ("I;16", 65535, WHITE),
        ("I;16", 100 * 257, (100, 100, 100)),
    ],
)
def test_kinds_of_pixels(mode: str, value: object, expected: tuple[int, int, int], tmp_path: Path) -> None:
    image = Image.new(mode, (8, 8), value)  # type: ignore[arg-type]
    if mode == "P":
        image.putpalette([*RED, *GREEN])
    image.save(tmp_path / "image.png")
    assert np.unique(pixels(tmp_path / "image.png").reshape(-1, 3), axis=0).tolist() == [list(expected)]
    grey = pixels(tmp_path / "image.png", (1, 8, 8))
    assert grey.shape == (8, 8, 1)


def test_a_palette_with_a_transparent_colour_and_cmyk(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*RED, *GREEN])
    image.save(tmp_path / "image.gif", transparency=1)
    assert (pixels(tmp_path / "image.gif") == 255).all()
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "image.tiff")
    assert (pixels(tmp_path / "image.tiff") == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation: int, tmp_path: Path) -> None:
    upright = Image.fromarray(np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition whose inverse each orientation asks for
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    assert np.array_equal(pixels(tmp_path / "turned.png"), pixels(tmp_path / "upright.png"))


def bomb(side: int) -> bytes:
    """A PNG file that claims to be huge and stays small."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def test_bad_files_have_a_reason(tmp_path: Path) -> None:
    picture().save(tmp_path / "good.png")
    good = (tmp_path / "good.png").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg")
    Image.new("F", (8, 8), 0.5).save(tmp_path / "float.tiff")
    contents = {
        "empty.png": (b"", "is not an image"),
        "text.png": (b"hello", "is not an image"),
        "cut.png": (good[: len(good) // 2], "cannot be read"),
        "cut.jpg": ((tmp_path / "noise.jpg").read_bytes()[:1500], "truncated"),
        "bomb.png": (bomb(60_000), "limit of 67,108,864"),
        "bomb2.png": (bomb(9_000), "limit of 67,108,864"),
        "program.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        "float.tiff": ((tmp_path / "float.tiff").read_bytes(), "floating-point"),
    }
    for name, (content, reason) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImage, match=reason):
            pixels(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("link.png")
    for name, reason in {"pipe.png": "not a regular file", "link.png": "cannot be read", "none.png": "No such"}.items():
        with pytest.raises(UnreadableImage, match=reason):
            pixels(tmp_path / name)
    with pytest.raises(UnreadableImage, match="not a regular file"):
        pixels(Path("/dev/zero"))
    with pytest.raises(UnreadableImage, match="a folder"):
        pixels(tmp_path)


def test_damaged_files_never_raise_anything_else(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for form in ("png", "jpg", "webp", "gif", "bmp", "tiff", "ppm", "ico", "jp2", "avif"):
        path = tmp_path / f"image.{form}"
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif} if form in {"png", "jpg", "webp", "tiff"} else {}
        picture(32).save(path, **options)
        whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        for _ in range(20):
            damaged = whole.copy()
            damaged[random.integers(0, len(whole), 6)] = random.integers(0, 256, 6)
            path.write_bytes(damaged.tobytes())
            try:
                assert pixels(path).shape == (8, 8, 3)
            except UnreadableImage as error:
                assert str(error)


def test_many_files_are_decoded_in_order_by_several_processes(tmp_path: Path) -> None:
    paths = []
    for index in range(300):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (8, 8), (index % 256, index // 256, 0)).save(path)
        paths.append(str(path))
    (tmp_path / "77.png").write_text("broken")
    outcomes = list(decoding.decode(paths, SHAPE))
    assert len(outcomes) == 300
    for index, outcome in enumerate(outcomes):
        if index == 77:
            assert isinstance(outcome, str) and "not an image" in outcome
        else:
            assert isinstance(outcome, FileImage) and tuple(outcome.pixels[0, 0]) == (index % 256, index // 256, 0)


def test_a_folder_is_listed_without_circles(tmp_path: Path) -> None:
    for name in ("b/c/one.PNG", "a.jpg", ".hidden.png", ".git/x.png", "notes.txt", "b/Makefile"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b/c/up").symlink_to(tmp_path)
    (tmp_path / "b/itself").symlink_to("itself")
    paths, others = image_files.below(str(tmp_path))
    assert [os.path.relpath(path, tmp_path) for path in paths] == ["a.jpg", "b/c/one.PNG"]
    assert others == {"hidden": 1, ".txt": 1, "Makefile": 1, "itself": 1}
