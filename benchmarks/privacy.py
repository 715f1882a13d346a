"""What privacy costs: noise, accounting, clipping and books, each beside a bar, a peer or a plain version of itself.

    python benchmarks/privacy.py [--json] [--quick] [--only NAME,...] [--opendp FOLDER]

CPU seconds of one thread unless a name says otherwise; a figure is a median of interleaved repetitions. The last line
of --json is {"figures": [{"name", "value", "unit", "bar", "holds"}]}.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

import numpy as np
from figures import Figure, at_least, at_most, run, show
from peer_environment import python_of
from programs import child_s
from releases import release

from secure_frl.privacy.accountant import epsilon
from secure_frl.privacy.noise import discrete_gaussian, noise_table
from secure_frl.randomness import system_source
from secure_frl.records.register import Register

MILLION = 1_000_000
OPENDP, OPENDP_FOLDER = "opendp==0.16.0", Path("build/opendp-0.16.0")
SHIPPED = Path(__file__).resolve().parents[1] / "examples" / "icu_sepsis" / "study.toml"
WINDOW = 2001  # people a site and round of the shipped study


@dataclass(frozen=True)
class Options:
    """How much to run."""

    quick: bool
    opendp: Path

    def repetitions(self, full: int) -> int:
        """Return how often to repeat something that is repeated `full` times in a full run."""
        return min(full, 3) if self.quick else full


def draws_per_s(deviation: int, draws: int) -> float:
    """Return how many draws of the production sampler one core makes in a second."""
    random = system_source()
    start = time.thread_time()
    discrete_gaussian(deviation, draws, random)
    return draws / (time.thread_time() - start)


def sampler(options: Options) -> Iterator[Figure]:
    """Measure the production sampler at the deviations of one share and of local noise, and a short message."""
    for name, deviation, draws in (("", 1024, MILLION), (".4096", 4096, MILLION), (".d5317", 1024, 5317)):
        draws_per_s(deviation, draws)  # builds the table
        found = statistics.median(draws_per_s(deviation, draws) for _ in range(options.repetitions(15)))
        yield at_least(f"sampler_per_s{name}", found / MILLION, 4, "M draws/s")


def sampler_over_opendp(options: Options) -> Iterator[Figure]:
    """Measure ours and opendp's discrete Gaussian in turn, at deviation 1,024."""
    python, driver = python_of(options.opendp, OPENDP), Path(__file__).with_name("opendp_peer.py")
    draws = 5_000 if options.quick else 50_000
    draws_per_s(1024, draws)
    ratios = []
    for _ in range(options.repetitions(5)):
        command = [str(python), str(driver), "--deviation", "1024", "--draws", str(draws)]
        ended = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # fixed command line
        peer = json.loads(ended.stdout.splitlines()[-1])
        if not 0.9 < peer["deviation"] / 1024 < 1.1:
            raise RuntimeError(f"expected a deviation of 1,024 from opendp, got {peer['deviation']:.1f}. Read its log.")
        ratios.append(draws_per_s(1024, draws) / peer["per_s"])
        show(f"opendp: {peer['per_s'] / 1e3:.1f} k draws/s, ours {ratios[-1]:.0f} x")
    yield at_least("sampler_over_opendp", statistics.median(ratios), 100, "x opendp")


def noise_table_build(options: Options) -> Iterator[Figure]:
    """Measure what a process pays once for the table of the largest deviation."""
    spent = []
    for _ in range(options.repetitions(5)):
        noise_table.cache_clear()
        start = time.thread_time()
        noise_table(8192)
        spent.append(time.thread_time() - start)
    yield at_most("noise_table_s", statistics.median(spent), 1, "CPU s, once")


def discrete_over_ideal(options: Options) -> Iterator[Figure]:
    """Compare the claim for distributed discrete noise with the ideal Gaussian's epsilon, worst of three sigmas.

    Ten honest shares, 5,317 coordinates, deviation 1,024.
    """
    from accuracy import gaussian

    ratios = {}
    for sigma in (0.6, 1, 2):
        stated = epsilon([release(sigma, delta=1e-5, honest_shares=10, length=5317, deviation=1024)], 1e-5)
        ratios[sigma] = stated / gaussian(sigma, 1e-5)
    show("discrete_over_ideal: " + ", ".join(f"sigma {sigma:g}: {ratio:.5f}" for sigma, ratio in ratios.items()))
    yield at_most("discrete_over_ideal", max(ratios.values()), 1.003, "x ideal")


def plan(options: Options) -> Iterator[Figure]:
    """Measure `secure-frl plan` of the shipped study as a user starts it, and how much of it is imports of others."""
    command = [sys.executable, "-m", "secure_frl", "plan", str(SHIPPED), "--json"]
    imports = [sys.executable, "-c", "import dp_accounting.pld, pydantic, rich, typer"]
    timed = [(child_s(command), child_s(imports)) for _ in range(options.repetitions(5))]
    show(f"plan: {statistics.median(imported for _, imported in timed):.2f} CPU s of it are imports of others")
    yield at_most("plan_s", statistics.median(planned for planned, _ in timed), 2, "CPU s")


def register(options: Options) -> Iterator[Figure]:
    """Measure one window's admission, synced, beside looking up the same people in a table of as many."""
    generator, ratios = np.random.default_rng(1), []
    with tempfile.TemporaryDirectory() as folder, Register.open(Path(folder) / "register.sqlite") as site:
        session = bytes(32)
        for number in range(1, options.repetitions(15) + 2):
            persons = generator.integers(0, 2**63, WINDOW, dtype=np.uint64)
            start = time.thread_time()
            site.admit(session, number, 0, number.to_bytes(4, "big"), persons, 1)
            admitted_s = time.thread_time() - start
            ratios.append(admitted_s / lookup_s(Path(folder) / "table.sqlite", persons))
    yield at_most("register_over_lookup", statistics.median(ratios[1:]), 10, "x lookup")


def lookup_s(path: Path, persons: np.ndarray) -> float:
    """Return the CPU seconds of reading each person's row by its key from a table that holds them, as any could.

    path: of the table, made when it is missing; the people join those of earlier calls first, outside the time.
    """
    keys = persons.view(np.int64).tolist()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE IF NOT EXISTS persons (person INTEGER PRIMARY KEY, windows INTEGER NOT NULL)")
    with connection:
        connection.executemany("INSERT INTO persons VALUES (?, 1)", [(key,) for key in keys])
    start = time.thread_time()
    for person in keys:
        connection.execute("SELECT windows FROM persons WHERE person = ?", (person,)).fetchone()
    spent_s = time.thread_time() - start
    connection.close()
    return spent_s


def accuracy(options: Options) -> Iterator[Figure]:
    """Compare stated epsilons with others' accountants and closed forms."""
    import accuracy

    yield from accuracy.figures()


def update(options: Options) -> Iterator[Figure]:
    """Measure one window from trajectories to noised integers."""
    import update_cost

    yield from update_cost.figures(options.repetitions(9))


def ledgers(options: Options) -> Iterator[Figure]:
    """Measure the guard, `verify` of a long ledger, and the rows of many simulated sites."""
    import books

    yield from books.figures(quick=options.quick)


PARTS: dict[str, Callable[[Options], Iterator[Figure]]] = {
    "sampler": sampler,
    "sampler_over_opendp": sampler_over_opendp,
    "noise_table": noise_table_build,
    "accuracy": accuracy,
    "discrete_over_ideal": discrete_over_ideal,
    "plan": plan,
    "update": update,
    "register": register,
    "books": ledgers,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report."""
    return run(__doc__, PARTS, lambda chosen: Options(chosen.quick, chosen.opendp), arguments, opendp=OPENDP_FOLDER)


if __name__ == "__main__":
    sys.exit(main())
