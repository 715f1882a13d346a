"""What the coordinator keeps of the policy between rounds: the policy, or a tag and a parcel that only sites open.

`OpenKeeper` (masking) reads the sum, steps the policy, evaluates it and announces what follows. `BlindKeeper` (ckks and
ckks+masking) publishes an encrypted sum and goes on with the tag that enough sites answer: `threshold` of them, for two
different tags cannot both have so many while at most `max_colluders` sites lie (2t > n + c).

A crash may leave a sum published whose tag is unknown here. Then the next epoch's opening settles it: every site states
which policy it holds, and one that more than `max_colluders` sites made of that sum is the next.

A parcel cannot be checked here, and who wrote it may lie. So each epoch in which a site lacks the policy begins with a
parcel of another writer: bad ones keep a site out for as many epochs at most as there are liars.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from secure_frl.ckks.coordinator_epoch import BlindEpoch, BlindEpochOpening, PolicyFetching
from secure_frl.ckks.coordinator_states import CkksSum, blind_sum
from secure_frl.ckks.encrypted_sum import EncryptedSum
from secure_frl.ckks.worker import Worker
from secure_frl.errors import StudyStopped, UnexpectedState
from secure_frl.federation.evaluation import Evaluate
from secure_frl.federation.optimisers import OptimiserRule, released_figures, step
from secure_frl.federation.training_state import TrainingState
from secure_frl.masking.contexts import chunk_plan, model_tag
from secure_frl.masking.coordinator_epoch import CoordinatorEpoch, EpochOpening
from secure_frl.masking.coordinator_states import MaskedSum, SumMachine
from secure_frl.records.journal import Journal
from secure_frl.secure_sum import Addressed, RandomSource, SiteId, SumTerms

TAGS_DIFFER = "TagsDiffer"  # why a round is lost whose sum too few sites turned into the same policy


class Drivable(Protocol):
    """What can be carried stage by stage: a sum, an epoch's opening, a request for the policy."""

    def requests(self) -> Iterator[Addressed]:
        """Yield the frames of the stage in progress."""
        ...

    def receive(self, site: SiteId, frame: bytes) -> None:
        """Take one reply."""
        ...

    def close_stage(self) -> None:
        """End the stage."""
        ...


Drive = Callable[[Drivable], None]


@dataclass(frozen=True, slots=True)
class Concluded:
    """How a published sum ended."""

    is_summed: bool
    state: TrainingState | None  # the policy that follows; None where only sites know it
    shown: Mapping[str, float]  # its figures, as far as they are known here


class PolicyKeeper(Protocol):
    """One of the two, for the whole study."""

    def opening(self, opening: EpochOpening) -> EpochOpening | BlindEpochOpening:
        """Return how an epoch is opened. opening: masking's, not begun."""
        ...

    def opened(self, opening: EpochOpening | BlindEpochOpening, drive: Drive) -> CoordinatorEpoch:
        """Take a finished opening. Raises StudyStopped when the sites' policies leave no way on."""
        ...

    def machine(self, epoch: CoordinatorEpoch, number: int, attempt: int, cohort: tuple[SiteId, ...]) -> SumMachine:
        """Return one attempt at a round."""
        ...

    def conclude(self, machine: SumMachine, drive: Drive, details: Mapping[str, object]) -> Concluded | None:
        """Publish a finished sum and write its outcome down; None when that waits for the next epoch's opening."""
        ...

    def close(self) -> None:
        """Let go of what was opened."""
        ...


@dataclass(slots=True, eq=False)
class Ties:
    """What a keeper works with."""

    terms: SumTerms
    names: tuple[str, ...]
    journal: Journal
    random: RandomSource
    log: logging.Logger


class OpenKeeper:
    """The policy, in the coordinator's hands."""

    def __init__(self, ties: Ties, first: TrainingState, rule: OptimiserRule, evaluate: Evaluate) -> None:
        """first: as it follows from the charter; used when the journal is new."""
        self._ties, self._rule, self._evaluate = ties, rule, evaluate
        journal = ties.journal
        if not journal.is_started:
            content = first.to_bytes()
            journal.start(model_tag(content), content)
        point = journal.resume_point()
        self._state = TrainingState.from_bytes(point.model)
        # Sites that acknowledged the last policy need no copy of it; after a restart nobody is known to have it.
        everybody = frozenset(map(SiteId, range(len(ties.names))))
        self._up_to_date = frozenset() if point.last_closed_round else everybody

    def opening(self, opening: EpochOpening) -> EpochOpening:
        """Return it as it is."""
        return opening

    def opened(self, opening: EpochOpening | BlindEpochOpening, drive: Drive) -> CoordinatorEpoch:
        """Return the epoch."""
        epoch = opening.outcome()
        return epoch.epoch if isinstance(epoch, BlindEpoch) else epoch

    def machine(self, epoch: CoordinatorEpoch, number: int, attempt: int, cohort: tuple[SiteId, ...]) -> SumMachine:
        """Return one attempt at a masked sum."""
        content = self._state.to_bytes()
        models = {site: None if site in self._up_to_date else content for site in cohort}
        ties = self._ties
        return MaskedSum(ties.terms, epoch, number, attempt, cohort, model_tag(content), models, ties.random)

    def conclude(self, machine: SumMachine, drive: Drive, details: Mapping[str, object]) -> Concluded:
        """Step the policy, write both down, then tell the cohort."""
        if not isinstance(machine, MaskedSum):
            raise UnexpectedState("expected a masked sum, got another. Report this.")
        total, ties = machine.outcome(), self._ties
        following = step(self._state, total, self._rule)
        content = following.to_bytes()
        tag = model_tag(content)
        shown = {**self._evaluate(following), **released_figures(following, total, self._rule)}
        survivors = [ties.names[site] for site in total.contributors]
        ties.journal.sum_round(survivors, tag, content, {**details, "shown": dict(shown)})
        machine.publish(tag)
        drive(machine)
        self._up_to_date = frozenset(machine.followers)
        self._state = following
        return Concluded(True, following, shown)

    def close(self) -> None:
        """Nothing is open."""


class BlindKeeper:
    """A tag and a parcel; the policy is the sites'."""

    def __init__(self, ties: Ties, worker: Worker) -> None:
        """worker: adds ciphertexts; it never holds a key. The keeper closes it."""
        self._ties, self._worker = ties, worker
        self._plan = chunk_plan(ties.terms.constants)
        self._key_id = b""
        self._up_to_date: frozenset[SiteId] = frozenset()
        self._turn = ties.journal.last_epoch  # whose parcel is asked for first; a restart goes on with the next one

    def opening(self, opening: EpochOpening) -> BlindEpochOpening:
        """Return the opening with the steward's packages after it."""
        return BlindEpochOpening(opening, self._ties.terms)

    def opened(self, opening: EpochOpening | BlindEpochOpening, drive: Drive) -> CoordinatorEpoch:
        """Learn which policy the sites hold, and settle a published sum by it."""
        blind = opening.outcome()
        if not isinstance(blind, BlindEpoch):
            raise UnexpectedState("expected an epoch with a key, got one without. Report this.")
        self._key_id = blind.key_id
        journal, counts = self._ties.journal, Counter(blind.tags.values())
        if not journal.is_started:
            tag, count = counts.most_common(1)[0]
            self._require(count, "the first policy")
            journal.start(tag, b"")
        self._settle(counts)
        held = journal.resume_point().tag
        self._up_to_date = frozenset(site for site, tag in blind.tags.items() if tag == held)
        if len(self._up_to_date) < len(blind.tags):
            self._turn += 1
            parcel = self._parcel(blind.epoch, held, sorted(self._up_to_date), self._turn, drive)
            if parcel:
                journal.keep_parcel(parcel)
        return blind.epoch

    def _settle(self, counts: Counter[bytes]) -> None:
        """Close a round whose sum was published and whose tag is not written down."""
        journal = self._ties.journal
        published = journal.published_round
        if published is None:
            return
        passed = {one.policy_tag for one in journal.rounds()}  # a site that lags behind may hold any of them
        newer = {tag: count for tag, count in counts.items() if tag not in passed}
        tag, count = max(newer.items(), key=lambda item: item[1], default=(b"", 0))
        if count > self._ties.terms.constants.max_colluders:
            journal.sum_round(published.survivors, tag, b"")  # who lacks the policy gets a parcel next
        else:
            journal.lose_round(TAGS_DIFFER)

    def machine(self, epoch: CoordinatorEpoch, number: int, attempt: int, cohort: tuple[SiteId, ...]) -> SumMachine:
        """Return one attempt at an encrypted sum."""
        ties = self._ties
        point = ties.journal.resume_point()
        models = {site: None if site in self._up_to_date else point.model or None for site in cohort}
        encrypted = EncryptedSum(self._plan, self._key_id, self._worker)
        kind = blind_sum(ties.terms.constants.protection)
        return kind(ties.terms, epoch, number, attempt, cohort, point.tag, models, ties.random, encrypted)

    def conclude(self, machine: SumMachine, drive: Drive, details: Mapping[str, object]) -> Concluded | None:
        """Publish the encrypted sum, go on with the tag that enough sites answer, and store that policy's parcel."""
        if not isinstance(machine, CkksSum):
            raise UnexpectedState("expected an encrypted sum, got another. Report this.")
        ties, total = self._ties, machine.outcome()
        survivors = [ties.names[site] for site in total.contributors]
        ties.journal.publish_round(survivors, dict(details))
        machine.publish()
        drive(machine)
        followers = machine.followers
        tag, count = max(Counter(followers.values()).items(), key=lambda item: item[1], default=(b"", 0))
        if count < ties.terms.constants.threshold:
            ties.log.warning("round %d: at most %d sites follow to one policy", machine.context.round, count)
            return None
        holders = [site for site, found in followers.items() if found == tag]
        for site in followers:
            if site not in holders:
                ties.log.warning("round %d: %s follows to another policy", machine.context.round, ties.names[site])
        parcel = self._parcel(machine.epoch, tag, holders, machine.context.round, drive)
        ties.journal.sum_round(survivors, tag, parcel)
        self._up_to_date = frozenset(holders)
        return Concluded(True, None, {})

    def _parcel(self, epoch: CoordinatorEpoch, tag: bytes, holders: list[SiteId], turn: int, drive: Drive) -> bytes:
        """Return the sealed policy of a tag, empty when none of its holders hands it over.

        turn: which of them is asked first, modulo their number.
        """
        first = turn % max(1, len(holders))
        fetching = PolicyFetching(self._ties.terms, epoch, tag, holders[first:] + holders[:first])
        drive(fetching)
        if fetching.giver is not None:
            self._ties.log.info("epoch %d: %s hands the policy over", epoch.epoch, self._ties.names[fetching.giver])
        return fetching.parcel or b""

    def _require(self, count: int, what: str) -> None:
        least = self._ties.terms.constants.threshold
        if count < least:
            raise StudyStopped(
                f"expected {least} sites with the same tag of {what}, got {count}. Compare versions between the sites, "
                "then `secure-frl resume`."
            )

    def close(self) -> None:
        """End the worker."""
        self._worker.close()
