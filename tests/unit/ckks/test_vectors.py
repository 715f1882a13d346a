"""The published vectors of encrypted sums, replayed against this package from their JSON alone.

The values come from tests/vectors/encrypted.py, which shares no code with secure_frl and writes them again in
tests/unit/masking/test_vectors.py. Encryption is random, so a worker that hands out the vector's bytes stands in the
place of the one that encrypts; all else is the real part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blind_federation import BlindHost
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from small_federation import Register

from secure_frl.ckks import encrypted_sum, envelopes
from secure_frl.ckks.coordinator_epoch import BlindEpochOpening, PolicyFetching
from secure_frl.ckks.coordinator_states import blind_sum
from secure_frl.ckks.encrypted_sum import EncryptedSum
from secure_frl.ckks.envelopes import check_chunk
from secure_frl.ckks.keys import Addressee, EpochKey, open_package, seal_package
from secure_frl.ckks.policies import keyed_tag, open_policy, seal_policy
from secure_frl.ckks.requests import Op
from secure_frl.ckks.site_states import blind_site, published_digest
from secure_frl.encoding import ring
from secure_frl.encoding.slots import SLOTS, from_slots, greatest_limb_bits, plan_chunks, to_slots
from secure_frl.errors import BitBudget, EnvelopeRefused, SecureFrlError
from secure_frl.masking import contexts, keys
from secure_frl.masking.coordinator_epoch import EpochOpening
from secure_frl.masking.prg import PairwiseMasks
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.secure_sum import COORDINATOR_ID, Block, SiteId, Sum, SumConstants, SumTerms
from secure_frl.wire.envelope import unseal
from secure_frl.wire.messages import MessageType
from secure_frl.wire.signatures import signed_bytes

FILE = Path(__file__).parents[2] / "vectors" / "v1" / "ok_encrypted.json"
BOTH = ("ckks", "ckks+masking")
STEWARD, MINOR_VERSION_AT = SiteId(0), 4  # the latter in a SEAL header
T = MessageType


@cache
def load() -> dict[str, Any]:
    vector: dict[str, Any] = json.loads(FILE.read_text())
    assert vector["protocol"] == "secure_frl/secagg/v1"
    return vector


def h(text: str) -> bytes:
    return bytes.fromhex(text)


def padded(row: list[int]) -> np.ndarray:
    return np.array(row + [0] * (SLOTS - len(row)), np.int64)


# --- words and slots -------------------------------------------------------------------------------------------------


def test_chunk_plans_are_those_of_the_vectors() -> None:
    for item in load()["plans"]:
        plan = plan_chunks(sites=item["sites"], length=item["length"], modulus_bits=item["modulus_bits"])

        assert greatest_limb_bits(item["sites"]) == item["greatest_limb_bits"]
        assert (list(plan.limb_widths), plan.chunks) == (item["limb_widths"], item["chunks"])
        assert plan.max_body_bytes == item["C"]
        with pytest.raises(BitBudget):
            replace(plan, limb_bits=item["greatest_limb_bits"] + 1)


@pytest.mark.parametrize("case", range(5))
def test_slots_and_their_sum_are_those_of_the_vectors(case: int) -> None:
    item = load()["slots"][case]
    plan = plan_chunks(sites=item["sites"], length=item["length"], modulus_bits=item["modulus_bits"])
    width, kind = plan.modulus_bits, ring.word_type(plan.modulus_bits)
    places = np.arange(plan.words)
    mixed = np.zeros(plan.words, kind)
    PairwiseMasks(plan.words, 8 * kind.itemsize).add_(mixed, h(item["mask_key_of_the_first"]), +1)
    ring.reduce_(mixed, width)
    ends = ((1 << (width - 1)) - (places % 2).astype(object)).astype(kind)
    near = ((places - 3).astype(object) % (1 << width)).astype(kind)
    vectors = [mixed, ends, near]

    slots = [list(to_slots(words, plan)) for words in vectors]
    total = from_slots([sum(chunks) for chunks in zip(*slots, strict=True)], plan, len(vectors))

    hashes = [[hashlib.sha256(row.astype("<i8").tobytes()).hexdigest() for row in rows] for rows in slots]
    assert hashes == item["slot_hashes"]
    assert hashlib.sha256(total.astype(kind.newbyteorder("<")).tobytes()).hexdigest() == item["sum_hash"]
    if "vectors" in item:  # in full
        assert [words.tolist() for words in vectors] == item["vectors"]
        assert np.array_equal(slots, [list(map(padded, rows)) for rows in item["slots"]])
        assert from_slots(map(padded, item["summed_slots"]), plan, 3).tolist() == item["sum"] == total.tolist()


def test_the_outer_form_of_a_chunk_is_that_of_the_vectors_and_no_other() -> None:
    for item in load()["chunk_forms"]:
        head, tail = h(item["head"]), h(item["tail"])
        chunk = head + bytes(item["size"] - 16) + tail
        check_chunk(chunk)
        places = [*range(len(head)), *range(len(chunk) - len(tail), len(chunk))]
        for at in (at for at in places if at != len(head) - 16 + MINOR_VERSION_AT):
            with pytest.raises(EnvelopeRefused):
                check_chunk(chunk[:at] + bytes((chunk[at] ^ 1,)) + chunk[at + 1 :])
    assert len(chunk) == 66_000


# --- parties made from a vector --------------------------------------------------------------------------------------


class Drawn:
    """A random source that hands out a vector's secrets, and its coefficients as 17-bit words."""

    is_rehearsal = True

    def __init__(self, secrets: Iterable[str], polynomials: Iterable[list[str]] = ()) -> None:
        self._secrets, self._polynomials = list(map(h, secrets)), list(polynomials)

    def take(self, count: int) -> bytes:
        if count == 32:
            return self._secrets.pop(0)
        return b"".join(map(h, self._polynomials.pop(0))).ljust(count, b"\xff")  # 17 ones are sampled again


class Worker:
    """In the place of a worker: gives the vector's ciphertexts for the vector's slots, and the other way round."""

    holds: object = None

    def __init__(self, vector: dict[str, Any], me: int | None = None) -> None:
        self.vector, self.me = vector, me
        self.summed = cut(vector["outcome"]["summed_ciphertexts"])

    def ask(self, op: Op, data: bytes = b"") -> bytes:
        return h(self.vector["drawn"]["context"]) if op == Op.MAKE_KEY else b""

    def ask_each(self, op: Op, parts: Iterable[bytes | memoryview]) -> list[bytes]:
        given = [bytes(part) for part in parts]
        if op == Op.ENCRYPT:
            assert given == [padded(row).astype("<i8").tobytes() for row in self.vector["slots"][str(self.me)]]
            return cut(self.vector["ciphertexts"][str(self.me)])
        if op == Op.DECRYPT:
            assert given == self.summed
            return [padded(row).astype("<i8").tobytes() for row in self.vector["outcome"]["summed_slots"]]
        if op == Op.STAGE:
            assert not given or given in [cut(body) for body in self.vector["ciphertexts"].values()]
        return self.summed if op == Op.SAVE else []

    def notice_end(self) -> None: ...

    def fresh(self) -> Worker:  # as `SiteWorkers`
        return self

    def holding(self, context: bytes) -> Worker:
        assert context == h(self.vector["drawn"]["context"])
        return self

    def close(self) -> None: ...


def cut(body: str) -> list[bytes]:
    """Cut ciphertexts of 16 bytes, each after its length."""
    data = h(body)
    assert data[:4] == b"\x00\x00\x00\x10"
    return [data[at + 4 : at + 20] for at in range(0, len(data), 20)]


@pytest.fixture
def any_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the vector's chunks of 16 bytes pass; the real form has a test above."""
    for module in (envelopes, encrypted_sum):
        monkeypatch.setattr(module, "check_chunk", lambda chunk: None)


class VectorHost(BlindHost):
    """The vectors' host: its policy as they step it, and their parcel."""

    parcel: Callable[..., bytes]

    def next_tag(self, total: Sum) -> bytes:
        self.total = total
        self.model = hashlib.sha256(self.model + total.integers.astype("<i8").tobytes()).digest()
        return self.held_tag()

    def sealed_policy(self, tag: bytes) -> bytes:
        return self.parcel(self.secret, self.session, tag=tag, model=self.model)


class Parties:
    """Both ends of one vector."""

    def __init__(self, vector: dict[str, Any]) -> None:
        self.v, drawn = vector, vector["drawn"]
        plain = vector["constants"]
        self.constants = SumConstants(**{**plain, "blocks": tuple(Block(**block) for block in plain["blocks"])})
        self.signing = [Ed25519PrivateKey.from_private_bytes(h(one)) for one in vector["site_identity_secrets"]]
        self.key = Ed25519PrivateKey.from_private_bytes(h(vector["coordinator_identity_secret"]))
        self.terms = SumTerms(
            session=contexts.session_id(h(vector["charter"])),
            constants=self.constants,
            site_public_keys=tuple(key.public_key().public_bytes_raw() for key in self.signing),
            coordinator_public_key=self.key.public_key().public_bytes_raw(),
            roster_hash=h(vector["roster_hash"]),
            epoch_rounds=vector["epoch_rounds"],
        )
        self.random = Drawn([drawn["coordinator"]["c_sk"], drawn["coordinator"]["fresh"]])
        self.hosts: dict[int, VectorHost] = {}

    def parcel(self, secret: bytes, session: bytes, **policy: Any) -> bytes:
        fresh = Drawn([self.v["drawn"]["parcel_fresh"]])
        return seal_policy(secret, session, writer=STEWARD, step=self.v["step"], random=fresh, **policy)

    def site(self, i: int) -> SiteProtocol:
        v, d = self.v, self.v["drawn"]
        begins = v["first_round"] == 1  # only then has the steward no site secret yet
        of_steward = [*[d["site_secret"]] * begins, *d["package_fresh"]] if i == STEWARD else []
        secrets = [d["c_sk"][i], *of_steward, *(d[name][i] for name in ("fresh", "s_sk", "b") if name in d)]
        polynomials = [d[f"{kind}_coefficients"][i] for kind in ("seed", "key") if "b" in d]
        host = self.hosts[i] = VectorHost(
            self.constants, np.array(v["values"][i], np.int64), [], session=self.terms.session, me=i
        )
        host.model = h(v["other_model" if i in v["sites_with_the_other_model"] else "model"])
        host.parcel = self.parcel
        host.settled = None if begins else h(d["site_secret"])
        return blind_site(self.constants.protection)(
            workers=Worker(v, i),
            terms=self.terms,
            me=SiteId(i),
            signing_key=self.signing[i],
            register=Register(),
            random=Drawn(secrets, polynomials),
            clock=lambda: float(v["clock_s"]),
            host=host,
        )

    def stages(self) -> Iterator[tuple[str, Any]]:
        """Yield each stage with the coordinator's machine in it; the caller asks, answers and closes."""
        v, tag = self.v, h(self.v["derived"]["policy_tag"])
        numbers = (v["epoch"], v["first_round"], v["expiry_s"])
        opening = BlindEpochOpening(
            EpochOpening(self.terms, self.key, self.random, lambda: float(v["clock_s"]), *numbers), self.terms
        )
        for stage in ("E0", "E1", "E3", "Package"):
            yield stage, opening
        blind = opening.outcome()
        holders = [site for site, held in blind.tags.items() if held == tag]
        assert set(blind.tags) - set(holders) == set(v["sites_with_the_other_model"])
        fetching = PolicyFetching(self.terms, blind.epoch, tag, holders)
        yield "R6", fetching
        encrypted = EncryptedSum(contexts.chunk_plan(self.constants), blind.key_id, Worker(v))
        models = {site: fetching.parcel for site in blind.tags if site not in holders}
        machine = blind_sum(self.constants.protection)(
            self.terms, blind.epoch, v["round"], v["attempt"], blind.epoch.members, tag, models, self.random, encrypted
        )
        for stage in ("R0", "R1p", "R3a", "R3c") if self.constants.protection == "ckks+masking" else ("R0",):
            yield stage, machine
        machine.publish()
        yield "R5C", machine


# --- the key and the policy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protection", BOTH)
def test_a_package_is_that_of_the_vectors(protection: str) -> None:
    v, parties = load()[protection], Parties(load()[protection])
    p, d = v["package_1"], v["derived"]
    to = Addressee(parties.terms.session, h(d["epoch_hash"]), SiteId(1))
    key = EpochKey(h(d["key_id"]), h(v["drawn"]["context"]), h(v["drawn"]["site_secret"]))
    steward, own = (keys.KeyPair.from_secret(h(v["drawn"]["c_sk"][i])) for i in (0, 1))
    channel = keys.channel_key(own, steward.public, to.epoch_hash, 1, 0)
    steward_key = parties.signing[STEWARD]

    assert channel.hex() == p["channel"]
    assert seal_package(key, to, channel, steward_key, Drawn([p["fresh"]])).hex() == p["package"]
    opened = open_package(h(p["package"]), to, channel, parties.terms.site_public_keys[STEWARD], None)
    assert (opened.key_id, opened.context, opened.site_secret) == (key.key_id, key.context, key.site_secret)
    assert unseal(h(p["key"]), h(p["package"])[32:], h(p["associated"])).hex() == p["plain"]
    assert (p["package"][:64], p["plain"][-128:]) == (p["fresh"], p["signature"])


@pytest.mark.parametrize("protection", BOTH)
def test_policy_tag_and_parcel_are_those_of_the_vectors(protection: str) -> None:
    v, parties = load()[protection], Parties(load()[protection])
    p, tag, secret = v["parcel"], h(v["derived"]["policy_tag"]), h(v["drawn"]["site_secret"])
    session, model = parties.terms.session, h(v["model"])

    assert keyed_tag(secret, session, model) == tag
    assert parties.parcel(secret, session, tag=tag, model=model).hex() == p["parcel"]
    assert open_policy(secret, session, h(p["parcel"]), tag).hex() == p["model"] == v["model"]
    sealed = h(p["parcel"])[-(len(model) + 16) :]
    assert unseal(h(p["key"]), sealed, h(p["associated"])) == model
    assert p["fresh"] == v["drawn"]["parcel_fresh"]


# --- rounds ----------------------------------------------------------------------------------------------------------


def replay_site(vector: dict[str, Any], i: int) -> VectorHost:
    parties = Parties(vector)
    site = parties.site(i)
    for step in vector["steps"]:
        if step["site"] == i:
            assert site.handle(h(step["request"])).hex() == step["reply"], step["stage"]
    assert site.state_name == "EpochOpen"
    return parties.hosts[i]


def replay_coordinator(vector: dict[str, Any]) -> Any:
    machine: Any = None
    for stage, machine in Parties(vector).stages():
        steps = {step["site"]: step for step in vector["steps"] if step["stage"] == stage}
        assert {i: frame.hex() for i, frame in machine.requests()} == {i: s["request"] for i, s in steps.items()}, stage
        for i, step in steps.items():
            if step["arrives"]:
                machine.receive(SiteId(i), h(step["reply"]))
        machine.close_stage()
    return machine


@pytest.mark.parametrize("protection", BOTH)
def test_every_site_answers_every_frame_byte_by_byte(protection: str, any_chunk: None) -> None:
    v = load()[protection]
    for i in range(v["constants"]["sites"]):
        host = replay_site(v, i)

        assert host.closed == ["summed"]
        assert host.total is not None
        assert host.total.integers.tolist() == v["outcome"]["sum"]
        assert host.model.hex() == v["outcome"]["next_model"]
        assert host.held_tag().hex() == v["outcome"]["next_tag"]


@pytest.mark.parametrize("protection", BOTH)
def test_the_coordinator_sends_every_frame_and_hears_one_next_policy(protection: str, any_chunk: None) -> None:
    v = load()[protection]
    outcome = v["outcome"]

    machine = replay_coordinator(v)

    assert list(machine.outcome().contributors) == outcome["U3"]
    assert machine.outcome().digest.hex() == outcome["digest"]
    assert machine.transcript_hash.hex() == outcome["transcript_hash"]
    assert machine._state.summed.total_bytes.hex() == outcome["M"]
    cohort = range(v["constants"]["sites"])
    assert {i: tag.hex() for i, tag in machine._state.followers.items()} == dict.fromkeys(cohort, outcome["next_tag"])


@pytest.mark.parametrize("protection", BOTH)
@pytest.mark.parametrize("stage", ["Package", "R0", "R5C"])
@pytest.mark.parametrize("end", ["site", "coordinator"])
def test_a_changed_byte_is_seen(end: str, stage: str, protection: str, any_chunk: None) -> None:
    vector = json.loads(json.dumps(load()[protection]))
    step = next(step for step in vector["steps"] if step["stage"] == stage and step["site"] == 1)
    changed = "reply" if end == "site" else "request"
    step[changed] = step[changed][:-1] + format(int(step[changed][-1], 16) ^ 1, "x")

    with pytest.raises((AssertionError, SecureFrlError)):
        replay_site(vector, 1) if end == "site" else replay_coordinator(vector)


@pytest.mark.parametrize("protection", BOTH)
def test_contexts_keys_digest_and_signature_are_those_of_the_vectors(protection: str) -> None:
    v, parties = load()[protection], Parties(load()[protection])
    d, outcome, session = v["derived"], v["outcome"], parties.terms.session
    own = [keys.KeyPair.from_secret(h(secret)) for secret in v["drawn"]["c_sk"]]
    coordinator = keys.KeyPair.from_secret(h(v["drawn"]["coordinator"]["c_sk"]))
    cohort, survivors = tuple(map(SiteId, range(len(own)))), tuple(map(SiteId, outcome["U3"]))
    epoch = contexts.epoch_hash(session, v["epoch"], [(i, own[i].public, b"") for i in cohort], coordinator.public)
    ctx1 = contexts.attempt_context(session, epoch, v["round"], v["attempt"], cohort)
    config = contexts.config_hash(parties.constants)
    members = contexts.members_hash(b"") if protection == "ckks" else h(d["U2_hash"])  # the other: R1' above
    ctx2 = contexts.mask_context(ctx1, h(d["policy_tag"]), config, members)
    named = contexts.survivors_hash(ctx2, survivors)
    publics = {**{i: own[i].public for i in cohort}, COORDINATOR_ID: coordinator.public}
    channels = keys.open_channels(own[0], 0, publics, epoch, v["first_round"])
    channels.advance_to(v["round"])
    fresh, fresh_s = h(v["drawn"]["fresh"][0]), h(v["drawn"]["coordinator"]["fresh"])
    rows = [("up R2c", ctx2, T.R2C, fresh), ("up R5c", ctx1, T.R5C_REPLY, fresh), ("down R5c", ctx1, T.R5C, fresh_s)]

    found = {"key_id": hashlib.sha256(h(v["drawn"]["context"])).digest(), "config_hash": config, "epoch_hash": epoch}
    found |= {"ctx1": ctx1, "U2_hash": members, "ctx2": ctx2, "U3_hash": named, "policy_tag": h(d["policy_tag"])}
    for name, salt, kind, drawn in rows:
        found[f"link {name}, site 0"] = keys.link_key(channels.key(COORDINATOR_ID), salt, kind, drawn)
    assert {name: value.hex() for name, value in found.items()} == d

    digest = published_digest(h(outcome["M"]), hashlib.sha256(h(outcome["summed_ciphertexts"])).digest())
    transcript = contexts.transcript_hash(ctx2, named, digest)
    signed = (ctx1, list(survivors), digest, b"", transcript)
    assert (digest.hex(), transcript.hex()) == (outcome["digest"], outcome["transcript_hash"])
    assert signed_bytes("R5", *signed).hex() == outcome["r5c_signed_bytes"]
