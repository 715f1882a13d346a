"""Sites and coordinator made from the published vectors' JSON alone, with the secrets, values and clock found there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from small_federation import Register

from secure_frl.encoding.lanes import to_ring_vector
from secure_frl.errors import ModelMissing
from secure_frl.masking import contexts
from secure_frl.masking.coordinator_states import CoordinatorEpoch, EpochOpening, MaskedSum
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.secure_sum import Block, RingVector, RoundContext, SiteId, Sum, SumConstants, SumTerms

VECTORS = Path(__file__).parents[2] / "vectors"
FOLDER = VECTORS / "v1"
STAGES = ("E0", "E1", "E2", "R0", "R1p", "R3a", "R3c", "R5")
ROUNDS = sorted(path.stem for path in FOLDER.glob("ok_round_*.json"))
# what the vectors say of an attempt -> the states that it may be in
BECOMES = {
    "left": {"Departed", "SumAwaited"},
    "closed": {"EpochOpen"},
}
TO_SITE = ("bad_to_site", "bad_to_site_0_of_101", "bad_to_site_at_edges", "ok_to_site_at_edges")
EPOCH = "ok_epoch_5"
SITE_0_OF_101 = sorted(path.stem for path in FOLDER.glob("ok_site_0_of_101*.json"))
LOST = sorted(path.stem for path in FOLDER.glob("bad_round_*.json"))


@cache
def load(name: str) -> dict[str, Any]:
    vector: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    assert vector["protocol"] == "secure_frl/secagg/v1"
    return vector


def h(text: str) -> bytes:
    return bytes.fromhex(text)


def constants_of(plain: dict[str, Any]) -> SumConstants:
    return SumConstants(**{**plain, "blocks": tuple(Block(**block) for block in plain["blocks"])})


class Drawn:
    """A random source that hands out a vector's secrets, and its coefficients as 17-bit words."""

    is_rehearsal = True

    def __init__(self, secrets: list[bytes], polynomials: list[list[str]]) -> None:
        self._secrets, self._polynomials = list(secrets), list(polynomials)

    def take(self, count: int) -> bytes:
        if count == 32:
            return self._secrets.pop(0)
        rows = b"".join(h(row) for row in self._polynomials.pop(0))
        return rows.ljust(count, b"\xff")  # a word of 17 ones is refused by whoever samples Z_65537

    def words(self, count: int) -> np.ndarray:
        raise NotImplementedError


@dataclass
class Host:
    """The vectors' host: its next policy is SHA-256 of the policy and the summed values, 8 little-endian bytes each."""

    constants: SumConstants
    values: dict[tuple[int, int], list[int]]  # of each (round, attempt)
    model: bytes
    fails: Callable[[], bool] = lambda: False  # whether the next vector can't be made
    closed: list[str] = field(default_factory=list)

    def policy_tag(self, announced_tag: bytes, model: bytes | None) -> bytes:
        if model is not None:
            self.model = model
        tag = contexts.model_tag(self.model)
        if tag != announced_tag and model is None:
            raise ModelMissing("expected the policy held here, got another tag. Send it.")
        return tag

    def contribute(self, context: RoundContext) -> RingVector:
        if self.fails():
            raise OSError("as a vector of the vectors says")
        return to_ring_vector(np.array(self.values[context.round, context.attempt], np.int64), self.constants)

    def release(self) -> None: ...

    def next_tag(self, total: Sum) -> bytes:
        self.model = hashlib.sha256(self.model + total.integers.astype("<i8").tobytes()).digest()
        return contexts.model_tag(self.model)

    def close(self, outcome: str) -> None:
        self.closed.append(outcome)


@dataclass
class Parties:
    """Sites and coordinator of one vector."""

    vector: dict[str, Any]

    def __post_init__(self) -> None:
        v = self.vector
        self.attempts, self.vector_fails = attempts_of(v), False
        self.constants = constants_of(v["constants"])
        self.signing = [Ed25519PrivateKey.from_private_bytes(h(secret)) for secret in v["site_identity_secrets"]]
        self.coordinator_key = Ed25519PrivateKey.from_private_bytes(h(v["coordinator_identity_secret"]))
        self.terms = SumTerms(
            session=contexts.session_id(h(v["charter"])),
            constants=self.constants,
            site_public_keys=tuple(map(h, v.get("site_identity_publics", [])))
            or tuple(key.public_key().public_bytes_raw() for key in self.signing),
            coordinator_public_key=self.coordinator_key.public_key().public_bytes_raw(),
            roster_hash=h(v["roster_hash"]),
            epoch_rounds=v["epoch_rounds"],
        )
        self.clock = float(v["clock_s"])
        self.registers = [Register() for _ in self.signing]
        fresh = [h(one["drawn"]["coordinator"]["fresh"]) for one in self.attempts]
        self.random = Drawn([h(v["drawn"]["coordinator"]["c_sk"]), *fresh], [])

    def site(self, i: int) -> SiteProtocol:
        v, first = self.vector, self.attempts[0]
        drawn = [one["drawn"] for one in self.attempts if i in one.get("cohort", [i])]
        polynomials = [d[name][i] for d in drawn for name in ("seed_coefficients", "key_coefficients")]
        nonce = [h(v[f"nonce_{i}"])] if v["constants"]["profile"] == "cross_device" else []
        secrets = [h(d[name][i]) for d in drawn for name in ("fresh", "s_sk", "b")]
        random = Drawn([h(v["drawn"]["c_sk"][i]), *nonce, *secrets], polynomials)
        model = b"" if i in first["sites_without_the_model"] else h(first["model"])
        values = {(one["round"], one["attempt"]): one["values"][i] for one in self.attempts}
        host = Host(self.constants, values, model, lambda: self.vector_fails)
        now = lambda: self.clock  # noqa: E731
        return SiteProtocol(self.terms, SiteId(i), self.signing[i], self.registers[i], random, now, host)

    def opening(self) -> EpochOpening:
        v, now = self.vector, lambda: self.clock
        return EpochOpening(
            self.terms, self.coordinator_key, self.random, now, v["epoch"], v["first_round"], v["expiry_s"]
        )

    def begin(self, epoch: CoordinatorEpoch, at: int = 0) -> MaskedSum:
        v = self.attempts[at]
        models = dict.fromkeys(map(SiteId, v["sites_without_the_model"]), h(v["model"]))
        tag, cohort = contexts.model_tag(h(v["model"])), tuple(map(SiteId, v.get("cohort", epoch.members)))
        return MaskedSum(self.terms, epoch, v["round"], v["attempt"], cohort, tag, models, self.random)

    def stages(self) -> Iterator[tuple[str, Any]]:
        """Yield each stage with the coordinator's machine in it; the caller asks, answers and closes."""
        machine: Any = self.opening()
        for stage in STAGES:
            if stage == "E2":  # every vector of both ends is cross_silo
                continue
            if stage == "R0":
                machine = self.begin(machine.outcome())
            elif stage == "R5":
                machine.publish(h(self.vector["outcome"]["next_tag"]))
            yield stage, machine


def attempts_of(vector: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one vector for each attempt of an epoch's vector; a round's vector is its only one."""
    found = []
    for one in vector.get("attempts", [{}]):
        drawn = {**vector["drawn"], **one.get("drawn", {})}
        drawn["coordinator"] = {**vector["drawn"]["coordinator"], **drawn["coordinator"]}
        steps = vector["steps"] if not found else []  # the epoch's are before the first attempt's
        found.append({**vector, **one, "drawn": drawn, "steps": [*steps, *one.get("steps", ())]})
    return found


def steps_of(vector: dict[str, Any], stage: str) -> dict[int, dict[str, Any]]:
    return {step["site"]: step for step in vector["steps"] if step["stage"] == stage}


def requests_before(vector: dict[str, Any], after: str | None) -> list[bytes]:
    """Return the requests to site 0 up to the stage `after`, none without one."""
    stages = STAGES[: STAGES.index(after) + 1] if after else ()
    return [h(step["request"]) for step in vector["steps"] if step["site"] == 0 and step["stage"] in stages]


def dialogue(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a case with what is sent before and after it, each with request and reply; only the case has `then`."""
    return [*case.get("first", ()), case, *case.get("next", ())]


def cases(name: str) -> list[Any]:
    vector = load(name)
    return [pytest.param({"base": vector.get("base"), **case}, id=case["name"]) for case in vector["cases"]]
