"""The coordinator's half of an epoch whose sums are encrypted: masking's opening, then the steward's packages.

It asks the steward for one package a site, passes them on, and reads none of them. What it learns is the key's id and,
from each site, the tag of the policy that it holds.
Source: docs/protocol.md, section 18.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from secure_frl.errors import (
    KeyRefused,
    LateMessage,
    PeerError,
    StewardMissing,
    TooFewSurvivors,
    UnexpectedMessage,
    UnexpectedState,
)
from secure_frl.masking.coordinator_epoch import CoordinatorEpoch, EpochOpening
from secure_frl.masking.correspondence import Correspondence
from secure_frl.secure_sum import COORDINATOR_ID, Addressed, SiteId, SumTerms
from secure_frl.wire.envelope import EMPTY_32, Address, cut, sign_frame, verify_frame
from secure_frl.wire.messages import (
    Body,
    KeyAck,
    MessageType,
    PackageDelivery,
    PackageRequest,
    Packages,
    PolicyParcel,
    PolicyRequest,
    decode_body,
    encode_body,
)
from secure_frl.wire.signatures import SIGNATURE_BYTES


@dataclass(frozen=True, slots=True, eq=False)
class BlindEpoch:
    """An epoch whose key the coordinator does not have."""

    epoch: CoordinatorEpoch  # its members hold the key
    key_id: bytes
    tags: Mapping[SiteId, bytes]  # of the policy that each member holds


@dataclass(slots=True, eq=False)
class _Packed:
    """What the steward sent, and who has taken its package so far."""

    steward: SiteId
    key_id: bytes
    packages: dict[SiteId, bytes] = field(repr=False)
    tags: dict[SiteId, bytes]


@dataclass(slots=True, eq=False)
class _AskingSteward:
    epoch: CoordinatorEpoch
    others: list[SiteId]  # who may be asked next
    packed: _Packed | None


@dataclass(slots=True, eq=False)
class _Delivering:
    epoch: CoordinatorEpoch
    packed: _Packed


@dataclass(frozen=True, slots=True, eq=False)
class _Failed:
    """Over without a key; another epoch may be opened."""


class SignedLetters:
    """Requests outside rounds and their answers, both signed, in one epoch."""

    def __init__(self, terms: SumTerms, epoch: CoordinatorEpoch, again: Callable[[SiteId], bytes]) -> None:
        """again: makes a site's request of this stage once more, the same bytes."""
        self._terms, self._epoch = terms, epoch
        self._letters = Correspondence(terms, (epoch.epoch, 0, 0), again)
        self.excluded = self._letters.excluded
        self.begin_stage = self._letters.begin_stage

    def requests(self, again: Callable[[SiteId], bytes]) -> Iterator[Addressed]:
        """Yield the stage's frames for the sites that have not answered."""
        for site in self._letters.awaiting:
            yield site, self._letters.sent(site, again(site))

    def request(self, site: SiteId, message_type: MessageType, body: Body) -> bytes:
        """Return one signed request."""
        encoded = encode_body(body)
        address = Address(self._terms.session, self._epoch.epoch, 0, 0, COORDINATOR_ID, site, EMPTY_32)
        return sign_frame(address.header(message_type, len(encoded)), encoded, self._epoch.signing_key)

    def receive(
        self, site: SiteId, frame: bytes, wanted: MessageType, take: Callable[[SiteId, memoryview], None]
    ) -> None:
        """Check one reply and take its body. Raises PeerError, which leaves the site out."""
        if self._letters.is_repetition(site, frame):
            return
        try:
            header = self._letters.check_header(site, frame)
            if header.type != wanted:
                kind = LateMessage if header.type == MessageType.E3_REPLY else UnexpectedMessage
                raise kind(f"expected {wanted.name} of site {site}, got type {header.type}. Drop it.")
            body = cut(frame, header, SIGNATURE_BYTES)
            verify_frame(frame, body, self._terms.site_public_keys[site])
            take(site, body)
        except PeerError as error:
            self._letters.exclude(site, error)
            raise
        self._letters.accept(site, frame)


class BlindEpochOpening:
    """E0, E1, E3 and packages; used like masking's `EpochOpening`, stage by stage."""

    def __init__(self, opening: EpochOpening, terms: SumTerms) -> None:
        """opening: masking's, not begun."""
        self._terms = terms
        self._state: EpochOpening | _AskingSteward | _Delivering | BlindEpoch | _Failed = opening
        self._letters: SignedLetters | None = None  # once masking's opening is done
        self._excluded = opening.excluded

    @property
    def excluded(self) -> Mapping[SiteId, str]:
        """Return the sites that are out, with the name of their error."""
        return {**self._excluded, **(self._letters.excluded if self._letters is not None else {})}

    def requests(self) -> Iterator[Addressed]:
        """Yield the frames of the stage in progress for the sites that have not answered; nothing when done."""
        if isinstance(self._state, EpochOpening):
            yield from self._state.requests()
        elif self._letters is not None:
            yield from self._letters.requests(self._request)

    def _request(self, site: SiteId) -> bytes:
        state, letters = self._state, self._letters
        if isinstance(state, _AskingSteward) and letters is not None:
            return letters.request(site, MessageType.E3, PackageRequest(state.epoch.epoch_hash))
        if isinstance(state, _Delivering) and letters is not None:
            packed = state.packed
            return letters.request(site, MessageType.PACKAGE, PackageDelivery(packed.steward, packed.packages[site]))
        raise UnexpectedState("expected a stage of packages, got another. Report this.")

    def receive(self, site: SiteId, frame: bytes) -> None:
        """Take one reply. Raises PeerError, which leaves this site out."""
        state = self._state
        if isinstance(state, EpochOpening):
            state.receive(site, frame)
        elif self._letters is not None:
            if isinstance(state, _AskingSteward):
                self._letters.receive(site, frame, MessageType.E3_REPLY, self._take_packages)
            else:
                self._letters.receive(site, frame, MessageType.PACKAGE_REPLY, self._take_ack)

    def _take_packages(self, steward: SiteId, body: memoryview) -> None:
        state, packages = self._state, decode_body(Packages, body)
        if not isinstance(state, _AskingSteward):
            raise UnexpectedMessage(f"expected no packages of site {steward} now, got some. Drop them.")
        others = [site for site in state.epoch.listed if site != steward]
        if len(packages.packages) != len(others):
            raise KeyRefused(f"expected {len(others)} packages, got {len(packages.packages)}. Leave the steward out.")
        sealed = dict(zip(others, packages.packages, strict=True))
        state.packed = _Packed(steward, packages.key_id, sealed, {steward: packages.policy_tag})

    def _take_ack(self, site: SiteId, body: memoryview) -> None:
        state, ack = self._state, decode_body(KeyAck, body)
        if not isinstance(state, _Delivering) or ack.key_id != state.packed.key_id:
            raise KeyRefused(f"expected the steward's key at site {site}, got another. Leave it out.")
        state.packed.tags[site] = ack.policy_tag

    def close_stage(self) -> None:
        """End the stage. Raises StewardMissing, TooFewSurvivors, UnexpectedState when done."""
        state = self._state
        if isinstance(state, EpochOpening):
            state.close_stage()
            if state.is_open:
                self._ask_steward(state.outcome())
        elif isinstance(state, _AskingSteward):
            if state.packed is not None:
                self._deliver(state.epoch, state.packed)
            elif not state.others:
                self._fail()
                raise TooFewSurvivors("expected a site that makes the epoch's key, found none. Open another later.")
            else:
                self._begin_stage([state.others.pop(0)])
        elif isinstance(state, _Delivering):
            self._conclude(state.epoch, state.packed)
        else:
            raise UnexpectedState(
                "expected a stage in progress, got an opening that is over. Take its outcome, or open another epoch."
            )

    def _ask_steward(self, epoch: CoordinatorEpoch) -> None:
        first, *others = epoch.members
        self._state = _AskingSteward(epoch, others, None)
        self._letters = SignedLetters(self._terms, epoch, self._request)
        self._begin_stage([first])

    def _begin_stage(self, asked: Iterable[SiteId]) -> None:
        if self._letters is not None:
            self._letters.begin_stage(asked)

    def _deliver(self, epoch: CoordinatorEpoch, packed: _Packed) -> None:
        # Who made no key may take one: whatever was refused as a steward stays behind.
        self._state, self._letters = _Delivering(epoch, packed), SignedLetters(self._terms, epoch, self._request)
        self._begin_stage(site for site in epoch.members if site != packed.steward)

    def _conclude(self, epoch: CoordinatorEpoch, packed: _Packed) -> None:
        least, lying = self._terms.constants.min_survivors, self._terms.constants.max_colluders
        refused = [site for site in packed.packages if self.excluded.get(site) == KeyRefused.__name__]
        if len(packed.tags) < least:
            self._fail()
            if len(refused) > lying:  # one of them is honest, so its package was none
                raise StewardMissing((packed.steward,))
            raise TooFewSurvivors(
                f"expected at least {least} sites with the epoch's key, got {len(packed.tags)}. Open another later."
            )
        epoch.members = tuple(sorted(packed.tags))
        self._state = BlindEpoch(epoch, packed.key_id, packed.tags)
        self._begin_stage(())

    def _fail(self) -> None:
        self._state = _Failed()
        self._begin_stage(())  # nobody is asked any more: a late answer cannot open what was given up

    def outcome(self) -> BlindEpoch:
        """Return the open epoch. Raises UnexpectedState before its last stage is closed."""
        if not isinstance(self._state, BlindEpoch):
            raise UnexpectedState("expected an open epoch, got one in progress or failed. Close its stages first.")
        return self._state


class PolicyFetching:
    """R6: one site after another is asked for the sealed policy of a tag, until one hands it over."""

    def __init__(self, terms: SumTerms, epoch: CoordinatorEpoch, tag: bytes, holders: Iterable[SiteId]) -> None:
        """holders: who said that they hold the policy of this tag."""
        self._tag, self._holders = tag, list(holders)
        self._letters = SignedLetters(terms, epoch, self._request)
        self.parcel: bytes | None = None
        self.giver: SiteId | None = None  # who handed it over
        self._ask_next()

    def _ask_next(self) -> None:
        self._letters.begin_stage([self._holders.pop(0)] if self._holders else [])

    def _request(self, site: SiteId) -> bytes:
        return self._letters.request(site, MessageType.R6, PolicyRequest(self._tag))

    def requests(self) -> Iterator[Addressed]:
        """Yield the request to the site whose turn it is; nothing when done, or when there is nobody left."""
        return self._letters.requests(self._request)

    def receive(self, site: SiteId, frame: bytes) -> None:
        """Take one reply. Raises PeerError; then the next site is asked."""
        self._letters.receive(site, frame, MessageType.R6_REPLY, self._take)

    def _take(self, site: SiteId, body: memoryview) -> None:
        answer = decode_body(PolicyParcel, body)
        if answer.policy_tag != self._tag:
            raise UnexpectedMessage(
                f"expected the policy that was asked of site {site}, got another one. Ask the next."
            )
        self.parcel, self.giver = answer.parcel, site

    def close_stage(self) -> None:
        """End one site's turn."""
        if self.parcel is None:
            self._ask_next()
