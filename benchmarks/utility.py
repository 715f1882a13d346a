"""What policies are worth under privacy: gap recovered by whole runs of the product, over fresh seeds, beside bars.

    python benchmarks/utility.py [--suite NAME,...] [--seeds N] [--first N] [--jobs N] [--json]

A figure is the lower end of a 95 % t-interval over N seeds from 101, or --first, on; knobs were fixed on seeds 10 to
13. With one seed there is no interval, so no figure holds: a smoke test. The gap is that of the exact value of the
released policy as it acts: 0 is the clinicians' policy, 1 the optimal one. The last line of --json is
{"figures": [{"name", "value", "unit", "bar", "holds"}]}.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

from figures import Figure, report
from utility_runs import FRESH_SEEDS, Options

SUITES = ("online", "offline", "features", "value", "sites", "control", "stages")  # a module utility_NAME each


def _suite(name: str) -> Callable[[Options], Iterator[Figure]]:
    def figures(options: Options) -> Iterator[Figure]:
        found: Iterator[Figure] = import_module(f"utility_{name}").figures(options)
        return found

    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Be the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default=",".join(SUITES), help=f"of {', '.join(SUITES)}")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds a figure has")
    parser.add_argument("--first", type=int, default=FRESH_SEEDS, help="the first of them: others once these were seen")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, each in one thread")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    chosen = parser.parse_args(arguments)
    if chosen.seeds < 1 or chosen.jobs < 1:
        parser.error(f"expected one seed and one job or more, got {chosen.seeds} and {chosen.jobs}. Correct them.")
    parts = {name: _suite(name) for name in SUITES}
    return report(parser, parts, chosen.suite, Options(chosen.seeds, chosen.jobs, chosen.first), wants_json=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
