"""`make attack`: 1,000 kills over all verbs, 200 at a bucket, 20,000 changed inputs at every door, eight writers
for ten minutes.

Each try has a number; the seed and the number repeat it. The results go to a file, one line for each part.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.attack.report import Found

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if no attack found a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.attack", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="kill -9, spread over all verbs")
    parser.add_argument("--inputs", type=int, default=20_000, help="changed inputs, spread over all doors")
    parser.add_argument("--bucket-kills", type=int, default=200, help="kill -9 of pushes and pulls of a bucket")
    parser.add_argument("--minutes", type=float, default=10, help="how long eight writers race")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--first", type=int, default=0, help="number of the first try: goes on where another run ended")
    parser.add_argument("--patience", type=float, default=10, help="seconds after which a command hangs")
    parser.add_argument("--results", type=Path, default=Path("build/attack.jsonl"))
    options = parser.parse_args(arguments)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        return 1 if sum(part(options, Path(place)) for part in (_kills, _inputs, _bucket, _race)) else 0


def _kills(options: argparse.Namespace, place: Path) -> int:
    from tests.support.attack.kills import kill
    from tests.support.attack.world import World

    if not options.kills:
        return 0
    with _recorded(options, "kills") as found:
        kill(World.make(place), place, _numbers(options, options.kills), options.seed, found, options.patience)
    return len(found.faults)


def _inputs(options: argparse.Namespace, place: Path) -> int:
    from tests.support.attack.inputs import strike_all
    from tests.support.remotes import World

    if not options.inputs:
        return 0
    with _recorded(options, "inputs") as found:
        world = World.make(place / "inputs-of")
        strike_all(world, place, _numbers(options, options.inputs), options.seed, found, options.patience)
    return len(found.faults)


def _bucket(options: argparse.Namespace, place: Path) -> int:
    if not options.bucket_kills:
        return 0
    from tests.support.attack.buckets import kill_transfers

    with _recorded(options, "bucket") as found:
        kill_transfers(place, _numbers(options, options.bucket_kills), options.seed, found, options.patience)
    return len(found.faults)


def _race(options: argparse.Namespace, place: Path) -> int:
    from tests.support.attack.writers import race

    if not options.minutes:
        return 0
    with _recorded(options, "writers") as found:
        race(place, options.minutes, options.seed, found, options.patience)
    return len(found.faults)


def _numbers(options: argparse.Namespace, count: int) -> range:
    return range(options.first, options.first + count)


@contextmanager
def _recorded(options: argparse.Namespace, part: str) -> Iterator[Found]:
    """What a part finds, written to the results even if it is stopped."""
    found = Found(part)
    try:
        yield found
    finally:
        summary = {"seed": options.seed, "first": options.first, **found.summary()}
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(summary) + "\n")
        print(json.dumps({**summary, "faults": len(found.faults)}))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # what was found so far is written
    sys.exit(main())
