"""What the books cost: the guard before a release, `verify` of a long ledger, the rows of a thousand simulated sites.

    python benchmarks/books.py [--json] [--quick] [--only NAME,...]

A long ledger has 1,000 rounds of five studies with settings of their own on one data set, four of them Poisson-sampled.
CPU seconds, but for waiting on the disk, which counts by the clock. The import of dp-accounting is left out of the
guard, which runs in a process that has it, and is inside `verify`, which is a program of its own here.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

from figures import Figure, at_most, run, show
from programs import child_s
from releases import release

from secure_frl.consortium.identity import Identity
from secure_frl.federation.budgets import lifetime_budget, study_guard
from secure_frl.files import allow_open_files
from secure_frl.privacy.accountant import epsilon
from secure_frl.privacy.events import GaussianSumEvent
from secure_frl.records.chain import Receipt
from secure_frl.records.group_commit import GroupCommit
from secure_frl.records.ledger import Guard, Ledger
from secure_frl.records.register import Register
from secure_frl.secure_sum import Budget
from secure_frl.study import Study
from secure_frl.study_file import load_study

SHIPPED = Path(__file__).resolve().parents[1] / "examples" / "icu_sepsis" / "study.toml"
DATASET, DELTA, NOBODY = "ward", 1e-6, Identity(bytes(32))
SETTINGS = ((1.0, 0.1), (1.2, 0.05), (2.0, 0.2), (1.5, 0.02), (60.0, 1.0))  # noise multiplier, sampling rate


@dataclass(frozen=True)
class Options:
    """How much to run."""

    rounds: int = 1000
    sites: int = 1000
    repetitions: int = 9


def release_of(setting: int, number: int, *, group: str = DATASET) -> GaussianSumEvent:
    """Return the release of one round of one of the five studies."""
    sigma, rate = SETTINGS[setting]
    return release(
        sigma,
        delta=DELTA,
        honest_shares=7,
        length=3427,
        deviation=1024,
        charter_hash=charter(setting).hex(),
        dataset_id=DATASET,
        composition_group=group,
        round_number=number,
        window=f"round-{number}-attempt-0",
        sampling_rate=rate,
        register_root_before=number.to_bytes(32, "big").hex(),
    )


def charter(setting: int) -> bytes:
    """Return the session of one of the five studies."""
    return bytes([setting]) * 32


def study_with(rounds: int) -> Study:
    """Return a study that announces `rounds` rounds and has room for all of them."""
    small = {"training.episodes_per_site": 10, "privacy.delta": DELTA}  # delta is judged by the units declared
    return load_study(SHIPPED, small | {"training.rounds": rounds, "privacy.target_epsilon": 90.0})


def long_history(rounds: int) -> list[GaussianSumEvent]:
    """Return the events of five studies, one after the other."""
    each = rounds // len(SETTINGS)
    return [release_of(setting, number) for setting in range(len(SETTINGS)) for number in range(1, each + 1)]


def guard(options: Options) -> Iterator[Figure]:
    """Measure the guard of the next release: in a study that runs, and the first one after a restart."""
    history = long_history(options.rounds)
    show(f"guard: {len(history)} events come to epsilon {epsilon(history, DELTA):.4f}")  # imports dp-accounting
    recorded = [event.canonical() for event in history]
    lifetime, charged = Budget(90.0, DELTA), study_with(options.rounds)
    running = []
    for setting in range(len(SETTINGS)):  # each study goes on by turns: the dearest one counts
        asked, spent = study_guard(charged, charter(setting)), list(recorded)
        took_ms = []
        for number in range(options.repetitions + 1):
            candidate = release_of(setting, len(recorded) + number).canonical()
            start = time.process_time()
            asked(lifetime, spent, candidate)
            took_ms.append(1000 * (time.process_time() - start))
            spent.append(candidate)
        running.append(statistics.median(took_ms[1:]))
        show(f"guard: setting {SETTINGS[setting]}: first {took_ms[0]:.1f} ms, then {running[-1]:.1f} ms")
    yield at_most("guard_ms", max(running), 250, "CPU ms")


def verify(options: Options) -> Iterator[Figure]:
    """Measure `secure-frl verify` of the export of such a ledger, as a user starts it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        with _ledger(path, "site-01", Budget(90.0, DELTA), lambda *_: None, None) as ledger:
            for event in long_history(options.rounds):
                _one_round(ledger, event)
            ledger.export(path.with_suffix(".jsonl"), path.with_suffix(".head"))
        command = [sys.executable, "-m", "secure_frl", "verify", str(path.with_suffix(".jsonl"))]
        took_s = [child_s(command) for _ in range(max(1, options.repetitions // 3))]
    yield at_most("verify_s", statistics.median(took_s), 5, "CPU s")


def simulated_sites(options: Options) -> Iterator[Figure]:
    """Measure a round of many sites in one process: reserve, release and commit of each, one sync a stage for all.

    The guard, the head that each register notes and the folding of SQLite's log are part of it (so the mean counts,
    not the median); windows, people and answers in the register are not the ledger's, nor is work on data and masks.
    """
    allow_open_files(8 * options.sites)
    study, session = study_with(100), charter(0)
    with tempfile.TemporaryDirectory() as folder:
        group, ledgers, registers = GroupCommit.open(Path(folder)), [], []
        for number in range(options.sites):
            home = Path(folder) / f"site-{number}"
            registers.append(Register.open(home / "register.sqlite", group=group))
            limits, asked = lifetime_budget(study), study_guard(study, session)
            ledgers.append(_ledger(home / "ledger.sqlite", home.name, limits, asked, group))
        group.sync()
        rounds = [_round(ledgers, registers, group, number) for number in range(1, options.repetitions + 2)][1:]
        group.close_cleanly()
    for name, spent in (("rows", [rows for rows, _ in rounds]), ("syncs", [syncs for _, syncs in rounds])):
        show(f"simulated_sites: {statistics.fmean(spent):.3f} s of {name} a round of {options.sites} sites")
    yield at_most("ledger_s_per_round", statistics.fmean(map(sum, rounds)), 0.5, "s")


def _round(
    ledgers: Sequence[Ledger], registers: Sequence[Register], group: GroupCommit, number: int
) -> tuple[float, float]:
    """Return CPU seconds of rows and seconds of syncs, for the three stages in which a site writes rows."""
    event = release_of(0, number, group="fresh")
    events = [replace(event, register_root_before=site.to_bytes(32, "big").hex()) for site in range(len(ledgers))]
    data = [one.canonical() for one in events]
    rows_s = syncs_s = 0.0
    receipts: list[Receipt] = []

    def reserve() -> None:
        receipts.extend(ledger.reserve(one) for ledger, one in zip(ledgers, data, strict=True))

    def leave() -> None:
        for ledger, register, receipt in zip(ledgers, registers, receipts, strict=True):
            register.follow(ledger.head, ledger.release(receipt, bytes(32)))

    def close() -> None:
        for ledger, receipt in zip(ledgers, receipts, strict=True):
            ledger.commit(receipt, "summed", range(10))

    for stage in (reserve, leave, close):
        start = time.process_time()
        stage()
        rows_s += time.process_time() - start
        start = time.perf_counter()
        group.sync()
        syncs_s += time.perf_counter() - start
    return rows_s, syncs_s


def _ledger(path: Path, holder: str, budget: Budget, asked: Guard, group: GroupCommit | None) -> Ledger:
    return Ledger.open(
        path,
        holder=holder,
        dataset_id=DATASET,
        budget=budget,
        guard=asked,
        signer=NOBODY,
        code_version="secure_frl 0.1.0",
        group=group,
    )


def _one_round(ledger: Ledger, event: GaussianSumEvent) -> None:
    receipt = ledger.reserve(event.canonical())
    ledger.release(receipt, bytes(32))
    ledger.commit(receipt, "summed", range(10))


PARTS: dict[str, Callable[[Options], Iterator[Figure]]] = {
    "guard": guard,
    "verify": verify,
    "simulated_sites": simulated_sites,
}


def figures(*, quick: bool) -> Iterator[Figure]:
    """Yield every figure of the books; quick: small sizes, as a smoke test."""
    options = QUICK if quick else Options()
    for part in PARTS.values():
        yield from part(options)


QUICK = Options(rounds=50, sites=20, repetitions=3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report."""
    return run(__doc__, PARTS, lambda chosen: QUICK if chosen.quick else Options(), arguments)


if __name__ == "__main__":
    sys.exit(main())
