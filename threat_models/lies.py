"""What a coordinator says falsely with its own keys: peers that are none, constants, policies, sums out of range."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secure_frl.federation.training_state import TrainingState
from secure_frl.masking.contexts import config_hash, members_hash, model_tag, survivors_hash, transcript_hash
from secure_frl.masking.coordinator_memory import AskingInputs, AskingKeys, Publishing
from secure_frl.secure_sum import SiteId, SumTerms
from secure_frl.wire.envelope import (
    HEADER_BYTES,
    Address,
    Header,
    cut,
    read_header,
    seal,
    seal_frame,
    sign_frame,
    unseal_frame,
)
from secure_frl.wire.messages import (
    Announcement,
    Body,
    EpochEntry,
    EpochList,
    MessageType,
    PublishedSum,
    decode_body,
    encode_body,
)
from secure_frl.wire.records import pack_members
from secure_frl.wire.signatures import SIGNATURE_BYTES, signed_bytes
from threat_models.adversaries import wire
from threat_models.adversaries.wire import Bent

MARK = 1.25e77
SHARE_OF_SITES = 3  # one site in so many is told a false sum in a round; it then takes the policy with the next R0


class Lies:
    """A coordinator's lies to sites. Those under seal are made beside the true frame, and told before it."""

    def __init__(
        self, terms: SumTerms, signing_key: Ed25519PrivateKey, policy: TrainingState, rng: np.random.Generator
    ) -> None:
        """policy: whose form a policy of NaN has."""
        self._terms, self._key, self._rng, self._policy = terms, signing_key, rng, policy
        self._ready: dict[SiteId, list[Bent]] = {}
        self._ctx2 = b""  # of the round

    def about(self, site: SiteId, request: bytes) -> Iterator[Bent]:
        """Yield false versions of a request."""
        yield from self._ready.pop(site, [])
        header = read_header(request)
        if header.type == MessageType.E1:
            entries = decode_body(EpochList, cut(request, header, SIGNATURE_BYTES)).entries
            for false in self._lists(entries, header):
                yield wire.ROSTER, self._signed(header, EpochList(false))
        elif header.type == MessageType.R0:
            body = decode_body(Announcement, cut(request, header, SIGNATURE_BYTES, open_ended=True))
            rest = request[HEADER_BYTES + header.body_bytes + SIGNATURE_BYTES :]
            for family, changes in self._announcements(body):
                yield family, self._signed(header, msgspec.structs.replace(body, **changes)) + rest

    def _lists(self, entries: tuple[EpochEntry, ...], header: Header) -> Iterator[tuple[EpochEntry, ...]]:
        """Yield lists with a peer whose keys are the coordinator's own, and one too short to hide anybody."""
        last, terms = entries[-1], self._terms
        public = self._rng.bytes(32)
        fields = (terms.session, header.epoch, last.site, public, last.nonce_commitment, terms.roster_hash)
        signature = Ed25519PrivateKey.generate().sign(signed_bytes("epoch", *fields))
        made_up = msgspec.structs.replace(last, public_key=public, signature=signature)
        yield (*entries[:-1], made_up)
        yield (*entries, msgspec.structs.replace(made_up, site=len(terms.site_public_keys)))
        yield (*entries, last)
        yield entries[: terms.constants.min_survivors - 1]

    def _announcements(self, body: Announcement) -> Iterator[tuple[str, dict[str, Any]]]:
        constants, sites = self._terms.constants, len(self._terms.site_public_keys)
        for name in ("threshold", "max_colluders", "min_survivors"):  # what a site would compute with, were it believed
            lower = replace(constants, **{name: getattr(constants, name) - 1})
            yield wire.THRESHOLD, {"config_hash": config_hash(lower)}
        yield wire.THRESHOLD, {"cohort": body.cohort[: constants.min_survivors - 1]}
        yield wire.ROSTER, {"cohort": (*body.cohort, sites)}
        yield wire.ROSTER, {"cohort": (*body.cohort, body.cohort[-1])}

    def _signed(self, header: Header, body: Body) -> bytes:
        encoded = encode_body(body)
        return sign_frame(address_of(header).header(header.type, len(encoded)), encoded, self._key)

    # --- under seal

    def prepare_sealed(self, state: object, site: SiteId, frame: bytes) -> None:
        """Make what a site is told before a true frame: a list with an invented peer, a policy of NaN, a false sum."""
        self._ctx2 = getattr(state, "ctx2", self._ctx2)
        if isinstance(state, AskingKeys):
            self._ready.setdefault(site, []).append((wire.NAN, self._with_nan(state, site, frame)))
        if isinstance(state, AskingInputs) and site == self._victim(state.view.context.round):
            self._ready.setdefault(site, []).append((wire.ROSTER, self._with_peer(state, site, frame)))
        elif isinstance(state, Publishing):
            number = state.summed.view.context.round
            if site % SHARE_OF_SITES == number % SHARE_OF_SITES:
                self._ready.setdefault(site, []).append((wire.OVERFLOW, self._out_of_range(state, site)))

    def _victim(self, number: int) -> int:
        """Return the one site of a round whose attempt a lie ends: more would be missed in the sum."""
        return number % len(self._terms.site_public_keys)

    def _with_nan(self, state: AskingKeys, site: SiteId, frame: bytes) -> bytes:
        """Return R0 with a sealed policy of NaN, of a later step, tagged and signed as a true one."""
        view, header = state.view, read_header(frame)
        marked = np.full_like(self._policy.parameters, MARK)  # no honest state can be made with NaN: bytes can
        made = replace(self._policy, parameters=marked, round=view.context.round + 1).to_bytes()
        content = made.replace(struct.pack("<d", MARK), struct.pack("<d", float("nan")))
        sealed = seal(view.link(site, MessageType.R0, view.context.epoch_hash, header.fresh), content, header.encode())
        body = decode_body(Announcement, cut(frame, header, SIGNATURE_BYTES, open_ended=True))
        digest = hashlib.sha256(sealed).digest()
        told = msgspec.structs.replace(body, model_tag=model_tag(content), sealed_digest=digest)
        return self._signed(header, told) + sealed

    def _with_peer(self, state: AskingInputs, site: SiteId, frame: bytes) -> bytes:
        """Return R1' whose list has one member more, with keys that nobody but the coordinator has."""
        view, header = state.view, read_header(frame)
        key = view.link(site, MessageType.R1P, view.ctx1, header.fresh)
        plain = unseal_frame(frame, key, len(state.packed), state.packed_hash)
        invented = (len(self._terms.site_public_keys), self._rng.bytes(32), self._rng.bytes(32))
        listed = state.packed + pack_members([invented])
        return seal_frame(address_of(header), MessageType.R1P, plain, key, listed, members_hash(listed))

    def _out_of_range(self, state: Publishing, site: SiteId) -> bytes:
        """Return R5 with a sum that so many sites cannot have, its transcript and signature as an honest one's."""
        summed, view = state.summed, state.summed.view
        kind = "<i4" if view.terms.constants.modulus_bits <= 32 else "<i8"
        words = np.frombuffer(summed.total_bytes, kind).copy()
        words[2:-2] = (1 << (view.terms.constants.modulus_bits - 1)) - 1
        total = words.tobytes()
        digest, survivors = hashlib.sha256(total).digest(), list(summed.survivors)
        transcript = transcript_hash(self._ctx2, survivors_hash(self._ctx2, summed.survivors), digest)
        signed = signed_bytes("R5", view.ctx1, survivors, digest, state.next_tag, transcript)
        body = PublishedSum(summed.survivors, total, state.next_tag, transcript, self._key.sign(signed))
        key = view.link(site, MessageType.R5, view.ctx1, view.fresh)
        return seal_frame(view.address(site, view.fresh), MessageType.R5, encode_body(body), key)


def address_of(header: Header) -> Address:
    """Return a header's fields without type and size."""
    return Address(
        header.session, header.epoch, header.round, header.attempt, header.sender, header.receiver, header.fresh
    )
