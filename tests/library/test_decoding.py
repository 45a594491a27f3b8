"""One image file -> pixels: exact for every kind of file, and an error for every damaged one."""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from bnretrofit.data import ImageBatches, find_images
from bnretrofit.decoding import decode
from bnretrofit.errors import InputRejectedError
from bnretrofit.preprocessing import Preprocessing

Pixel = tuple[int, int, int]
BLACK, WHITE, RED, GREEN = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0)
DEEP = (0, 257, 385, 386, 128 * 257, 65535)
SCALED = [(level,) * 3 for level in (0, 1, 1, 2, 128, 255)]


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def row(mode: str, *pixels: Any) -> Image.Image:
    image = Image.new(mode, (len(pixels), 1))
    for index, pixel in enumerate(pixels):
        image.putpixel((index, 0), pixel)
    return image


def palette() -> Image.Image:
    image = row("P", 1, 0, 2)
    image.putpalette([*BLACK, *RED, *GREEN])
    return image


def png(depth: int, colour: int, width: int, line: bytes) -> bytes:
    """A PNG of one line, as no library writes it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" + line)) + chunk(b"IEND", b"")


def tiff(width: int, line: bytes, bits: int = 16, photometric: int = 1, order: str = "<") -> bytes:
    """A TIFF of one grey line; 0 for `photometric` says that zero is white."""
    entries = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 122, 277: 1, 278: 1, 279: len(line)}
    out = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(entries))
    for tag, value in entries.items():
        out += struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
    return out + bytes(4) + line


def deep(order: str = "<", levels: tuple[int, ...] = DEEP) -> bytes:
    return struct.pack(f"{order}{len(levels)}H", *levels)


def turned(kind: str, **options: Any) -> bytes:
    """A black and a white square beside one another, with the note that they are to be turned."""
    exif = Image.Exif()
    exif[274] = 6
    image = Image.new("RGB", (16, 8))
    image.paste(WHITE, (8, 0, 16, 8))
    return saved(image, kind, exif=exif.tobytes(), **options)


def moving(kind: str, **options: Any) -> bytes:
    first, second = (Image.new("RGB", (2, 1), colour) for colour in (RED, GREEN))
    return saved(first, kind, save_all=True, append_images=[second], **options)


BESIDE = [BLACK] * 8 + [WHITE] * 8
KINDS: dict[str, tuple[bytes, list[Pixel]]] = {
    "palette": (saved(palette(), "PNG"), [RED, BLACK, GREEN]),
    "palette-one-clear": (saved(palette(), "PNG", transparency=1), [RED, BLACK, GREEN]),
    "palette-half-clear": (saved(palette(), "PNG", transparency=b"\x00\x80\xff"), [RED, BLACK, GREEN]),
    "colour-key": (saved(row("RGB", RED, GREEN), "PNG", transparency=RED), [RED, GREEN]),
    "rgba": (saved(row("RGBA", (1, 2, 3, 0), (4, 5, 6, 255)), "PNG"), [(1, 2, 3), (4, 5, 6)]),
    "grey-clear": (saved(row("LA", (7, 0), (8, 255)), "PNG"), [(7, 7, 7), (8, 8, 8)]),
    "one-bit": (saved(row("1", 0, 255), "PNG"), [BLACK, WHITE]),
    "cmyk": (saved(row("CMYK", (0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255)), "TIFF"), [WHITE, (0, 255, 255), BLACK]),
    "cmyk-jpeg": (saved(Image.new("CMYK", (2, 1), (0, 255, 255, 0)), "JPEG", quality=100), [RED, RED]),
    "ycbcr": (saved(row("YCbCr", (128, 128, 128), (255, 128, 128)), "TIFF"), [(128, 128, 128), WHITE]),
    "grey-16-png": (png(16, 0, 6, deep(">")), SCALED),
    "grey-16-tiff-little": (tiff(6, deep("<")), SCALED),
    "grey-16-tiff-big": (tiff(6, deep(">"), order=">"), SCALED),
    "grey-16-tiff-white-is-zero": (tiff(6, deep("<", tuple(65535 - level for level in DEEP)), photometric=0), SCALED),
    "grey-12-tiff": (tiff(2, b"\x80\x8f\xff", bits=12), [(128, 128, 128), WHITE]),
    "grey-16-pgm": (b"P5 6 1 65535\n" + deep(">"), SCALED),
    "grey-12-pgm": (b"P5 2 1 4095\n" + deep(">", (2056, 4095)), [(128, 128, 128), WHITE]),
    "integers-tiff": (saved(row("I", *DEEP), "TIFF"), SCALED),
    "rgb-16-png": (png(16, 2, 2, deep(">", (0, 257, 128 * 257, 65535, 255, 256))), [(0, 1, 128), (255, 0, 1)]),
    "moving-gif": (moving("GIF"), [RED, RED]),
    "moving-png": (moving("PNG"), [RED, RED]),
    "moving-webp": (moving("WEBP", lossless=True), [RED, RED]),
    "pages-tiff": (moving("TIFF"), [RED, RED]),
    "turned-jpeg": (turned("JPEG", quality=100, subsampling=0), BESIDE),
    "turned-png": (turned("PNG"), BESIDE),
    "turned-webp": (turned("WEBP", lossless=True), BESIDE),
    # Pillow turns these as it opens them, so that is what a network was trained on.
    "turned-tiff": (turned("TIFF"), [BLACK] * 8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_its_pixels(tmp_path: Path, kind: str) -> None:
    content, expected = KINDS[kind]
    (tmp_path / "image").write_bytes(content)
    pixels = np.asarray(decode(tmp_path / "image", "RGB"))
    assert [tuple(pixel) for pixel in pixels[0].tolist()] == expected


def test_a_network_of_one_channel_gets_16_bits_scaled_too(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(png(16, 0, 6, deep(">")))
    assert np.asarray(decode(tmp_path / "image", "L")).tolist() == [[0, 1, 1, 2, 128, 255]]


def test_every_level_of_16_bits_is_rounded_to_the_nearest(tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / "image.png")
    assert np.array_equal(np.asarray(decode(tmp_path / "image.png", "L")), np.round(levels / 257))


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(InputRejectedError) as refused:
        decode(path, "RGB")
    why = str(refused.value.why)
    # It is written into outputs, which are to be the same from every folder.
    assert str(path) not in why
    assert "\n" not in why
    return why


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"this is text", "UnidentifiedImageError: damaged, or no image"),
        (saved(row("F", 0.5, 1.0), "TIFF"), "floating-point numbers"),
        (saved(row("I", 0, 65536), "TIFF"), "integers from 0 to 65536"),
        (saved(row("I", -1, 3), "TIFF"), "integers from -1 to 3"),
        (struct.pack(">8sI4sIIBBBBBI", b"\x89PNG\r\n\x1a\n", 13, b"IHDR", 1 << 16, 1 << 16, 8, 2, 0, 0, 0, 0), "Un"),
    ],
    ids=["empty", "text", "floats", "integers", "negative", "damaged-header"],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, content: bytes, why: str) -> None:
    assert why in refusal(tmp_path / "image", content)


def test_files_that_are_none_are_not_waited_for(tmp_path: Path) -> None:
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
    else:
        (tmp_path / "pipe.png").mkdir()
    with pytest.raises(InputRejectedError, match="no regular file"):
        decode(tmp_path / "pipe.png", "RGB")
    with pytest.raises(InputRejectedError, match=r"FileNotFoundError: No such file or directory$"):
        decode(tmp_path / "gone.png", "RGB")


# Noise, so that no format stores it in a few bytes.
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (18, 24, 3), dtype=np.uint8))
FORMATS: dict[str, Callable[[], bytes]] = {
    "bmp": lambda: saved(NOISE, "BMP"),
    "gif": lambda: saved(NOISE.convert("P"), "GIF"),
    "jpg": lambda: saved(NOISE, "JPEG"),
    "png": lambda: saved(NOISE, "PNG"),
    "tif": lambda: saved(NOISE, "TIFF", compression="tiff_lzw"),
    "webp": lambda: saved(NOISE, "WEBP"),
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_image_is_decoded_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    # As other libraries leave it.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    content, path = FORMATS[suffix](), tmp_path / "image"
    path.write_bytes(content)
    whole = np.asarray(decode(path, "RGB"))
    for length in (*range(1, len(content), 7), len(content) - 1):
        path.write_bytes(content[:length])
        try:
            pixels = np.asarray(decode(path, "RGB"))
        except InputRejectedError:
            continue
        # A last byte may be one that holds no pixel.
        assert np.array_equal(pixels, whole), length
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert refusal(path, content[: len(content) // 2]) != ""


def test_a_huge_image_is_refused_by_its_header(tmp_path: Path) -> None:
    # 65,536 pixels each way, of which the file holds none.
    path = tmp_path / "image"
    content = b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 1 << 16, 1 << 16, 1, 24, 0, 0, 0, 0, 0, 0)
    assert refusal(path, content).startswith("DecompressionBombError: Image size (4294967296 pixels)")


def test_a_row_that_pillow_cannot_count_is_no_lack_of_memory(tmp_path: Path) -> None:
    width = (1 << 27) + 6
    assert refusal(tmp_path / "image", png(8, 2, width, b"")) == f"it is {width} pixels wide and 1 high"


def test_a_large_image_is_read_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    NOISE.save(tmp_path / "image.png")
    pixels = NOISE.width * NOISE.height
    for limit in (pixels, pixels - 1, pixels // 2):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert decode(tmp_path / "image.png", "RGB").size == NOISE.size
    assert recwarn.list == []
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels // 2 - 1)
    with pytest.raises(InputRejectedError, match="DecompressionBombError"):
        decode(tmp_path / "image.png", "RGB")


def raising(error: BaseException) -> Callable[..., Image.Image]:
    def opened(*_: object, **__: object) -> Image.Image:
        raise error

    return opened


@pytest.mark.parametrize(
    "error",
    [
        struct.error("short"), zlib.error("bad"), IndexError("i"), KeyError("k"), EOFError(), ValueError("two\nlines"),
        OverflowError("o"), TypeError("t"), AttributeError("a"), SyntaxError("s"), RuntimeError("r"),
        NotImplementedError("n"), ZeroDivisionError("z"), AssertionError(), RecursionError("deep"),
    ],
    ids=repr,
)  # fmt: skip
def test_whatever_pillow_raises_makes_the_file_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(Image, "open", raising(error))
    assert refusal(tmp_path / "image", b"any").startswith(f"{type(error).__name__}:")


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_what_is_no_fault_of_the_file_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(Image, "open", raising(error))
    (tmp_path / "image").write_bytes(b"any")
    with pytest.raises(type(error)):
        decode(tmp_path / "image", "RGB")


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A copy with some bits flipped, most of them in what precedes the pixels, or cut off, or both."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        changed[draw.randrange(min(draw.choice((64, 1 << 20)), len(changed)))] ^= 1 << draw.randrange(8)
    return bytes(changed[: draw.randrange(len(changed))] if draw.random() < 0.2 else changed)


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files_are_decoded_or_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    # A flipped bit of a width makes an image of a hundred million pixels: not so here, to be quick.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    content, draw = FORMATS[suffix](), random.Random(suffix)
    for index in range(60):
        (tmp_path / f"{index:02}.{suffix}").write_bytes(mutated(content, draw))
    batches = ImageBatches(find_images(tmp_path), Preprocessing((3, None, None)), batch_size=8, max_bad_images=60)
    decoded = sum(len(batch) for batch in batches)
    assert decoded + len(batches.bad) == 60
    assert len(batches.readable.paths) == decoded
    assert len(batches.bad) > 0


def test_postscript_under_the_name_of_a_picture_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr("subprocess.check_call", lambda *command, **_: started.append(command))
    Image.new("RGB", (4, 4)).save(tmp_path / "0.eps")
    path = (tmp_path / "0.eps").rename(tmp_path / "0.jpg")
    with pytest.raises(InputRejectedError, match="no image of a format"):
        decode(path, "RGB")
    assert not started
