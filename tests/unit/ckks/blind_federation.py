"""The small federation of masking's tests, with a coordinator that is blind: real workers, real ciphertexts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tenseal
from keyed_policy import KeyedPolicy, fresh_context
from small_federation import Federation, Host, next_model

from secure_frl.ckks.coordinator_epoch import BlindEpoch, BlindEpochOpening, PolicyFetching
from secure_frl.ckks.coordinator_states import CkksSum, blind_sum, blind_summed, encrypted_of, publication
from secure_frl.ckks.encrypted_sum import EncryptedSum
from secure_frl.ckks.envelopes import pack_chunks, unpack_chunks
from secure_frl.ckks.epoch_cipher import EpochCipher, SiteWorkers
from secure_frl.ckks.policies import seal_policy
from secure_frl.ckks.site_states import blind_site
from secure_frl.ckks.worker import Limits, Worker
from secure_frl.encoding.lanes import to_ring_vector
from secure_frl.encoding.slots import GRID_BITS, ChunkPlan
from secure_frl.errors import ModelMissing
from secure_frl.masking.contexts import chunk_plan
from secure_frl.masking.coordinator_epoch import EpochOpening
from secure_frl.masking.coordinator_memory import AttemptView, Publishing
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import COORDINATOR_ID, SiteId, Sum, Words
from secure_frl.wire.envelope import EMPTY_32, Address, Header, read_header, seal_frame, sign_frame
from secure_frl.wire.messages import Body, FollowingTag, MessageType, decode_body, encode_body

ROOMY = Limits(address_bytes=1 << 30)
STAGES = {"ckks": ("R0",), "ckks+masking": ("R0", "R1p", "R3a", "R3c")}


@dataclass
class BlindHost(KeyedPolicy, Host):
    """The rest of a site where only sites read the policy."""

    def offer_secret(self, secret: bytes) -> None:
        assert self.settled in (None, secret)
        super().offer_secret(secret)

    def next_tag(self, total: Sum) -> bytes:
        self.total = total
        self.model = next_model(self.model, total)
        return self.held_tag()

    def sealed_policy(self, tag: bytes) -> bytes:
        if tag != self.held_tag():
            raise ModelMissing("expected the tag held here, got another. Ask others.")
        assert self.secret is not None
        return seal_policy(
            self.secret,
            self.session,
            writer=SiteId(self.me),
            step=1,
            tag=tag,
            model=self.model,
            random=rehearsal_source(self.me, "parcel"),
        )


class BlindFederation(Federation):
    """n sites that share one worker, as simulated ones do, and a coordinator with a worker of its own."""

    def __init__(self, n: int, protection: str = "ckks", **changes: Any) -> None:
        self.workers = SiteWorkers(ROOMY)
        self.adder = Worker(ROOMY)
        super().__init__(n, protection=protection, **changes)
        self.plan = chunk_plan(self.constants)
        self.blind: BlindEpoch | None = None
        self.rounds = 0  # begun by `next_round`
        self.given: dict[int, bytes] = {}  # whose ciphertexts the coordinator has of this round

    def close(self) -> None:
        self.workers.close()
        self.adder.close()

    def host(self, site: int) -> BlindHost:
        return BlindHost(
            self.constants, self.values[site], self.registers[site].trail, session=self.terms.session, me=site
        )

    def machine(self, **given: Any) -> SiteProtocol:
        return blind_site(self.constants.protection)(workers=self.workers, **given)

    def opening(self, epoch: int = 1, first_round: int = 1, without: Iterable[int] = ()) -> BlindEpochOpening:
        return BlindEpochOpening(
            EpochOpening(
                self.terms,
                self.coordinator_key,
                self.random,
                lambda: self.now,
                epoch,
                first_round,
                self.now + 3600,
                [SiteId(site) for site in without],
            ),
            self.terms,
        )

    def open_blind(self, epoch: int = 1, first_round: int = 1, lost: Iterable[int] = ()) -> BlindEpoch:
        opening = self.opening(epoch, first_round)
        for stage in range(4):
            self.exchange(opening, lost if stage == 3 else ())
            opening.close_stage()
        self.blind = opening.outcome()
        return self.blind

    def begin_blind(self, number: int = 1, attempt: int = 0, **changes: Any) -> CkksSum:
        blind = self.blind or self.open_blind()
        tag = changes["tag"] if "tag" in changes else self.hosts[0].held_tag()
        cohort = changes.get("cohort", blind.epoch.members)
        encrypted = EncryptedSum(self.plan, blind.key_id, self.adder)
        kind = blind_sum(self.constants.protection)
        models = changes.get("models", {})
        return kind(self.terms, blind.epoch, number, attempt, cohort, tag, models, self.random, encrypted)

    def drive_blind(self, machine: CkksSum, lost: dict[str, Iterable[int]] | None = None) -> None:
        """Run a round to its encrypted sum."""
        for stage in STAGES[self.constants.protection]:
            self.exchange(machine, (lost or {}).get(stage, ()))
            machine.close_stage()

    def next_round(self, lost: dict[str, Iterable[int]] | None = None) -> CkksSum:
        """The next round up to its encrypted sum, with each site's ciphertexts as the coordinator reads them."""
        machine = self.next_attempt()
        self.drive_blind(machine, lost)
        return machine

    def next_attempt(self) -> CkksSum:
        """Begin the next round, whatever the last one left: all sites hold site 0's policy, the wire is honest."""
        self.rounds, self.given, self.errors, self.frames = self.rounds + 1, {}, {}, []
        self.wire = lambda direction, site, frame: frame
        for host in self.hosts:
            host.model, host.total = self.hosts[0].model, None
        machine = self.begin_blind(self.rounds)
        add = encrypted_of(machine._view).add

        def keeping(site: SiteId, key_id: bytes, body: bytes | memoryview) -> None:
            add(site, key_id, body)
            self.given[site] = bytes(body)

        machine._view.encrypted.add = keeping  # type: ignore[union-attr, method-assign]
        return machine

    def next_epoch(self) -> BlindEpoch:
        """A new key, and with it nothing that was counted against the old one."""
        number = 1 if self.blind is None else self.blind.epoch.epoch + 1
        return self.open_blind(number, self.rounds + 1)

    def publish_blind(self, machine: CkksSum) -> None:
        machine.publish()
        self.exchange(machine)
        machine.close_stage()

    def fetch(self, tag: bytes, holders: Iterable[int]) -> PolicyFetching:
        assert self.blind is not None
        fetching = PolicyFetching(self.terms, self.blind.epoch, tag, [SiteId(site) for site in holders])
        while any(True for _ in fetching.requests()):
            self.exchange(fetching)
            fetching.close_stage()
        return fetching

    def words(self, site: int) -> Words:
        """The ring vector that a site hands to its protocol half."""
        return to_ring_vector(self.hosts[site].values, self.constants).words

    # --- a coordinator that lies with valid keys

    def total_of(
        self,
        machine: CkksSum,
        site: int,
        ciphertexts: bytes | None = None,
        survivors: Iterable[int] | None = None,
        correction: bytes | None = None,
        key_id: bytes | None = None,
        **signed: Any,
    ) -> bytes:
        """R5C to one site as an honest coordinator makes it, over what this one likes.

        The transcript is that of the round with what is sent. signed: another `transcript_hash`, another `signing_key`.
        """
        waiting = (one._state for one in (self.sites[site], *self.sites))
        ctx2 = next(state.ctx2 for state in waiting if hasattr(state, "ctx2"))  # of the round, the same at each
        honest, view = machine._state, machine._view
        sent = Sent(
            encrypted_of(view).key_id if key_id is None else key_id,
            encrypted_of(view).body if ciphertexts is None else ciphertexts,
        )
        if "signing_key" in signed:
            view = replace(view, epoch=replace(view.epoch, signing_key=signed["signing_key"]))
        over = tuple(honest.survivors if survivors is None else map(SiteId, survivors))
        words = honest.total_bytes if correction is None else correction
        summed = blind_summed(replace(view, encrypted=sent), ctx2, over, words)
        summed = replace(summed, transcript_hash=signed.get("transcript_hash", summed.transcript_hash))
        return dict(publication(Publishing(summed.view, summed, b"", {}), [SiteId(site)]))[SiteId(site)]

    def answer(self, machine: CkksSum, site: int, request: bytes) -> str | bytes:
        """What the site makes of R5C: a refusal's name, or the tag with which it answers."""
        reply = self.sites[site].handle(request)
        name = self.refusal(site, request, reply)
        if name is not None:
            return name
        header, view = read_header(reply), machine._view
        assert header.type == MessageType.R5C_REPLY
        return decode_body(FollowingTag, view.unseal(SiteId(site), header, view.ctx1, reply)).policy_tag

    def contribution(self, machine: CkksSum, site: int, frame: bytes, body: bytes, **changed: Any) -> bytes:
        """R2C of a site that has its own keys and sends another body, or names another key or type."""
        header, view = read_header(frame), machine._view
        return resealed(view, site, header, machine._state.ctx2, body, **changed)


class SignedEpoch:
    """An epoch that a coordinator has opened up to the steward's packages, and what it signs in it."""

    def __init__(self, parties: BlindFederation, number: int, *, ask_steward: bool = True) -> None:
        self.parties = parties
        opening = parties.opening(number, parties.rounds + 1)
        for _ in range(3 if ask_steward else 2):
            parties.exchange(opening)
            opening.close_stage()
        self.epoch = opening._state.epoch
        packed = getattr(opening._state, "packed", None)
        self.key_id = b"" if packed is None else packed.key_id
        self.packages: dict[SiteId, bytes] = {} if packed is None else packed.packages

    @classmethod
    def of(cls, parties: BlindFederation) -> SignedEpoch:
        """The epoch that is open."""
        assert parties.blind is not None
        made = cls.__new__(cls)
        made.parties, made.epoch, made.key_id, made.packages = parties, parties.blind.epoch, parties.blind.key_id, {}
        return made

    def ask(self, site: int, kind: MessageType, body: Body, *, epoch: int = 0, round_number: int = 0) -> str | None:
        """Deliver a frame that the coordinator has signed; return the refusal's name, None for an answer."""
        encoded, session = encode_body(body), self.parties.terms.session
        address = Address(session, epoch or self.epoch.epoch, round_number, 0, COORDINATOR_ID, site, EMPTY_32)
        request = sign_frame(address.header(kind, len(encoded)), encoded, self.parties.coordinator_key)
        return self.parties.refusal(site, request, self.parties.sites[site].handle(request))


class Federations:
    """One federation a set of arguments, for tests that each take rounds of their own; no test inherits a failure."""

    def __init__(self) -> None:
        self._made: dict[Any, BlindFederation] = {}

    def __call__(self, n: int, protection: str, **changes: Any) -> BlindFederation:
        known = (n, protection, tuple(sorted(changes.items())))
        if known not in self._made:
            self._made[known] = BlindFederation(n, protection, **changes)
        parties = self._made[known]
        is_used = parties.blind is None or parties.rounds - parties.blind.epoch.first_round > 30
        if is_used or any(cipher is None or cipher.failures for cipher in map(cipher_at, parties.sites)):
            parties.next_epoch()
        return parties

    def close(self) -> None:
        for parties in self._made.values():
            parties.close()


def cipher_at(site: SiteProtocol) -> EpochCipher | None:
    """The key that a site has, in whatever state it is."""
    state = site._state
    view = getattr(state, "view", None) or getattr(getattr(state, "attempt", None), "view", None)
    return None if view is None else view.cipher


@dataclass
class Sent:
    """Ciphertexts in the place of a sum."""

    key_id: bytes
    body: bytes

    def add(self, site: SiteId, key_id: bytes, body: bytes | memoryview) -> None:
        raise NotImplementedError


def resealed(view: AttemptView, site: int, header: Header, salt: bytes, body: bytes, **changed: Any) -> bytes:
    kind = changed.pop("kind", MessageType(header.type))
    names = ("session", "epoch", "round", "attempt", "sender", "receiver", "fresh", "key_id")
    address = replace(Address(*(getattr(header, name) for name in names)), **changed)
    return seal_frame(address, kind, body, view.link(SiteId(site), kind, salt, header.fresh))


def combined(plan: ChunkPlan, terms: Sequence[tuple[int, bytes]], slots: np.ndarray | None = None) -> bytes:
    """Return the ciphertexts of a sum of small multiples, plus integers in the slots of each chunk [chunks, 2048]."""
    context, chunks = fresh_context(), []
    bodies = [(factor, unpack_chunks(body, plan)) for factor, body in terms]
    for number in range(plan.chunks):
        total: Any = None
        for factor, parts in bodies:
            for _ in range(abs(factor)):
                part = tenseal.ckks_vector_from(context, bytes(parts[number]))
                if total is None:
                    assert factor > 0
                    total = part
                else:
                    total = total + part if factor > 0 else total - part
        if slots is not None:
            total = total + (slots[number] * 2.0**-GRID_BITS).tolist()
        chunks.append(total.serialize())
    return pack_chunks(chunks)
