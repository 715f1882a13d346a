"""Where the time of a round goes in the shipped study, and how much of it privacy takes.

Functions are wrapped by a clock that counts each one without what it calls of the others. Conservative: everything
that Opacus' samplers do counts as clipping, though without privacy a plain gradient would stand in its place; so does
adding up what came back to each step of a table, which a plain backward pass would do as well.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from figures import Figure, at_most, show
from utility_runs import Options, run_of, study_of

from secure_frl.federation import policy_keepers, simulation, site
from secure_frl.federation.simulated_patients import SimulatedPatients
from secure_frl.federation.training import Trainer
from secure_frl.masking.coordinator_epoch import EpochOpening
from secure_frl.masking.coordinator_states import MaskedSum, SumMachine
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.privacy.gram_gradients import GramGradients
from secure_frl.privacy.message_gradients import MessageGradients
from secure_frl.privacy.optimizer import IntegerNoiseOptimizer
from secure_frl.privacy.table_gradients import TableGradients
from secure_frl.records.journal import Journal
from secure_frl.records.ledger import Ledger
from secure_frl.records.register import Register, SessionStages

EPISODES, GRADIENTS, POLICY, VALUE, REST = "episodes", "plain gradients", "policy step", "exact value", "the rest"
CLIPPING, NOISE, MASKING, BOOKS = "clipping", "noise", "masking", "ledger, register and journal"
PRIVACY = (CLIPPING, NOISE, MASKING, BOOKS)
WRAPPED: tuple[tuple[Any, tuple[str, ...], str], ...] = (  # Any: a class, or a module that calls a function by name
    (SimulatedPatients, ("collect",), EPISODES),
    (Trainer, ("update",), GRADIENTS),
    (MessageGradients, ("_sample_embedding", "take"), CLIPPING),
    (GramGradients, ("take", "sum_clipped"), CLIPPING),
    (TableGradients, ("take_steps",), CLIPPING),
    (IntegerNoiseOptimizer, ("expect", "collect", "clip_and_accumulate", "clipped_sum"), CLIPPING),
    (IntegerNoiseOptimizer, ("add_noise",), NOISE),
    (site, ("to_ring_vector",), MASKING),
    (SiteProtocol, ("handle",), MASKING),
    (SumMachine, ("receive", "close_stage"), MASKING),
    (MaskedSum, ("outcome", "publish"), MASKING),
    (EpochOpening, ("receive", "close_stage"), MASKING),
    (Ledger, ("reserve", "release", "commit", "cancel"), BOOKS),
    (Register, ("admit", "follow", "participation_root"), BOOKS),
    (SessionStages, ("record", "note_epoch"), BOOKS),
    (Journal, ("begin_round", "publish_round", "sum_round", "lose_round", "open_epoch"), BOOKS),
    (site, ("step",), POLICY),
    (policy_keepers, ("step",), POLICY),
)


class Clock:
    """Wall seconds by stage, each without the stages inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[str] = []
        self._since = time.perf_counter()

    def _switch(self) -> None:
        now = time.perf_counter()
        self.seconds[self._inside[-1] if self._inside else REST] += now - self._since
        self._since = now

    def around(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:  # Any: whatever is wrapped
        """Return the function with its time counted as `stage`."""

        def timed(*arguments: Any, **named: Any) -> Any:
            self._switch()
            self._inside.append(stage)
            try:
                return function(*arguments, **named)
            finally:
                self._switch()
                self._inside.pop()

        return timed

    def stop(self) -> None:
        """Count what has passed since the last stage ended."""
        self._switch()


@contextmanager
def counted(clock: Clock) -> Iterator[None]:
    """Wrap every function of `WRAPPED`, and the exact value, while the block runs."""
    kept = []
    evaluate_state = simulation.evaluate_state
    for owner, names, stage in WRAPPED:
        for name in names:
            kept.append((owner, name, vars(owner)[name]))
            setattr(owner, name, clock.around(vars(owner)[name], stage))
    kept.append((simulation, "evaluate_state", evaluate_state))
    simulation.evaluate_state = lambda study: clock.around(evaluate_state(study), VALUE)
    try:
        yield
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


def figures(options: Options) -> Iterator[Figure]:
    """Measure one run of the shipped study, once without being looked at so that what is made on first use is made."""
    run_of(study_of("icu_sepsis/study.toml", {"study.seed": options.first, "training.rounds": 2}))
    clock = Clock()
    with counted(clock):
        result = run_of(study_of("icu_sepsis/study.toml", {"study.seed": options.first}))
    clock.stop()
    whole = sum(clock.seconds.values())
    for stage, seconds in sorted(clock.seconds.items(), key=lambda one: -one[1]):
        mark = "privacy" if stage in PRIVACY else ""
        show(f"{stage:32} {seconds / result.rounds_completed:8.3f} s a round {100 * seconds / whole:5.1f} %  {mark}")
    share = sum(clock.seconds[stage] for stage in PRIVACY) / whole
    yield at_most("privacy_share", share, 0.30, "of a run's time")
