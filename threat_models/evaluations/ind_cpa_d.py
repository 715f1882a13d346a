"""IND-CPA-D: the guarded worker lets out integers; the control lets out what TenSEAL decrypts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from secure_frl.ckks.requests import Op
from secure_frl.ckks.worker import Limits, Worker
from secure_frl.encoding.slots import GRID_BITS, SLOTS
from secure_frl.study import Study
from threat_models.adversaries.ind_cpa_d import THREAT, KeyFromDecryptions
from threat_models.evaluation import Effort, Task
from threat_models.lattices import Lattice, key_of, raw_reals
from threat_models.results import Bar, Cell, Kind
from threat_models.statistics import proportion
from threat_models.threat import CapturedView, View

RAW = "ckks, raw reals"  # the control: decrypted reals leave the worker
COLUMN = "ckks"
MESSAGE_BITS = 24  # of a slot: what a limb of a usual ring holds
LIMITS = Limits(1 << 30)
WHY = (
    "Two decryptions that keep their noise give the whole key away. Integers leave the worker and nothing else does; "
    "noise that a study adds to a sum is no part of that."
)


class KeyFromDecryptionsEvaluation:
    """D2."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study: it always does, for nothing of a study is in it."""
        return ""

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return one task: both columns have the same keys and ciphertexts."""
        return (Task(THREAT.name, (RAW, COLUMN), "ind_cpa_d", 6.0, measure, True),)


def measure(study: Study, effort: Effort) -> Iterator[Cell]:
    """Return the control and what the worker's integers give, over the same keys."""
    lattice, rng = Lattice(), effort.rng(THREAT.name)
    trials = effort.trials(12, 3)
    found: dict[str, list[NDArray[np.bool_]]] = {RAW: [], COLUMN: []}
    noise: dict[str, list[float]] = {RAW: [], COLUMN: []}
    with Worker(LIMITS) as maker:
        contexts = [maker.ask(Op.MAKE_KEY) for _ in range(trials)]
    for context in contexts:
        with Worker(LIMITS, context) as worker:
            half = 1 << (MESSAGE_BITS - 1)
            messages = [rng.integers(-half, half, SLOTS) for _ in range(2)]
            chunks = worker.ask_each(Op.ENCRYPT, (one.astype("<i8").tobytes() for one in messages))
            left = [np.frombuffer(one, "<i8") for one in worker.ask_each(Op.DECRYPT, chunks)]
        opened: dict[str, Callable[[int], NDArray[np.float64]]] = {
            RAW: lambda number, context=context, chunks=chunks: raw_reals(context, chunks[number]),  # type: ignore[misc]
            COLUMN: lambda number, left=left: left[number] * 2.0**-GRID_BITS,  # type: ignore[misc]
        }
        for column, reals_of in opened.items():
            reals = [reals_of(number) for number in range(2)]
            steps = np.concatenate(reals) * 2.0**GRID_BITS - np.concatenate(messages)
            noise[column].append(float(np.sqrt(np.mean(steps**2))))
            guess = KeyFromDecryptions().run(_view(lattice, chunks, reals))
            found[column].append(guess["key"] == key_of(context))
    for column, recovered in found.items():
        yield _cell(column, recovered, float(np.mean(noise[column])), effort)


def _view(lattice: Lattice, chunks: list[bytes], reals: list[NDArray[np.float64]]) -> CapturedView:
    memory = {"modulus": lattice.modulus.to_bytes(8, "big")}
    for number, (chunk, values) in enumerate(zip(chunks, reals, strict=True)):
        start, slope = lattice.polynomials(chunk)
        for name, words in (("c0", start), ("c1", slope), ("opened", lattice.encoded(2 * values))):
            memory[f"{name}/{number}"] = words.astype("<u8").tobytes()
    return CapturedView(View.COORDINATOR, (), (), {}, {}, {}, memory)


def _cell(column: str, recovered: list[NDArray[np.bool_]], noise: float, effort: Effort) -> Cell:
    whole = sum(bool(one.all()) for one in recovered)
    low, high = proportion(whole, len(recovered))
    is_control = column == RAW
    return Cell(
        attack=THREAT.name,
        defence=column,
        kind=Kind.CONTROL if is_control else Kind.DEFENDED,
        metric="keys recovered whole",
        value=whole / len(recovered),
        low=low,
        high=high,
        n=len(recovered),
        view=str(View.COORDINATOR),
        bars=(Bar(at_least=1.0),) if is_control else (Bar(at_most=0.0), Bar("words", at_most=0.0)),
        nulls={"uniform": 0.0},
        figures={"words": float(np.mean(recovered)), "noise_steps": noise},
        sentence=WHY,
        seeds=(effort.seed,),
    )
