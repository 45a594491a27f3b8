"""What `benchmarks.growth` measures: each verb along each quantity that it could grow with."""

from dataclasses import dataclass, replace

__all__ = ["BASE", "SERIES", "VERBS", "Point", "points"]

PLAN, CALIBRATE, FOLD, VERIFY, FOLD_FILE = VERBS = ("plan", "calibrate", "fold", "verify", "fold a file")


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement.

    Attributes:
        verb: One of `VERBS`.
        depth: Convolutions of the network.
        width: Channels of each.
        images: How many there are in all.
        batch_size: Of each batch; of the example, for what takes no more than that.
        ranks: Processes that share the images.
        pixels: Height and width of an image.
    """

    verb: str
    depth: int = 8
    width: int = 32
    images: int = 32
    batch_size: int = 16
    ranks: int = 1
    pixels: int = 32


BASE = Point("")
DEPTHS, WIDTHS = (8, 16, 32, 64, 128), (16, 32, 64, 128, 256)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)

SERIES: dict[tuple[str, str], tuple[Point, ...]] = {
    (verb, quantity): tuple(replace(BASE, verb=verb, **more, **{quantity: at}) for at in sizes)
    for verb, quantity, sizes, more in (
        (PLAN, "depth", DEPTHS, {}),
        (PLAN, "width", WIDTHS, {}),
        (PLAN, "batch_size", BATCH_SIZES[::3], {"images": 64}),
        (CALIBRATE, "depth", DEPTHS, {}),
        (CALIBRATE, "width", WIDTHS, {}),
        (CALIBRATE, "images", (32, 64, 128, 256, 512), {}),
        (CALIBRATE, "batch_size", BATCH_SIZES, {"images": 64}),
        (CALIBRATE, "ranks", (1, 2, 4), {"images": 192}),
        (FOLD, "depth", DEPTHS, {}),
        (FOLD, "width", WIDTHS, {}),
        (FOLD, "batch_size", BATCH_SIZES[::3], {"images": 64}),
        (VERIFY, "depth", DEPTHS, {}),
        (VERIFY, "width", WIDTHS, {}),
        (VERIFY, "images", (32, 64, 128, 256, 512), {}),
        (VERIFY, "batch_size", BATCH_SIZES, {"images": 64}),
        # Small images: it is the file that grows here, not what the check of the outputs computes.
        (FOLD_FILE, "depth", DEPTHS, {"pixels": 8}),
        (FOLD_FILE, "width", (*WIDTHS, 512), {"pixels": 8}),
    )
}
"""By verb and quantity, from the smallest to the largest."""


def points(verbs: tuple[str, ...] = VERBS, quantities: tuple[str, ...] = ()) -> list[Point]:
    """The points of some verbs, and of some quantities or all, each once: the base belongs to several quantities."""
    chosen = [
        point
        for (verb, quantity), series in SERIES.items()
        if verb in verbs and (not quantities or quantity in quantities)
        for point in series
    ]
    return list(dict.fromkeys(chosen))
