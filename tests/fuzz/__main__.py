"""Look further than CI does: `python -m tests.fuzz --minutes 30`, of some families by name, from some seed on.

What breaks is told as it is met, and how to meet it again: `python -m tests.fuzz FAMILY --seed N`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.fuzz.families import FAMILIES, Broken, Children, once


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}; all without any")
    parser.add_argument("--minutes", type=float, default=30.0, help="for all families together (30)")
    parser.add_argument("--start", type=int, default=1_000, metavar="N", help="the first seed (1000)")
    parser.add_argument("--seed", type=int, metavar="N", help="only this one")
    asked = parser.parse_args()
    unknown = set(asked.families) - set(FAMILIES)
    if unknown:
        parser.error(f"no such family: {', '.join(sorted(unknown))}")
    families = asked.families or list(FAMILIES)
    children = Children()
    broken = 0
    try:
        for family in families:
            seeds = None if asked.seed is None else asked.seed
            broken += _family(family, asked.start, seeds, asked.minutes * 60 / len(families), children)
    finally:
        children.close()
    return 1 if broken else 0


def _family(family: str, start: int, only: int | None, seconds: float, children: Children) -> int:
    """Fuzz one family until its time is over; gives how many inputs did what none may."""
    met: Counter[str] = Counter()
    end, seed = time.monotonic() + seconds, start if only is None else only
    while True:
        try:
            came = once(family, seed, children)
        except Broken as error:
            came = "BROKEN"
            print(f"{family} --seed {seed}: {error}\n", flush=True)
        met[came] += 1
        seed += 1
        if only is not None or time.monotonic() > end:
            break
    told = ", ".join(f"{came} {count}" for came, count in met.most_common())
    print(f"{family}: {met.total()} inputs: {told}", flush=True)
    return met["BROKEN"]


if __name__ == "__main__":
    sys.exit(main())
