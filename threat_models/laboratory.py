"""Studies under attack, run in rehearsal through everything that a real run goes through: books, keys, wire, capture.

What is swapped is named here: whose people a site meets, which class a party is of, and what a coordinator makes of
sums. Noise, masks and keys are the production code's with a rehearsal's source. No record of a living person ever
comes here: a study of logged data is refused.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.ckks.epoch_cipher import SiteWorkers
from secure_frl.ckks.worker import Worker
from secure_frl.errors import BudgetExhausted, InvalidParameter, StudyStopped, UnexpectedState
from secure_frl.federation import simulation
from secure_frl.federation.blind_site import BlindStudySite
from secure_frl.federation.enrolment import open_all_sites
from secure_frl.federation.run_folder import RunOptions
from secure_frl.federation.simulated_patients import PatientSource
from secure_frl.federation.site import SiteParts, StudySite
from secure_frl.federation.training_state import TrainingState
from secure_frl.learning.acting import Acting
from secure_frl.learning.trajectories import Trajectories
from secure_frl.masking.contexts import ENCRYPTED
from secure_frl.secure_sum import RingVector, RoundContext, Sum
from secure_frl.study import Study
from secure_frl.wire.capture import Captured, read_capture
from threat_models.decoding import centred
from threat_models.threat import CapturedView, Summed, Vector, View
from threat_models.truth import Truth

_MEMORY = "/dev/shm"  # noqa: S108  # of Linux; a folder of its own is made in it
_ROOM = 2**31  # bytes free there; a container may have next to none

Around = Callable[[PatientSource, int], PatientSource]  # (a site's own source, the site) -> what it meets instead
SiteClass = type[StudySite]


@dataclass(slots=True)
class Memory:
    """What honest parties hold, by round: kept apart, and handed to a role only by `view_of`."""

    sums: dict[int, Summed] = field(default_factory=dict)
    policies: dict[int, Vector] = field(default_factory=dict)
    following: dict[int, Vector] = field(default_factory=dict)  # what a round's sum gave; the last of them is released
    secrets: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recording:
    """One run: what the wires carried, what parties hold, and the truth."""

    study: Study
    frames: tuple[Captured, ...] = field(repr=False)
    memory: Memory = field(repr=False)
    truth: Truth = field(repr=False)
    rounds: int  # that gave a sum
    refusals: tuple[str, ...]  # names of what honest sites refused, in order
    stopped: str = ""  # why the run ended before its last round


class Witness:
    """Writes down what goes on at the honest sites of one run."""

    def __init__(self) -> None:
        self.memory, self.truth = Memory(), Truth()
        self.refusals: list[str] = []
        self.has_checked = False

    def note_policy(self, round_number: int, parameters: Vector) -> None:
        """Note the policy that a round's people met."""
        self.memory.policies[round_number] = parameters.copy()

    def note_following(self, state: TrainingState) -> None:
        """Note the policy that a sum gave."""
        self.memory.following[state.round] = state.parameters.copy()

    def note_update(self, round_number: int, site: int, integers: NDArray[np.int64]) -> None:
        """Note what a site put into a round, before masks."""
        self.truth.updates[round_number, site] = integers

    def note_key(self, context: bytes) -> None:
        """Note a secret context of CKKS, which every site of its epoch holds, under its id."""
        self.memory.secrets[f"key/{hashlib.sha256(context).hexdigest()}"] = context

    def note_sum(self, round_number: int, total: Sum) -> None:
        """Note a sum as every site reads it."""
        self.memory.sums[round_number] = Summed(total.integers.copy(), tuple(map(int, total.contributors)))


class WatchedWorkers(SiteWorkers):
    """Workers of sites, with each key that they are given written down."""

    def __init__(self, workers: SiteWorkers, witness: Witness) -> None:
        self._workers, self._witness = workers, witness

    def fresh(self) -> Worker:
        """Return what the workers do."""
        return self._workers.fresh()

    def holding(self, context: bytes) -> Worker:
        """Return what the workers do, once the key is written down."""
        self._witness.note_key(context)
        return self._workers.holding(context)

    def close(self) -> None:
        """End the worker."""
        self._workers.close()


class WatchedPatients:
    """A source of patients whose windows are written down as truth."""

    def __init__(self, source: PatientSource, site: int, truth: Truth) -> None:
        self._source, self._site, self._truth = source, site, truth

    def probe(self) -> Trajectories:
        """Return what the source does."""
        return self._source.probe()

    def records(self) -> Trajectories | None:
        """Return what the source does."""
        return self._source.records()

    def collect(self, acting: Acting, context: RoundContext) -> Trajectories:
        """Return what the source does, once it is written down."""
        found = self._source.collect(acting, context)
        self._truth.trajectories[context.round, self._site] = found
        return found


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder of one rehearsal, in memory where the system has such a place and TMPDIR names no other.

    Books are synced at every move, which a disk takes longer for than all of the arithmetic; these end with the folder.
    """
    is_there = "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK)
    memory = _MEMORY if is_there and shutil.disk_usage(_MEMORY).free >= _ROOM else None
    return tempfile.TemporaryDirectory(prefix="secure-frl-attack-", dir=memory)


def rehearse(
    study: Study,
    *,
    around: Around = lambda source, site: source,
    sites: Mapping[int, SiteClass] | None = None,
    make_keeper: Any = None,  # Any: simulation.MakeKeeper, or None for an honest coordinator
    may_stop: bool = False,
) -> Recording:
    """Run a study once, in a folder that is gone afterwards, and return what was seen.

    around: whose people each site meets. sites: classes of parties that are not honest, by site; each takes
    (SiteParts), or (SiteParts, SiteWorkers) under the ckks methods. make_keeper: of a malicious coordinator.
    may_stop: where honest parties may end the run, for their refusal is what is looked at; the recording then holds
    what there was until then. Everywhere else an attack that got nothing, since there was nothing, would read as safe.
    Raises InvalidParameter for a study of logged data, UnexpectedState for a run that stopped or gave no sum unless it
    may, and what `secure_frl.run` raises but StudyStopped and BudgetExhausted.
    """
    if study.is_logged:
        raise InvalidParameter("expected simulated patients, got records. Attacks run in rehearsals only.")
    witness = Witness()
    build = partial(_build, witness, around, dict(sites or {}))
    honest = partial(simulation.keeper_of, evaluate=lambda state: {})  # nobody looks at the policy's worth
    stopped, rounds = "", 0
    with scratch_folder() as folder:
        capture = Path(folder) / "capture"
        try:
            result = simulation.run(
                study,
                Path(folder) / "run",
                RunOptions(rehearse=True, capture=capture),
                open_sites=partial(open_all_sites, build=build),
                make_keeper=make_keeper or honest,
            )
            rounds = result.rounds_completed
        except (StudyStopped, BudgetExhausted) as error:
            stopped = str(error)
            rounds = len(witness.memory.sums)
        frames = tuple(read_capture(capture))
    if not may_stop and (stopped or not rounds):
        answers = ", ".join(f"{count} {name}" for name, count in Counter(witness.refusals).most_common()) or "none"
        raise UnexpectedState(
            f"expected {study.training.rounds} rounds, it stopped with {rounds} sums: {stopped or 'no sum'} Refusals "
            f"that sites answered: {answers}. See why, or pass may_stop where a refusal is what is measured."
        )
    return Recording(study, frames, witness.memory, witness.truth, rounds, tuple(witness.refusals), stopped)


def view_of(recording: Recording, role: View, controlled: tuple[int, ...] = ()) -> CapturedView:
    """Return what one role has of a recording. controlled: the sites that the role is, or pools with."""
    is_blind = recording.study.protection.method in ENCRYPTED
    frames, memory = recording.frames, recording.memory
    own = {key: value for key, value in recording.truth.updates.items() if key[1] in controlled}
    if role is View.NETWORK:
        return CapturedView(role, (), frames, {}, {}, {}, {})
    if role is View.POLICY_USER:
        last = max(memory.following)
        return CapturedView(role, (), (), {}, {last + 1: memory.following[last]}, {}, {})
    if role is View.COORDINATOR and not controlled:
        may_read = not is_blind
        sums, policies = (memory.sums, memory.policies) if may_read else ({}, {})
        return CapturedView(role, (), frames, sums, policies, {}, {})
    if not controlled:
        raise InvalidParameter(f"expected the sites that {role} controls, got none. Name at least one.")
    if role is View.SITE:
        frames = tuple(item for item in frames if item.site in controlled)
    return CapturedView(role, controlled, frames, memory.sums, memory.policies, own, memory.secrets)


def _build(
    witness: Witness,
    around: Around,
    classes: Mapping[int, SiteClass],
    parts: SiteParts,
    workers: SiteWorkers | None,
) -> StudySite:
    """Make one site: honest unless its class is named, and watched in any case."""
    site = int(parts.me)
    patients = WatchedPatients(around(parts.patients, site), site, witness.truth)
    kind = classes.get(site, StudySite if workers is None else BlindStudySite)
    made = replace(parts, patients=patients)
    watched = _watched(kind, witness)
    opened: StudySite = watched(made) if workers is None else watched(made, WatchedWorkers(workers, witness))
    return opened


def _watched(kind: SiteClass, witness: Witness) -> Any:  # Any: a class with the constructor of `kind`
    class Watched(kind):  # type: ignore[valid-type,misc]  # mypy knows no class made of a variable
        """A site that a witness looks at."""

        def _check_before_joining(self) -> None:
            if not witness.has_checked:  # all sites run one program on one study: what holds at one holds at each
                super()._check_before_joining()
                witness.has_checked = True

        def contribute(self, context: RoundContext) -> RingVector:
            witness.note_policy(context.round, self.state.parameters)
            vector: RingVector = super().contribute(context)
            integers = centred(vector.words, vector.modulus_bits)[2:-2]
            witness.note_update(context.round, int(self._parts.me), integers)
            self._round = context.round
            return vector

        def next_tag(self, total: Sum) -> bytes:
            witness.note_sum(self._round, total)
            found: bytes = super().next_tag(total)
            return found

        def close(self, outcome: str) -> None:
            super().close(outcome)
            if outcome == "summed":
                witness.note_following(self.state)

        def _refused(self, name: str, text: str) -> None:
            witness.refusals.append(name)
            super()._refused(name, text)

    Watched.__name__ = f"Watched{kind.__name__}"
    return Watched
