"""One real site among scripted peers: what it costs from R0 received to R4 sent.

The site is `SiteProtocol`, and every frame it reads is a real one: signed, sealed, dealt and confirmed as the
coordinator and its peers would. Peers make only what reaches this site, so that a round of a thousand sites is set up
in a second; the epoch's channel keys, made once for up to 64 rounds, are there before the first round.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass

import numpy as np
from parties import Keys, MemoryRegister, QuantisingHost, any_public_key

from secure_frl.encoding.lanes import LANE_WORDS
from secure_frl.encoding.ring import word_type
from secure_frl.errors import LocalProtocolError
from secure_frl.masking.contexts import survivors_hash, transcript_hash
from secure_frl.masking.coordinator_memory import (
    AskingConfirmations,
    AskingInputs,
    AskingKeys,
    AskingShares,
    MemberKeys,
    Publishing,
    Summed,
)
from secure_frl.masking.coordinator_requests import requests_of
from secure_frl.masking.coordinator_stages import close_keys, renamed
from secure_frl.masking.coordinator_states import CoordinatorEpoch, MaskedSum
from secure_frl.masking.keys import Channels, KeyPair, confirmations, pair_key, points, self_key
from secure_frl.masking.neighbourhoods import PairTable
from secure_frl.masking.prg import mask_adder
from secure_frl.masking.site_memory import EpochOpen, EpochView, SharesSent
from secure_frl.masking.site_shares import deal
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.randomness import system_source
from secure_frl.secure_sum import COORDINATOR_ID, SiteId, Sum, SumConstants
from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES, read_header
from secure_frl.wire.messages import MessageType, RoundKeys, decode_body
from secure_frl.wire.records import (
    CONFIRMATION_BYTES,
    DEALT_BYTES,
    SHARE_BYTES,
    Confirmation,
    pack_records,
    record_table,
)

ME = SiteId(0)
TAG = bytes(32)  # of a policy that never changes


@dataclass(frozen=True)
class Exchange:
    """One round at one site: seconds and bytes of its answers."""

    seconds: dict[str, float]
    sent_bytes: int

    @property
    def total_s(self) -> float:
        """Return the seconds of all four answers."""
        return sum(self.seconds.values())


class OneSite:
    """A site and everything that it hears; `round()` runs one more."""

    def __init__(self, constants: SumConstants) -> None:
        """Open an epoch whose channel keys are drawn rather than exchanged: both ends hold the same ones."""
        self._random, self.constants = system_source(), constants
        n = constants.sites
        keys = Keys.draw(n)
        self._terms = keys.terms(constants)
        self.host = QuantisingHost(constants, TAG, seed=1)
        self._site = SiteProtocol(self._terms, ME, keys.sites[ME], MemoryRegister(), self._random, time.time, self.host)
        sites = tuple(SiteId(site) for site in range(n))
        epoch_hash, expiry_s = os.urandom(32), int(time.time()) + 3600
        public_keys = tuple(any_public_key() for _ in range(n + 1))
        to_coordinator = {site: os.urandom(32) for site in sites}
        self._to_site = {site: os.urandom(32) for site in sites if site != ME}
        of_site: dict[int, bytes] = {COORDINATOR_ID: to_coordinator[ME]}
        of_site.update((int(site), key) for site, key in self._to_site.items())
        channels, known = Channels(epoch_hash, 0, of_site), points(public_keys)
        view = EpochView(1, epoch_hash, sites, known, channels, 1, expiry_s, {})
        self._site._state = EpochOpen(view)
        self._epoch = CoordinatorEpoch(
            1,
            epoch_hash,
            sites,
            sites,
            public_keys,
            Channels(epoch_hash, 0, {int(site): key for site, key in to_coordinator.items()}),
            1,
            expiry_s,
            keys.coordinator,
        )
        self._round = 0

    def round(self) -> Exchange:
        """Run one round in which everybody answers. Raises LocalProtocolError if the site refuses anything."""
        self._round += 1
        self.host.prepare()
        machine = MaskedSum(self._terms, self._epoch, self._round, 0, self._epoch.members, TAG, {}, self._random)
        seconds: dict[str, float] = {}
        sent_bytes = 0

        def ask(stage: str, state: object) -> bytes:
            nonlocal sent_bytes
            frame = dict(requests_of(state, [ME]))[ME]
            start = time.thread_time()
            reply = self._site.handle(frame)
            seconds[stage] = time.thread_time() - start
            if read_header(reply).type == MessageType.REFUSAL:
                raise LocalProtocolError(f"expected an answer to {stage}, got a refusal. Read the site's log.")
            sent_bytes += len(reply)
            return reply

        asking = machine._state
        if not isinstance(asking, AskingKeys):
            raise LocalProtocolError("expected a new round, got another stage. Fix the benchmark.")
        reply = ask("R0-R1", asking)
        header = read_header(reply)
        view = asking.view
        view.fresh_of[ME] = header.fresh
        own = decode_body(RoundKeys, view.unseal(ME, header, view.ctx1, reply))
        asking.members[ME] = MemberKeys(own.public_key, own.seed_commitment, own.own_commitment)
        peers = self._deal(asking)
        inputs = close_keys(asking)
        secrets = self._site._state
        reply = ask("R1p-R2", inputs)
        if self._round == 1 and isinstance(secrets, SharesSent):
            self._check_input(secrets, reply, inputs, peers)
        mail = self._confirmations(inputs)
        ask(
            "R3a-R3b",
            AskingConfirmations(
                view,
                inputs.ctx2,
                inputs.members,
                inputs.dealt,
                self._epoch.members,
                inputs.accumulator,
                mail,
                set(),
            ),
        )
        ask(
            "R3c-R4",
            AskingShares(
                view=view,
                ctx2=inputs.ctx2,
                members=inputs.members,
                dealt=inputs.dealt,
                survivors=self._epoch.members,
                accumulator=inputs.accumulator,
                mail=mail,
                confirmed={ME},
                shares=PairTable(view.near, SHARE_BYTES),
                own_shares={},
            ),
        )
        exchange = Exchange(dict(seconds), sent_bytes)
        ask("R5", self._publish(inputs))  # not measured; it closes the round, as in every real one
        return exchange

    def _deal(self, state: AskingKeys) -> dict[SiteId, KeyPair]:
        """Put every peer's keys into U2, with its real share pair for this site; return the neighbours' keys."""
        view, cohort = state.view, state.view.context.cohort
        near = set(view.graph.neighbours(ME))
        pairs: dict[SiteId, KeyPair] = {}
        for site in cohort:
            if site == ME:
                continue
            if site not in near:
                state.members[site] = MemberKeys(any_public_key(), os.urandom(32), os.urandom(32))
                continue
            pair, seed = pairs.setdefault(site, KeyPair.draw(self._random)), os.urandom(32)
            others = view.graph.neighbours(site)
            channels = Channels(view.context.epoch_hash, view.context.round, dict.fromkeys(others, bytes(32)))
            channels._keys[ME] = self._channel(site)
            keys, _ = deal(channels, view.ctx1, site, others, (pair, seed), self.constants.threshold, self._random)
            state.members[site] = MemberKeys(keys.public_key, keys.seed_commitment, keys.own_commitment)
            state.dealt.put(site, renamed(record_table(keys.dealt, DEALT_BYTES), site))
        return pairs

    def _publish(self, state: AskingInputs) -> Publishing:
        """Return the stage of R5 over a sum of zeros, which a site believes as any other within bounds."""
        cohort, width = state.view.context.cohort, word_type(self.constants.modulus_bits).itemsize
        words = np.zeros(self.constants.length + LANE_WORDS, f"<i{width}")
        words[0], words[-2] = len(cohort), len(cohort) * self.constants.weight
        total = words.tobytes()
        digest = survivors_hash(state.ctx2, cohort)
        transcript = transcript_hash(state.ctx2, digest, hashlib.sha256(total).digest())
        zeros = Sum(np.zeros(self.constants.length, np.int64), self.constants.scale, cohort)
        return Publishing(state.view, Summed(state.view, cohort, zeros, total, transcript), TAG, {})

    def _channel(self, site: SiteId) -> bytes:
        """Return the key of this round's channel between the site and one of its peers."""
        return Channels(self._epoch.epoch_hash, 0, {ME: self._to_site[site]}).key_at(ME, self._round)

    def _confirmations(self, state: AskingInputs) -> PairTable:
        cohort, near = state.view.context.cohort, state.view.near
        digest, mail = survivors_hash(state.ctx2, cohort), PairTable(near, CONFIRMATION_BYTES)
        only_me = near.mark([ME])
        for site in near.row(ME).tolist():
            word, _ = confirmations(self._channel(site), state.ctx2, site, ME, digest)
            item = pack_records([Confirmation(site, ME, digest, word)])
            mail.put(site, record_table(item, CONFIRMATION_BYTES), near.among(site, only_me))
        return mail

    def _check_input(
        self, secrets: SharesSent, frame: bytes, state: AskingInputs, peers: dict[SiteId, KeyPair]
    ) -> None:
        """Take the masks off again, as its peers can, and compare: what was measured was the real thing."""
        words = np.frombuffer(frame[HEADER_BYTES:-TAG_BYTES], "<u4").copy()
        masks = mask_adder(self.constants)
        masks.add_(words, self_key(secrets.seed, state.ctx2, ME), -1)
        for site, pair in peers.items():
            key = pair_key(pair, state.members[ME].public_key, state.ctx2, ME, site)
            masks.add_(words, key, -1 if site > ME else +1)
        found = words[2:-2].astype(np.int64) & ((1 << self.constants.modulus_bits) - 1)
        if not np.array_equal(found, self.host.integers & ((1 << self.constants.modulus_bits) - 1)):
            raise LocalProtocolError("expected the host's integers under the masks, got others. Fix the protocol.")
