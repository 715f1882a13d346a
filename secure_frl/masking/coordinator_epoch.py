"""The coordinator's half of an epoch's opening: collect signed channel keys, show everybody's to all.

In cross_device a stage of nonces stands between: each was committed to before any is shown. Sites that show none are
removed and the epoch starts again under the next number, for to go on without them would be a choice of its hash.

Speaks as the coordinator. It takes part in one channel with each site and can read none between sites. Its channel
keys live in memory only: after a restart it opens a new epoch.
Source: docs/protocol.md, section 11.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secure_frl.errors import (
    EpochRefused,
    InvalidParameter,
    LocalProtocolError,
    MalformedMessage,
    NonceWithheld,
    PeerError,
    RosterRefused,
    TooFewSurvivors,
    UnexpectedMessage,
    UnexpectedState,
)
from secure_frl.masking import contexts
from secure_frl.masking.correspondence import Correspondence
from secure_frl.masking.keys import Channels, KeyPair, check_distinct, open_channels, points
from secure_frl.secure_sum import COORDINATOR_ID, Addressed, RandomSource, SiteId, SumTerms
from secure_frl.wire.envelope import EMPTY_32, Address, cut, sign_frame, verify_frame
from secure_frl.wire.messages import (
    MOST_SITES,
    Body,
    EpochAck,
    EpochEntry,
    EpochKey,
    EpochList,
    EpochNonce,
    EpochNonces,
    MessageType,
    OpenEpoch,
    decode_body,
    encode_body,
)
from secure_frl.wire.signatures import SIGNATURE_BYTES, check_signature


@dataclass(slots=True, eq=False)
class CoordinatorEpoch:
    """What the coordinator holds of an open epoch; rounds in it only go forward."""

    epoch: int
    epoch_hash: bytes
    listed: tuple[SiteId, ...]  # sites of E1's list, ascending
    members: tuple[SiteId, ...]  # those that acknowledged the list, ascending: the cohorts come out of them
    public_keys: tuple[bytes, ...]  # every c_pk of the epoch, the coordinator's included
    channels: Channels
    first_round: int
    expiry_s: int
    signing_key: Ed25519PrivateKey = field(repr=False)
    last_attempt: tuple[int, int] = (0, 0)
    survivors_named_in: int = 0  # the last round in which R3a left: no other attempt of it may begin

    def begin_attempt(self, number: int, attempt: int, epoch_rounds: int) -> None:
        """Move to an attempt. Raises LocalProtocolError if it is not newer, outside the epoch, or of a named round."""
        is_inside = self.first_round <= number < self.first_round + epoch_rounds
        if not is_inside or (number, attempt) <= self.last_attempt or number <= self.survivors_named_in:
            raise LocalProtocolError(
                f"expected a new attempt inside the epoch, got round={number}, attempt={attempt}. "
                "Begin the next round, or open a new epoch."
            )
        self.last_attempt = (number, attempt)
        self.channels.advance_to(number)


@dataclass(slots=True, eq=False)
class _AskingKeys:
    entries: dict[SiteId, EpochEntry]
    points: set[bytes]  # of the keys so far


@dataclass(slots=True, eq=False)
class _AskingNonces:
    entries: tuple[EpochEntry, ...]
    commitments: dict[SiteId, bytes]
    nonces: dict[SiteId, bytes]


@dataclass(slots=True, eq=False)
class _AskingAcks:
    entries: tuple[EpochEntry, ...]
    nonces: tuple[bytes, ...]  # of cross_device
    epoch_hash: bytes
    acknowledged: set[SiteId]


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    epoch: CoordinatorEpoch


@dataclass(frozen=True, slots=True, eq=False)
class _Failed:
    pass


class EpochOpening:
    """E0, E1 and in cross_device E2 with every enrolled site; used like a secure sum, stage by stage."""

    def __init__(
        self,
        terms: SumTerms,
        signing_key: Ed25519PrivateKey,
        random: RandomSource,
        clock: Callable[[], float],
        epoch: int,
        first_round: int,
        expiry_s: float,
        without: Collection[SiteId] = (),
    ) -> None:
        """epoch, first_round: >= 1. expiry_s: Unix seconds, at most 24 h from now; whole seconds are sent.

        without: sites that are not asked, because they withheld a nonce in the opening before.
        """
        contexts.check_constants(terms.constants)
        now = clock()
        if epoch < 1 or first_round < 1 or not now < expiry_s <= now + contexts.LONGEST_EPOCH_S:
            raise InvalidParameter(
                f"expected epoch and first round >= 1 and an expiry within 24 h, got {epoch}, {first_round} and "
                f"{expiry_s - now:.0f} s ahead. Give Unix seconds."
            )
        if signing_key.public_key().public_bytes_raw() != terms.coordinator_public_key:
            raise InvalidParameter("expected the coordinator's key of the charter, got another. Load that key.")
        self._terms, self._signing_key, self._clock = terms, signing_key, clock
        self._epoch, self._first_round, self._expiry_s = epoch, first_round, int(expiry_s)
        self._keys = KeyPair.draw(random)
        self._letters = Correspondence(terms, (epoch, 0, 0), self._again)
        enrolled = map(SiteId, range(len(terms.site_public_keys)))
        self._letters.begin_stage(site for site in enrolled if site not in without)
        self._has_nonces = terms.constants.profile == contexts.CROSS_DEVICE
        self._state: _AskingKeys | _AskingNonces | _AskingAcks | _Opened | _Failed = _AskingKeys(
            {}, set(points([self._keys.public]))
        )

    @property
    def awaiting(self) -> tuple[SiteId, ...]:
        """Return the sites whose answer this stage still lacks."""
        return self._letters.awaiting

    @property
    def excluded(self) -> Mapping[SiteId, str]:
        """Return the sites that are out, with the name of their error."""
        return self._letters.excluded

    @property
    def refusals(self) -> Mapping[SiteId, str]:
        """Return the codes of the sites that refused."""
        return self._letters.refusals

    def requests(self) -> Iterator[Addressed]:
        """Yield the frames of the stage in progress for the sites that have not answered; nothing when done."""
        for site, frame in self._requests_of(self._letters.awaiting):
            yield site, self._letters.sent(site, frame)

    def _again(self, site: SiteId) -> bytes:
        return next(frame for _, frame in self._requests_of([site]))

    def _requests_of(self, sites: Iterable[SiteId]) -> Iterator[Addressed]:
        state, session = self._state, self._terms.session
        body: Body
        if isinstance(state, _AskingKeys):
            kind, body = MessageType.E0, OpenEpoch(self._epoch, self._keys.public, self._first_round, self._expiry_s)
        elif isinstance(state, _AskingAcks) and self._has_nonces:
            kind, body = MessageType.E2, EpochNonces(state.nonces)
        elif isinstance(state, _AskingNonces | _AskingAcks):
            kind, body = MessageType.E1, EpochList(state.entries)
        else:
            return
        encoded = encode_body(body)
        digest = hashlib.sha256(encoded).digest()
        for site in sites:
            address = Address(session, self._epoch, 0, 0, COORDINATOR_ID, site, EMPTY_32)
            yield site, sign_frame(address.header(kind, len(encoded)), encoded, self._signing_key, digest)

    def receive(self, site: SiteId, frame: bytes) -> None:
        """Take one reply. Raises PeerError, which leaves this site out."""
        if self._letters.is_repetition(site, frame):
            return
        try:
            self._receive(site, frame)
        except PeerError as error:
            self._letters.exclude(site, error)
            raise
        self._letters.accept(site, frame)

    def _receive(self, site: SiteId, frame: bytes) -> None:
        state, terms = self._state, self._terms
        header = self._letters.check_header(site, frame)
        wanted = MessageType.E0_REPLY if isinstance(state, _AskingKeys) else MessageType.E1_REPLY
        if isinstance(state, _AskingAcks) and self._has_nonces:
            wanted = MessageType.E2_REPLY
        if header.type != wanted:
            raise UnexpectedMessage(f"expected {wanted.name} of site {site}, got type {header.type}. Drop it.")
        body = cut(frame, header, SIGNATURE_BYTES)
        enrolled = terms.site_public_keys[site]
        verify_frame(frame, body, enrolled)
        if isinstance(state, _AskingKeys):
            self._take_key(state, site, decode_body(EpochKey, body))
        elif isinstance(state, _AskingNonces):
            self._take_nonce(state, site, decode_body(EpochNonce, body).nonce)
        elif isinstance(state, _AskingAcks):
            ack = decode_body(EpochAck, body)
            check_signature(enrolled, ack.signature, "epoch-ack", terms.session, self._epoch, state.epoch_hash)
            state.acknowledged.add(site)

    def _take_key(self, state: _AskingKeys, site: SiteId, key: EpochKey) -> None:
        if not self._clock() < self._expiry_s:
            raise EpochRefused("expected a key before the epoch expires, got one after. Open a new epoch.")
        if contexts.expired_sites(self._terms, [site], self._clock()):
            raise RosterRefused(
                f"expected a site whose enrolment lasts, got site {site} after its end. Enrol it again."
            )
        if len(state.entries) == MOST_SITES:
            raise EpochRefused(
                f"expected at most {MOST_SITES} keys, which fill an epoch's list, site {site} sent one more. Let it "
                "join the next epoch."
            )
        commitment = key.nonce_commitment
        if len(commitment) != (contexts.NONCE_BYTES if self._has_nonces else 0):
            raise MalformedMessage(f"expected a commitment as the profile has it, site {site} sent another. Drop it.")
        session, roster = self._terms.session, self._terms.roster_hash
        fields = (session, self._epoch, site, key.public_key, commitment, roster, self._expiry_s)
        check_signature(self._terms.site_public_keys[site], key.signature, "epoch", *fields)
        check_distinct([key.public_key], state.points)
        self._keys.exchange(key.public_key)  # refuses a low-order key
        state.points |= points([key.public_key])
        state.entries[site] = EpochEntry(site, key.public_key, commitment, key.signature)

    def _take_nonce(self, state: _AskingNonces, site: SiteId, nonce: bytes) -> None:
        if contexts.nonce_commitment(self._terms.session, self._epoch, site, nonce) != state.commitments[site]:
            raise EpochRefused(f"expected the nonce that site {site} committed to, got another. Leave it out.")
        state.nonces[site] = nonce

    def close_stage(self) -> None:
        """End the stage: the silent are left out. Raises TooFewSurvivors, UnexpectedState when done."""
        state = self._state
        if isinstance(state, _AskingKeys):
            entries = tuple(state.entries[site] for site in sorted(state.entries))
            self._require(len(entries))
            if self._has_nonces:
                commitments = {SiteId(entry.site): entry.nonce_commitment for entry in entries}
                self._state = _AskingNonces(entries, commitments, {})
            else:
                self._state = self._asking_acks(entries, None)
            self._letters.begin_stage(SiteId(entry.site) for entry in entries)
        elif isinstance(state, _AskingNonces):
            missing = tuple(entry.site for entry in state.entries if entry.site not in state.nonces)
            if missing:
                self._fail()
                raise NonceWithheld(missing)
            self._state = self._asking_acks(state.entries, state.nonces)
            self._letters.begin_stage(SiteId(entry.site) for entry in state.entries)
        elif isinstance(state, _AskingAcks):
            self._require(len(state.acknowledged))
            self._state = _Opened(self._open(state))
            self._letters.begin_stage(())
        else:
            raise UnexpectedState(
                "expected a stage in progress, got an epoch that is open or failed. Take its outcome."
            )

    def _asking_acks(self, entries: tuple[EpochEntry, ...], nonces: Mapping[SiteId, bytes] | None) -> _AskingAcks:
        opened = tuple(nonces[SiteId(entry.site)] for entry in entries) if nonces is not None else (b"",) * len(entries)
        rows = [(entry.site, entry.public_key, nonce) for entry, nonce in zip(entries, opened, strict=True)]
        digest = contexts.epoch_hash(self._terms.session, self._epoch, rows, self._keys.public)
        return _AskingAcks(entries, opened, digest, set())

    def _require(self, count: int) -> None:
        constants = self._terms.constants
        least = constants.sites if self._has_nonces else constants.min_survivors  # a cohort of cross_device has n
        if count < least:
            self._fail()
            raise TooFewSurvivors(
                f"expected at least {least} sites in the epoch, got {count}. Open another epoch later."
            )

    def _fail(self) -> None:
        self._state = _Failed()
        self._letters.begin_stage(())  # nobody is asked any more: what still comes answers nothing

    def _open(self, state: _AskingAcks) -> CoordinatorEpoch:
        keys: dict[int, bytes] = {entry.site: entry.public_key for entry in state.entries}
        channels = open_channels(self._keys, COORDINATOR_ID, keys, state.epoch_hash, self._first_round)
        return CoordinatorEpoch(
            epoch=self._epoch,
            epoch_hash=state.epoch_hash,
            listed=tuple(SiteId(entry.site) for entry in state.entries),
            members=tuple(sorted(state.acknowledged)),
            public_keys=(*keys.values(), self._keys.public),
            channels=channels,
            first_round=self._first_round,
            expiry_s=self._expiry_s,
            signing_key=self._signing_key,
        )

    @property
    def is_open(self) -> bool:
        """Return whether the last stage is closed and the epoch stands."""
        return isinstance(self._state, _Opened)

    def outcome(self) -> CoordinatorEpoch:
        """Return the open epoch. Raises UnexpectedState before its last stage is closed."""
        if not isinstance(self._state, _Opened):
            raise UnexpectedState("expected an open epoch, got one in progress or failed. Close its stages first.")
        return self._state.epoch
