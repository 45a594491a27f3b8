"""One image file -> its pixels in 8 bits, as torchvision's ImageFolder and timm feed them in training.

Pillow decodes; what it would get wrong without a word is put right or refused here. Users read of it in docs/images.md.
"""

import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from bnretrofit.errors import InputRejectedError

__all__ = ["decode"]

FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is looked for, whatever a file is called. Others are not for pictures of a data set, and for one, PostScript,
Pillow would start another program."""

WHITE_IS_ZERO = 0
# Pillow counts the bits of a row in 31 bits, and calls it a lack of memory when they do not suffice.
LONGEST_SIDE = 1 << 24


class _UnreadableError(Exception):
    """What this module, rather than Pillow, has against a file."""


def decode(path: Path, mode: str) -> Image.Image:
    """Decode an image; of an animation the first frame. An EXIF orientation is not applied.

    Args:
        path: The file.
        mode: "RGB", or "L" for a network of one channel.

    Returns:
        All of its pixels.

    Raises:
        InputRejectedError: It cannot be read whole, or not in one sense only; `why` says so without naming the file.
    """
    try:
        _check_file(path)
        with _strict(), Image.open(path, formats=FORMATS) as image:
            if max(image.size) > LONGEST_SIDE:
                raise _UnreadableError(f"it is {image.width} pixels wide and {image.height} high")
            return TREATMENTS.get(image.mode, _as_stored)(image).convert(mode)
    except MemoryError:
        # Too little memory is no fault of the file: one that asks for too much was refused for its size.
        raise
    except Exception as error:  # a damaged file brings out any exception of any of Pillow's plugins
        raise InputRejectedError("an image cannot be read", where=str(path), why=_reason(error)) from error


def _check_file(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        # Opening a pipe would wait for ever.
        raise _UnreadableError("it is no regular file")
    if status.st_size == 0:
        raise _UnreadableError("it is empty")


@contextmanager
def _strict() -> Iterator[None]:
    """Let Pillow neither make up what a file lacks nor tell the terminal what it thinks of it."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    # Other libraries switch it on for the whole process, and half of an image would pass for the whole.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _as_stored(image: Image.Image) -> Image.Image:
    return image


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Scale to 8 bits, where Pillow's own conversion would make everything above 255 white."""
    bits, inverted = 16, False
    if isinstance(image, TiffImageFile):
        # Pillow hands out 12 bits as they are, and in this mode alone leaves white at zero.
        (bits,) = image.tag_v2.get(BITSPERSAMPLE, (16,))
        inverted = image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO
    white = 2**bits - 1
    levels = np.asarray(image)
    return _in_8_bits(white - levels if inverted else levels, white)


def _from_integers(image: Image.Image) -> Image.Image:
    """Some 16-bit files are opened as integers of 32 bits; those that need more have no white that is known."""
    levels = np.asarray(image)
    low, high = int(levels.min()), int(levels.max())
    if low < 0 or high > 65535:
        raise _UnreadableError(f"its pixels are integers from {low} to {high}, and which of them is white is not known")
    return _in_8_bits(levels, 65535)


def _in_8_bits(levels: np.ndarray, white: int) -> Image.Image:
    # 65535 is 255 times 257: levels that are multiples of 257 come out exactly, others rounded.
    scaled = levels.astype(np.uint32)
    # In place: four bytes a pixel are enough for a large image.
    scaled *= 255
    scaled += white // 2
    scaled //= white
    return Image.fromarray(scaled.astype(np.uint8))


def _refuse_floats(image: Image.Image) -> Image.Image:
    raise _UnreadableError(f"its pixels are floating-point numbers (mode {image.mode}), and what is white is not known")


# By Pillow's name for how pixels are stored. All others (palette, 1 bit, transparency, CMYK, YCbCr) Pillow converts.
TREATMENTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "I;16": _from_16_bits,
    "I;16L": _from_16_bits,
    "I;16B": _from_16_bits,
    "I;16N": _from_16_bits,
    "I": _from_integers,
    "F": _refuse_floats,
}


def _reason(error: Exception) -> str:
    """A line without the file's place: it goes into outputs, which are to be the same from every folder."""
    if isinstance(error, _UnreadableError):
        return str(error)
    said = next(iter(str(error).splitlines()), "")
    if isinstance(error, UnidentifiedImageError):
        said = "damaged, or no image of a format that Pillow knows"
    elif isinstance(error, OSError) and error.strerror is not None:
        said = error.strerror
    return f"{type(error).__name__}: {said}"
