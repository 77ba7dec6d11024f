"""One image file, of any common format and size, as a network's input. Reading it runs no code of whoever made it.

prepare (for the source `folder`) and `samebits predict` both read images here, so a network in use sees what it saw in
training. Pillow resizes in fixed-point arithmetic: the same bytes everywhere.
"""

import hashlib
import io
import os
import stat
import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

# The common formats, without those that Pillow hands to another program (EPS to Ghostscript).
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 2**26  # 67 million, so that decoding a small file cannot take all memory
MAX_FILE_BYTES = 2**28
MODES = {1: "L", 3: "RGB"}  # by the number of channels

# Pillow's own limit, also for images within other files (ICO): it warns above this number and fails above twice as many.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
# Users can do nothing about Pillow's warnings (mostly odd metadata) on images that it can read.
warnings.filterwarnings("ignore", module="PIL")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImage(Exception):  # noqa: N818
    """A file that is not an image, or a broken one. Its text is the reason, to be printed after the file's name."""


@dataclass(frozen=True)
class FileImage:
    """The pixels of a file, uint8 (height, width, channels), and the SHA-256 of its bytes."""

    pixels: NDArray[np.uint8]
    digest: bytes


@cache
def extensions() -> frozenset[str]:
    """Return the lower-case extensions of the files that are images when a whole folder is read."""
    return frozenset(extension for extension, name in Image.registered_extensions().items() if name in FORMATS)


def read(path: str, image_shape: tuple[int, int, int]) -> FileImage:
    """Read the file `path` as an image of `image_shape` (channels, height, width).

    The first frame, turned as its EXIF data says, on white where it is transparent, in colour (grey for one channel),
    16-bit grey rounded to 8 bits, 16-bit colour cut to 8. The whole image is resized (bicubic, antialiased), not cropped, so proportions may change.
    Raises UnreadableImage, also for folders, pipes and devices, which are not even opened.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder that cannot be read" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise UnreadableImage(f"is {kind}")
        if status.st_size > MAX_FILE_BYTES:
            raise UnreadableImage(f"has {status.st_size:,} bytes, more than the limit of {MAX_FILE_BYTES:,}")
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES)
        return FileImage(_decode(content, image_shape), hashlib.sha256(content).digest())
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage("is not an image, or its format is not supported") from None
    except OSError as error:
        raise UnreadableImage(f"cannot be read ({error.strerror or error})") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(f"has more pixels than the limit of {MAX_PIXELS:,}") from None
    except Exception as error:  # Pillow's decoders fail in as many ways as there are formats
        raise UnreadableImage(f"cannot be read ({type(error).__name__}: {error})") from None


def _decode(content: bytes, image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    channels, height, width = image_shape
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        longest = 2 * max(height, width)
        image.draft(None, (longest, longest))  # a large JPEG file is decoded at a half, a quarter or an eighth
        image.load()
        with suppress(Exception):  # damaged EXIF data turns nothing
            ImageOps.exif_transpose(image, in_place=True)
        plain = _plain(image, MODES[channels])
        if plain.size != (width, height):
            plain = plain.resize((width, height), Image.Resampling.BICUBIC)
        return np.array(plain).reshape(height, width, channels)


def _plain(image: "ImageFile.ImageFile | Image.Image", mode: str) -> Image.Image:
    """Return the image in `mode` (L or RGB), 8 bits and opaque."""
    if image.mode == "F":
        raise UnreadableImage("has floating-point pixels with unknown value range: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int32)
        if values.min() < 0 or values.max() >= 2**16:
            raise UnreadableImage("has pixels of more than 16 bits: save it with 8 or 16 bits")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
