"""The small federation of masking's tests, with a coordinator that is blind: real workers, real ciphertexts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from small_federation import Federation, Host, next_model

from secure_frl.ckks.coordinator_epoch import BlindEpoch, BlindEpochOpening, PolicyFetching
from secure_frl.ckks.coordinator_states import CkksSum, blind_sum
from secure_frl.ckks.encrypted_sum import EncryptedSum
from secure_frl.ckks.epoch_cipher import SiteWorkers
from secure_frl.ckks.policies import keyed_tag, open_policy, seal_policy
from secure_frl.ckks.site_states import blind_site
from secure_frl.ckks.worker import Limits, Worker
from secure_frl.errors import ModelMissing
from secure_frl.masking.contexts import chunk_plan
from secure_frl.masking.coordinator_epoch import EpochOpening
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import SiteId, Sum

ROOMY = Limits(address_bytes=1 << 30)
STAGES = {"ckks": ("R0",), "ckks+masking": ("R0", "R1p", "R3a", "R3c")}


@dataclass
class BlindHost(Host):
    """The rest of a site where only sites read the policy."""

    session: bytes = b""
    me: int = 0
    secret: bytes | None = None

    def site_secret(self) -> bytes | None:
        return self.secret

    def keep_secret(self, secret: bytes) -> None:
        assert self.secret in (None, secret)
        self.secret = secret

    def held_tag(self) -> bytes:
        assert self.secret is not None
        return keyed_tag(self.secret, self.session, self.model)

    def policy_tag(self, announced_tag: bytes, model: bytes | None) -> bytes:
        if self.held_tag() != announced_tag:
            if model is None:
                raise ModelMissing("expected the policy held here, got another tag. Send it.")
            assert self.secret is not None
            self.model = open_policy(self.secret, self.session, model, announced_tag)
        return self.held_tag()

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
        tag = changes.get("tag", self.hosts[0].held_tag())
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


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
