"""The real coordinator among sites that exist only as far as it can see: its CPU time and memory for one round.

Every frame it reads is right in each byte that it checks: keys, commitments, shares, tags, masks that do not cancel.
What it cannot check is not made: sealed shares and confirmations are random bytes, and pair masks of two survivors,
which cancel in the sum, are left out. The sum is compared with what went in.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from parties import Keys, any_public_key

from secure_frl.encoding.lanes import to_ring_vector
from secure_frl.encoding.ring import reduce_
from secure_frl.errors import LocalProtocolError
from secure_frl.masking.coordinator_memory import AskingShares
from secure_frl.masking.coordinator_states import CoordinatorEpoch, MaskedSum
from secure_frl.masking.keys import Channels, KeyPair, link_key, pair_key, self_key
from secure_frl.masking.prg import mask_adder
from secure_frl.masking.secret_sharing import split
from secure_frl.masking.site_shares import key_share_commitment, seed_commitment, seed_share_commitment
from secure_frl.masking.unmasking import unmask_
from secure_frl.randomness import system_source
from secure_frl.secure_sum import COORDINATOR_ID, SiteId, SumConstants
from secure_frl.wire.envelope import Address, mac_frame, seal_frame
from secure_frl.wire.messages import Body, Confirmations, MessageType, ReturnedShares, RoundKeys, encode_body
from secure_frl.wire.records import SEALED_SHARES_BYTES, Confirmation, DealtShares, Share, pack_records

TAG = bytes(32)
Answers = Callable[[SiteId], bytes]


@dataclass(frozen=True)
class _Secrets:
    """What a site would hold: made once, read by every holder's answer."""

    keys: KeyPair
    seed: bytes
    key_shares: dict[SiteId, bytes]  # holder -> 64 bytes
    seed_shares: dict[SiteId, bytes]


@dataclass(frozen=True)
class Cost:
    """One round at the coordinator."""

    cpu_s: dict[str, float]  # by stage
    unmasking_bytes: int  # allocated at the peak of unmasking, beyond what was there before

    @property
    def total_cpu_s(self) -> float:
        """Return the CPU seconds from R0 to the sum."""
        return sum(self.cpu_s.values())


class ManySites:
    """Runs rounds of a coordinator with `constants.sites` sites, of which some fall silent before R2."""

    def __init__(self, constants: SumConstants) -> None:
        self.constants, self._random = constants, system_source()
        n = constants.sites
        keys = Keys.draw(n)
        self._terms = keys.terms(constants)
        self._sites = tuple(SiteId(site) for site in range(n))
        self._channels = {site: os.urandom(32) for site in self._sites}
        epoch_hash, public_keys = os.urandom(32), tuple(any_public_key() for _ in range(n + 1))
        channels = Channels(epoch_hash, 0, {int(site): key for site, key in self._channels.items()})
        expiry_s = int(time.time()) + 3600
        self._epoch = CoordinatorEpoch(
            1, epoch_hash, self._sites, self._sites, public_keys, channels, 1, expiry_s, keys.coordinator
        )
        self._fresh = {site: os.urandom(32) for site in self._sites}
        self._integers = np.arange(constants.length, dtype=np.int64) % 1000 - 500
        self._masks = mask_adder(constants)

    def round(self, lost: int) -> Cost:
        """Run the one round of this epoch. lost: how many sites, chosen at random, send no masked input.

        Raises LocalProtocolError if the sum is not what went in.
        """
        machine = MaskedSum(self._terms, self._epoch, 1, 0, self._sites, TAG, {}, self._random)
        view = machine._state.view  # type: ignore[union-attr]  # a new attempt has one
        self._ctx1, self._graph = view.ctx1, view.graph
        gone = {SiteId(int(site)) for site in np.random.default_rng(1).choice(len(self._sites), lost, replace=False)}
        there = [site for site in self._sites if site not in gone]
        self._secrets: dict[SiteId, _Secrets] = {}
        cpu_s = {"R0-R1": self._exchange(machine, self._sites, self._deal)}
        self._ctx2 = machine._state.ctx2  # type: ignore[union-attr]  # known from U2 on
        cpu_s["R1p-R2"] = self._exchange(machine, there, lambda site: self._input(site, gone))
        cpu_s["R3a-R3b"] = self._exchange(machine, there, lambda site: self._confirm(site, gone))
        start = time.process_time()
        for _ in machine.requests():
            pass
        spent = time.process_time() - start
        for site in there:
            spent += self._take(machine, site, self._return(site, gone))
        cpu_s["R3c-R4"] = spent
        state = machine._state
        if not isinstance(state, AskingShares):
            raise LocalProtocolError("expected the stage of shares, got another. Fix the benchmark.")
        tried = replace(state, accumulator=state.accumulator.copy())
        unmasking_bytes = self._traced(lambda: unmask_(tried))
        start = time.process_time()
        machine.close_stage()
        cpu_s["unmask"] = time.process_time() - start
        if not np.array_equal(machine.outcome().integers, len(there) * self._integers):
            raise LocalProtocolError("expected the sum of what went in, got another. Fix the protocol.")
        return Cost(cpu_s, unmasking_bytes)

    # --- driving and measuring

    def _exchange(self, machine: MaskedSum, answering: Iterable[SiteId], answer: Answers) -> float:
        """Run one stage; return the coordinator's CPU seconds for its requests, the answers and the stage's end."""
        spent = 0.0
        requests: Iterator[object] = machine.requests()
        start = time.process_time()
        while next(requests, None) is not None:  # a carrier would send it; none is kept
            pass
        spent += time.process_time() - start
        for site in answering:
            spent += self._take(machine, site, answer(site))
        start = time.process_time()
        machine.close_stage()
        return spent + time.process_time() - start

    @staticmethod
    def _take(machine: MaskedSum, site: SiteId, frame: bytes) -> float:
        start = time.process_time()
        machine.receive(site, frame)
        return time.process_time() - start

    @staticmethod
    def _traced(work: Callable[[], object]) -> int:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak - before

    # --- what sites send

    def _seal(self, site: SiteId, message_type: MessageType, salt: bytes, body: Body) -> bytes:
        return seal_frame(self._address(site), message_type, encode_body(body), self._link(site, message_type, salt))

    def _address(self, site: SiteId) -> Address:
        return Address(self._terms.session, 1, 1, 0, site, COORDINATOR_ID, self._fresh[site])

    def _link(self, site: SiteId, message_type: MessageType, salt: bytes) -> bytes:
        channel = Channels(self._epoch.epoch_hash, 0, {site: self._channels[site]}).key_at(site, 1)
        return link_key(channel, salt, message_type, self._fresh[site])

    def _deal(self, site: SiteId) -> bytes:
        ctx1, threshold = self._ctx1, self.constants.threshold
        keys, seed = KeyPair.draw(self._random), os.urandom(32)
        others = self._graph.neighbours(site)
        of_seed = split(seed, threshold, (*others, site), self._random)
        of_key = split(keys.secret, threshold, others, self._random)
        self._secrets[site] = _Secrets(keys, seed, of_key, of_seed)
        dealt = pack_records(
            DealtShares(
                other,
                key_share_commitment(ctx1, site, other, of_key[other]),
                seed_share_commitment(ctx1, site, other, of_seed[other]),
                os.urandom(SEALED_SHARES_BYTES),
            )
            for other in others
        )
        own = seed_share_commitment(ctx1, site, site, of_seed[site])
        body = RoundKeys(keys.public, seed_commitment(ctx1, site, seed), own, dealt)
        return self._seal(site, MessageType.R1, ctx1, body)

    def _input(self, site: SiteId, gone: set[SiteId]) -> bytes:
        secrets = self._secrets[site]
        words = to_ring_vector(self._integers, self.constants).words
        masks = [(self_key(secrets.seed, self._ctx2, site), +1)]
        for other in gone.intersection(self._graph.neighbours(site)):
            key = pair_key(secrets.keys, self._secrets[other].keys.public, self._ctx2, site, other)
            masks.append((key, +1 if site < other else -1))
        self._masks.add_all_(words, masks)
        reduce_(words, self.constants.modulus_bits)
        link = self._link(site, MessageType.R2, self._ctx2)
        return mac_frame(self._address(site), MessageType.R2, words.data.cast("B"), link)

    def _confirm(self, site: SiteId, gone: set[SiteId]) -> bytes:
        digest = bytes(32)
        items = [
            Confirmation(site, other, digest, os.urandom(32))
            for other in self._graph.neighbours(site)
            if other not in gone
        ]
        return self._seal(site, MessageType.R3B, self._ctx2, Confirmations(pack_records(items)))

    def _return(self, site: SiteId, gone: set[SiteId]) -> bytes:
        near = sorted((*self._graph.neighbours(site), site))
        of_seeds = [Share(one, self._secrets[one].seed_shares[site]) for one in near if one not in gone]
        of_keys = [Share(one, self._secrets[one].key_shares[site]) for one in near if one in gone]
        return self._seal(site, MessageType.R4, self._ctx2, ReturnedShares(*map(pack_records, (of_seeds, of_keys))))
