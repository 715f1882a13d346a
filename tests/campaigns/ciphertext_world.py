"""One small federation under encrypted sums for the campaigns: real machines and workers, doubles around them.

Which mutations a world sees comes from its seed; its keys and ciphertexts do not, SEAL draws them itself. Its workers
run under the limits that the product would give them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fault_world import Charter, Host, World, charter_of, next_model
from keyed_policy import KeyedPolicy

from secure_frl.ckks.coordinator_epoch import BlindEpoch, BlindEpochOpening, PolicyFetching
from secure_frl.ckks.coordinator_states import CkksSum, blind_sum
from secure_frl.ckks.encrypted_sum import EncryptedSum
from secure_frl.ckks.epoch_cipher import EpochCipher, SiteWorkers
from secure_frl.ckks.policies import seal_policy
from secure_frl.ckks.requests import Op
from secure_frl.ckks.site_states import blind_site
from secure_frl.ckks.worker import Worker, limits_for
from secure_frl.errors import CiphertextRefused, ModelMissing, WorkerDied
from secure_frl.masking.contexts import chunk_plan, sizes_of
from secure_frl.masking.coordinator_epoch import EpochOpening
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.secure_sum import SiteId, Sum
from secure_frl.wire.registry import REGISTRY

# n, index into thresholds(n), bits, length, protection; 40 bits have two limbs, 4,200 values three chunks
SHAPES = (
    (3, 0, 16, 24, "ckks"),
    (3, 0, 24, 24, "ckks+masking"),
    (4, 0, 24, 24, "ckks"),
    (4, 0, 40, 16, "ckks+masking"),
    (5, 3, 24, 16, "ckks+masking"),
    (3, 0, 24, 4_200, "ckks"),
)
Shape = tuple[int, int, int, int, str]


@dataclass
class BlindHost(KeyedPolicy, Host):
    """The rest of a site where only sites read the policy."""

    random: Any = None
    broken: tuple[Exception, ...] = ()  # what a disk does while a sum is followed: first at the step, then at its end
    has_full_log: bool = False

    def next_tag(self, total: Sum) -> bytes:
        if self.broken:
            raise self.broken[0]
        self.model = next_model(self.model, total)
        return self.held_tag()

    def close(self, outcome: str) -> None:
        if len(self.broken) > 1:
            raise self.broken[1]
        super().close(outcome)

    def sealed_policy(self, tag: bytes) -> bytes:
        if tag != self.held_tag():
            raise ModelMissing("expected the tag held here, got another. Ask others.")
        return self.parcel(tag=tag)

    def parcel(self, **changed: Any) -> bytes:
        """The policy as this site seals it, or as an insider does: with another session, tag, model or secret."""
        assert self.secret is not None
        given = {"writer": SiteId(self.me), "step": 1, "tag": self.held_tag(), "model": self.model, **changed}
        secret, session = given.pop("secret", self.secret), given.pop("session", self.session)
        return seal_policy(secret, session, random=self.random, **given)


@cache
def blind_charter(n: int, thresholds_index: int, bits: int, length: int, protection: str) -> Charter:
    base = charter_of(n, thresholds_index, bits, length)
    constants = replace(base.constants, protection=protection, noise="local")
    return Charter(replace(base.terms, constants=constants), base.site_keys, base.coordinator_key)


class BlindWorld(World):
    """n sites that share one worker, as simulated ones do, and a coordinator with a worker of its own."""

    def __init__(self, shape: Shape, seed: int) -> None:
        charter = blind_charter(*shape)
        self.plan = chunk_plan(charter.constants)
        self.limits = limits_for(self.plan)
        self.workers, self.adder = SiteWorkers(self.limits), Worker(self.limits)
        self.blind: BlindEpoch | None = None
        self.bodies: dict[int, bytes] = {}  # of the attempt, as sites sent them
        self.doubtful: set[bytes] = set()  # ids of contexts with a bit turned: another key, or none
        self.negated: dict[bytes, bytes] = {}  # a chunk -> what it takes away when it is added
        self.misformed: set[bytes] = set()  # ciphertexts that are sound, but of no contribution's form
        self.known: set[bytes] = set()  # slots of every chunk that a key holder made
        super().__init__(charter, seed, template=False)

    def close(self) -> None:
        self.workers.close()
        self.adder.close()

    @property
    def greatest_frame(self) -> int:
        """The bytes of the greatest message that this charter allows."""
        sizes = sizes_of(self.terms)
        return max(spec.limit(sizes) + spec.trailer_bytes + spec.rest(sizes) for spec in REGISTRY.values())

    def note(self, site: int, body: bytes) -> None:
        """Remember what a site sent, and what a key holder reads of it."""
        self.bodies[site] = body
        for at in range(self.plan.chunks):
            size = int.from_bytes(body[:4], "big")
            slots, body = self.slots_of(body[4 : 4 + size]), body[4 + size :]
            assert slots is not None, at
            self.known.add(slots.tobytes())

    def start(self, site: SiteId) -> SiteProtocol:
        self.starts += 1
        if not isinstance(self.hosts[site], BlindHost):
            old = self.hosts[site]
            self.hosts[site] = BlindHost(
                old.constants, old.values, session=self.terms.session, me=site, random=self.random
            )
        return blind_site(self.terms.constants.protection)(
            workers=self.workers,
            terms=self.terms,
            me=site,
            signing_key=self.charter.site_keys[site],
            register=self.registers[site],
            random=type(self.random)(hash((self.seed, site, self.starts))),
            clock=self.clock,
            host=self.hosts[site],
            log=self._log(site),
        )

    def _log(self, site: int) -> Callable[[str, str], None]:
        """A site's log, which a full disk fails too."""
        log = self.logs[site]

        def write(name: str, text: str) -> None:
            log.append((name, text))
            if getattr(self.hosts[site], "has_full_log", False):
                raise OSError(28, "No space left on device", "log")

        return write

    def host(self, site: int) -> BlindHost:
        host = self.hosts[site]
        assert isinstance(host, BlindHost)
        return host

    def blind_opening(self, epoch: int, first_round: int) -> BlindEpochOpening:
        return BlindEpochOpening(EpochOpening(*self._opening_of(epoch, first_round)), self.terms)

    def _opening_of(self, epoch: int, first_round: int) -> tuple[Any, ...]:
        key: Ed25519PrivateKey = self.charter.coordinator_key
        return self.terms, key, self.random, self.clock, epoch, first_round, self.now + 3600

    def begin(self, number: int, models: dict[int, bytes]) -> CkksSum:
        assert self.blind is not None
        tag = self.host(0).held_tag()
        total = EncryptedSum(self.plan, self.blind.key_id, self.adder)
        cohort, kind = self.blind.epoch.members, blind_sum(self.terms.constants.protection)
        given = {SiteId(site): parcel for site, parcel in models.items()}
        return kind(self.terms, self.blind.epoch, number, 0, cohort, tag, given, self.random, total)

    def fetching(self, tag: bytes, holders: list[int]) -> PolicyFetching:
        assert self.blind is not None
        return PolicyFetching(self.terms, self.blind.epoch, tag, [SiteId(site) for site in holders])

    def cipher(self) -> EpochCipher:
        """The epoch's key at work, as every site has it."""
        found = [cipher for cipher in map(cipher_at, self.sites) if cipher is not None]
        assert self.blind is not None
        return next(cipher for cipher in found if cipher.key_id == self.blind.key_id)

    def slots_of(self, chunk: bytes) -> np.ndarray | None:
        """What who holds the epoch's key reads of a chunk: int64 [2048]; None when it does not decrypt."""
        try:
            return np.frombuffer(self.cipher().worker.ask(Op.DECRYPT, chunk), "<i8")
        except (CiphertextRefused, WorkerDied):
            return None

    def chunk_of(self, slots: np.ndarray) -> bytes:
        """A chunk as who holds the epoch's key can make it of any integers."""
        return self.cipher().worker.ask(Op.ENCRYPT, slots.astype("<i8").tobytes())


def cipher_at(site: SiteProtocol) -> EpochCipher | None:
    """The key that a site has, in whatever state it is."""
    state: Any = site._state
    view = getattr(state, "view", None) or getattr(getattr(state, "attempt", None), "view", None)
    cipher = getattr(view, "cipher", None)
    return cipher if isinstance(cipher, EpochCipher) else None


def kept_host(host: BlindHost) -> dict[str, Any]:
    return {name: copy.copy(value) if isinstance(value, list) else value for name, value in vars(host).items()}
