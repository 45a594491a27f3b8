"""All pages that are made from results: written anew from the lines under results/, nothing is measured.

python -m benchmarks.tables
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from benchmarks import claims_page, finetune_page, growth_page, peers_page, reliability, zoo

__all__ = ["PAGES"]

PAGES: dict[str, Callable[[], object]] = {
    "claims": claims_page.write_page,
    "finetune": finetune_page.write_page,
    "growth": growth_page.write_page,
    "peers": peers_page.write_page,
    "reliability": lambda: reliability.main(["--page"]),
    "zoo": lambda: zoo.main(["--page"]),
}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"of: {', '.join(PAGES)}")
    options = parser.parse_args(arguments)
    unknown = set(options.pages) - set(PAGES)
    if unknown:
        parser.error(f"there is no page {', '.join(sorted(unknown))}")
    for name in options.pages or PAGES:
        PAGES[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
