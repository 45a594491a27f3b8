"""How the cost of each verb grows: with depth, width, images, batch size and ranks, beside what cannot be avoided.

    python -m benchmarks.growth

The network is a chain of 3x3 convolutions of random weights (`growth_networks`), the cost processor time of a single
thread, which other work on the machine disturbs less than the clock. Each round goes over all points of a verb, and at
each the verb and its floor take turns. Every point leaves a line in benchmarks/results/growth.jsonl; one that has a
line of the same versions and the same processor is passed over, so a run that was interrupted goes on at the verb where
it was. At the end docs/growth.md and its plots are written from these lines.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.growth_measuring import measured, settle
from benchmarks.growth_page import write_page
from benchmarks.growth_points import SERIES, VERBS, Point, points
from benchmarks.growth_ranks import across_ranks
from benchmarks.growth_records import RECORDS, append, here, known
from benchmarks.measuring import load

__all__ = ["write_page"]


def main(arguments: Sequence[str]) -> None:
    quantities = tuple(dict.fromkeys(quantity for _, quantity in SERIES))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.splitlines()[0])
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS), help="default: all")
    parser.add_argument("--quantities", nargs="+", choices=quantities, default=[], help="default: all")
    parser.add_argument("--rounds", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--again", action="store_true", help="measure those that have a line too")
    parser.add_argument("--page", action="store_true", help="write the page from the lines that are there, and end")
    options = parser.parse_args(arguments)
    if not options.page:
        settle()
        taken = {} if options.again else known(RECORDS, here())
        waiting = [point for point in points(tuple(options.verbs), tuple(options.quantities)) if point not in taken]
        print(f"{len(waiting)} points to measure; load average {load()}", flush=True)
        for verb in VERBS:
            measure([point for point in waiting if point.verb == verb], options.rounds)
    write_page()


def measure(waiting: Sequence[Point], rounds: int) -> None:
    """Measure one verb's points, and keep them."""
    joint = [point for point in waiting if point in SERIES["calibrate", "ranks"]]
    found = measured([point for point in waiting if point not in joint], rounds)
    found |= {point: across_ranks(point, rounds) for point in joint}
    for point, times in found.items():
        append(RECORDS, point, times)
        print(point, f"{min(times.cpu):.3f} s, floor {min(times.floor_cpu):.3f} s", sep="  ", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
