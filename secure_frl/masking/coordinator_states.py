"""The coordinator's half of protocol v1: one attempt at one round, one table of (state, message) -> handler.

Speaks as the coordinator: bytes in, bytes out; no clock, socket or file. A deadline is whoever calls close_stage().
`excluded` names each site that is out with its error, a refusal under its code, so that a driver can tell an exhausted
budget from a broken peer.
Source: docs/protocol.md, sections 11 to 13.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from secure_frl.errors import InvalidParameter, PeerError, RoundAborted, UnexpectedMessage, UnexpectedState
from secure_frl.masking import coordinator_stages as stages
from secure_frl.masking.contexts import attempt_context, check_constants, config_hash, is_cohort_size
from secure_frl.masking.coordinator_epoch import CoordinatorEpoch, EpochOpening
from secure_frl.masking.coordinator_memory import (
    Aborted,
    AskingConfirmations,
    AskingInputs,
    AskingKeys,
    AskingShares,
    AttemptView,
    Published,
    Publishing,
    Summed,
)
from secure_frl.masking.coordinator_requests import requests_of
from secure_frl.masking.correspondence import Correspondence
from secure_frl.masking.graph import graph_of
from secure_frl.masking.keys import SECRET_BYTES, points
from secure_frl.masking.neighbourhoods import Neighbourhoods, PairTable
from secure_frl.masking.next_attempt import next_cohort
from secure_frl.masking.prg import mask_adder
from secure_frl.secure_sum import Addressed, BlindSum, CipherSum, RandomSource, RoundContext, SiteId, Sum, SumTerms
from secure_frl.wire.messages import MessageType
from secure_frl.wire.records import DEALT_BYTES

__all__ = ["CoordinatorEpoch", "EpochOpening", "MaskedSum", "SumMachine"]

TABLE: dict[tuple[type[Any], MessageType], Callable[..., None]] = {  # Any: state types differ from row to row
    (AskingKeys, MessageType.R1): stages.take_keys,
    (AskingInputs, MessageType.R2): stages.take_input,
    (AskingInputs, MessageType.BAD_SHARE): stages.take_complaint,
    (AskingConfirmations, MessageType.R3B): stages.take_confirmations,
    (AskingShares, MessageType.R4): stages.take_shares,
    (Publishing, MessageType.R5_REPLY): stages.take_acknowledgement,
}
CLOSINGS: dict[type[Any], Callable[..., object]] = {
    AskingKeys: stages.close_keys,
    AskingInputs: stages.close_inputs,
    AskingConfirmations: stages.close_confirmations,
    AskingShares: stages.close_shares,
    Publishing: stages.close_publication,
}


class SumMachine:
    """What the protections share: one attempt, stage by stage. A subclass says how it begins and what each stage does.

    The states are those of its tables; `Summed`, `Publishing`, `Published` and `Aborted` are common to all.
    """

    table: ClassVar[Mapping[tuple[type[Any], MessageType], Callable[..., None]]]
    closings: ClassVar[Mapping[type[Any], Callable[..., object]]]

    def __init__(
        self,
        terms: SumTerms,
        coordinator_epoch: CoordinatorEpoch,
        round: int,
        attempt: int,
        cohort: Sequence[SiteId],
        policy_tag: bytes,
        models: Mapping[SiteId, bytes | None],
        random: RandomSource,
        encrypted: CipherSum | None = None,
    ) -> None:
        """cohort: ascending, members of the epoch. models: the policy's bytes for each site that lacks it.

        encrypted: an empty sum under the epoch's key, where inputs are ciphertexts.

        Raises InvalidParameter, or LocalProtocolError for an attempt that is not newer than the last one.
        """
        check_constants(terms.constants)
        sites, epoch = tuple(cohort), coordinator_epoch
        is_cohort = list(sites) == sorted(set(sites) & set(epoch.members))
        if not is_cohort or not is_cohort_size(len(sites), terms.constants) or len(policy_tag) != 32 or attempt < 0:
            raise InvalidParameter(
                f"expected {terms.constants.min_survivors} to {terms.constants.sites} members of the epoch, ascending, "
                f"in cross_device exactly {terms.constants.sites}, a tag of 32 bytes and an attempt >= 0, got "
                f"{len(sites)} sites and attempt={attempt}. Fix the call."
            )
        epoch.begin_attempt(round, attempt, terms.epoch_rounds)
        context = RoundContext(
            session=terms.session,
            epoch_hash=epoch.epoch_hash,
            config_hash=config_hash(terms.constants),
            epoch=epoch.epoch,
            round=round,
            attempt=attempt,
            policy_tag=policy_tag,
            cohort=sites,
        )
        graph = graph_of(terms.constants, epoch.epoch_hash, round, attempt, sites)
        near = Neighbourhoods.of(graph)
        ctx1 = attempt_context(terms.session, epoch.epoch_hash, round, attempt, sites)
        view = AttemptView(
            terms=terms,
            epoch=epoch,
            context=context,
            graph=graph,
            near=near,
            ctx1=ctx1,
            fresh=random.take(SECRET_BYTES),
            masks=mask_adder(terms.constants),
            models=dict(models),
            fresh_of={},
            encrypted=encrypted,
        )
        self._view = view
        self._letters = Correspondence(terms, (epoch.epoch, round, attempt), self._again)
        self._letters.begin_stage(sites)
        self._state = self._begin(view)
        self._joined: tuple[SiteId, ...] = ()
        self._complaints: dict[SiteId, tuple[SiteId, ...]] = {}
        self._answered: frozenset[SiteId] = frozenset()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(round={self._view.context.round}, state={self.state_name})"

    def _begin(self, view: AttemptView) -> object:
        """Return the first state."""
        raise NotImplementedError

    def _requests_of(self, sites: Iterable[SiteId]) -> Iterator[Addressed]:
        """Yield the present stage's frame to each of the sites; the same bytes when called twice."""
        raise NotImplementedError

    # --- stage by stage

    def requests(self) -> Iterator[Addressed]:
        """Yield the frames of the stage in progress for the sites that have not answered; nothing when done."""
        for site, frame in self._requests_of(self._letters.awaiting):
            yield site, self._letters.sent(site, frame)

    def _again(self, site: SiteId) -> bytes:
        return next(frame for _, frame in self._requests_of([site]))

    def receive(self, site: SiteId, reply: bytes) -> None:
        """Fold one reply in at once. Raises PeerError, which excludes this site only and leaves the stage as it was."""
        if self._letters.is_repetition(site, reply):
            ctx2 = getattr(self._state, "ctx2", b"")  # of the stages in which inputs come, or came last
            if ctx2:
                stages.check_copy(self._view, ctx2, site, reply)
            return
        try:
            header = self._letters.check_header(site, reply)
            handler = self.table.get((type(self._state), MessageType(header.type)))
            known = self._view.fresh_of.get(site, header.fresh)
            if handler is None or header.fresh != known:
                raise UnexpectedMessage(
                    f"expected the answer to {self.state_name} from site {site}, got type {header.type}. Drop it."
                )
            handler(self._state, site, header, reply)
        except PeerError as error:
            self._letters.exclude(site, error)
            raise
        self._letters.accept(site, reply)

    def close_stage(self) -> None:
        """End the stage: the silent drop out. Raises RoundAborted, after which there is no sum, or UnexpectedState."""
        state = self._state
        close = self.closings.get(type(state))
        if close is None:
            raise UnexpectedState(
                f"expected a stage in progress, got {self.state_name}. Take the outcome, or publish it."
            )
        try:
            self._state = close(state)
        except RoundAborted:
            self._answered = self._letters.answered | frozenset(self._complaints)
            self._state = Aborted()
            self._letters.begin_stage(())
            raise
        self._letters.begin_stage(self._asked_next())

    def _asked_next(self) -> Iterable[SiteId]:
        state = self._state
        if isinstance(state, AskingInputs):
            self._joined, self._complaints = tuple(state.members), state.complaints
            return state.members
        if isinstance(state, AskingConfirmations):
            return state.survivors
        if isinstance(state, AskingShares):
            return state.confirmed
        return ()

    def outcome(self) -> Sum | BlindSum:
        """Return the sum. Raises UnexpectedState until there is one."""
        return self._summed().total

    def _begin_publication(self, next_tag: bytes) -> None:
        """Begin the last stage. next_tag: empty where only sites can know it."""
        state = self._state
        if not isinstance(state, Summed):
            raise UnexpectedState(f"expected a sum, got {self.state_name}. Close the stages first.")
        self._state = Publishing(state.view, state, next_tag, {})
        refused = set(self.refusals) - set(self._joined)  # a site that refused R0 is not in the attempt
        self._letters.begin_publication(site for site in state.view.context.cohort if site not in refused)

    # --- what a driver may ask

    @property
    def context(self) -> RoundContext:
        """Return round, attempt and cohort, with the hashes that enter every key."""
        return self._view.context

    @property
    def epoch(self) -> CoordinatorEpoch:
        """Return the epoch that the attempt is in."""
        return self._view.epoch

    @property
    def state_name(self) -> str:
        """Return the name of the present state."""
        return type(self._state).__name__

    @property
    def awaiting(self) -> tuple[SiteId, ...]:
        """Return the sites whose answer this stage still lacks."""
        return self._letters.awaiting

    @property
    def excluded(self) -> Mapping[SiteId, str]:
        """Return the sites that are out, with the name of their error; a refusal under the name of its code."""
        return self._letters.excluded

    @property
    def refusals(self) -> Mapping[SiteId, str]:
        """Return the codes of the sites that refused."""
        return self._letters.refusals

    @property
    def complaints(self) -> Mapping[SiteId, tuple[SiteId, ...]]:
        """Return who blamed which dealers."""
        return dict(self._complaints)

    @property
    def next_cohort(self) -> tuple[SiteId, ...] | None:
        """Return whom attempt + 1 of this round may ask; None unless it aborted, with hope, before R3a left."""
        view = self._view
        if not isinstance(self._state, Aborted) or view.epoch.survivors_named_in >= view.context.round:
            return None
        constants, members = view.terms.constants, view.epoch.members
        return next_cohort(view.context.cohort, self._answered, self._complaints, members, constants)

    @property
    def survivors(self) -> tuple[SiteId, ...]:
        """Return U3. Raises UnexpectedState before it is fixed, and after an abort."""
        state = self._state
        if isinstance(state, AskingConfirmations | AskingShares | Summed):
            return state.survivors
        return self._summed().survivors

    @property
    def transcript_hash(self) -> bytes:
        """Return the hash of all that decided the sum. Raises UnexpectedState until there is one."""
        return self._summed().transcript_hash

    @property
    def sum_digest(self) -> bytes:
        """Return SHA-256 of the published bytes. Raises UnexpectedState until there is a sum."""
        return hashlib.sha256(self._summed().total_bytes).digest()

    @property
    def followers(self) -> Mapping[SiteId, bytes]:
        """Return the tag of the policy that each site followed to, ascending: the others will need its bytes."""
        state = self._state
        return dict(sorted(state.followers.items())) if isinstance(state, Publishing | Published) else {}

    def _summed(self) -> Summed:
        state = self._state
        if isinstance(state, Summed):
            return state
        if isinstance(state, Publishing | Published):
            return state.summed
        raise UnexpectedState(f"expected a finished sum, got {self.state_name}. Close the stages first.")


class MaskedSum(SumMachine):
    """The protection `masking` and its control `unsafe-plain`."""

    table = TABLE
    closings = CLOSINGS

    def _begin(self, view: AttemptView) -> object:
        return AskingKeys(view, {}, PairTable(view.near, DEALT_BYTES), set(points(view.epoch.public_keys)))

    def _requests_of(self, sites: Iterable[SiteId]) -> Iterator[Addressed]:
        return requests_of(self._state, sites)

    def outcome(self) -> Sum:
        """Return the sum. Raises UnexpectedState until there is one."""
        total = super().outcome()
        if not isinstance(total, Sum):
            raise UnexpectedState("expected a sum that can be read, got an encrypted one. Report this.")
        return total

    def publish(self, next_tag: bytes) -> None:
        """Begin the last stage: the sum and the tag of the policy that follows from it go to the cohort."""
        if len(next_tag) != 32:
            raise UnexpectedState(f"expected a tag of 32 bytes, got {len(next_tag)}. Pass the next policy's tag.")
        self._begin_publication(next_tag)
