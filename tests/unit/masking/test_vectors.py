"""The published vectors, replayed against this package from their JSON alone, and made again by their generator.

The values in tests/vectors/v1 come from a second program that shares no code with secure_frl. A vector is never edited:
a change of the protocol is a v2.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secure_frl import errors
from secure_frl.encoding.lanes import to_ring_vector
from secure_frl.errors import AlreadyAnswered, ModelMissing, PeerError, RoundAborted, SecureFrlError
from secure_frl.masking import contexts, graph, keys, prg, secret_sharing, site_shares
from secure_frl.masking.coordinator_states import EpochOpening, MaskedSum
from secure_frl.masking.refusals import CODES
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.secure_sum import COORDINATOR_ID, Block, RingVector, RoundContext, SiteId, Sum, SumConstants, SumTerms
from secure_frl.wire.envelope import read_header, seal
from secure_frl.wire.hashing import labelled_hash, lp
from secure_frl.wire.messages import Complaint, MessageType, RefusalCode, encode_body
from secure_frl.wire.records import pack_members

VECTORS = Path(__file__).parents[2] / "vectors"
FOLDER = VECTORS / "v1"
STAGES = ("E0", "E1", "E2", "R0", "R1p", "R3a", "R3c", "R5")
ROUNDS = sorted(path.stem for path in FOLDER.glob("ok_round_*.json"))
# what the vectors say of an attempt -> the states that it may be in
BECOMES = {
    "left": {"Departed", "SumAwaited"},
    "closed": {"EpochOpen"},
}
BAD_TO_SITE = ("bad_to_site", "bad_to_site_0_of_101")
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


# --- a party made from a vector --------------------------------------------------------------------------------------


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
class Register:
    """Durable memory; survives a restart."""

    epoch: int = 0
    row: tuple[int, int, str] | None = None

    def last_epoch(self) -> int:
        return self.epoch

    def note_epoch(self, epoch: int) -> None:
        if epoch <= self.epoch:
            raise AlreadyAnswered("expected a newer epoch, got an older one. Open another.")
        self.epoch = epoch

    def last_stage(self) -> tuple[int, int, str] | None:
        return self.row

    def record(self, round_number: int, attempt: int, stage: str, digest: bytes) -> None:
        self.row = (round_number, attempt, stage)


@dataclass
class Host:
    """The vectors' host: its next policy is SHA-256 of the policy and the summed values, 8 little-endian bytes each."""

    constants: SumConstants
    values: list[int]
    model: bytes
    closed: list[str] = field(default_factory=list)

    def policy_tag(self, announced_tag: bytes, model: bytes | None) -> bytes:
        if model is not None:
            self.model = model
        tag = contexts.model_tag(self.model)
        if tag != announced_tag and model is None:
            raise ModelMissing("expected the policy held here, got another tag. Send it.")
        return tag

    def contribute(self, context: RoundContext) -> RingVector:
        return to_ring_vector(np.array(self.values, np.int64), self.constants)

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
        drawn = v["drawn"]["coordinator"]
        self.random = Drawn([h(drawn["c_sk"]), h(drawn["fresh"])], [])

    def site(self, i: int) -> SiteProtocol:
        v, d = self.vector, self.vector["drawn"]
        polynomials = [d["seed_coefficients"][i], d["key_coefficients"][i]]
        nonce = [h(v[f"nonce_{i}"])] if v["constants"]["profile"] == "cross_device" else []
        random = Drawn([h(d["c_sk"][i]), *nonce, *(h(d[name][i]) for name in ("fresh", "s_sk", "b"))], polynomials)
        model = b"" if i in v["sites_without_the_model"] else h(v["model"])
        host = Host(self.constants, v["values"][i], model)
        now = lambda: self.clock  # noqa: E731
        return SiteProtocol(self.terms, SiteId(i), self.signing[i], self.registers[i], random, now, host)

    def opening(self) -> EpochOpening:
        v, now = self.vector, lambda: self.clock
        return EpochOpening(
            self.terms, self.coordinator_key, self.random, now, v["epoch"], v["first_round"], v["expiry_s"]
        )

    def begin(self, opening: EpochOpening) -> MaskedSum:
        v, epoch = self.vector, opening.outcome()
        models = dict.fromkeys(map(SiteId, v["sites_without_the_model"]), h(v["model"]))
        tag = contexts.model_tag(h(v["model"]))
        return MaskedSum(self.terms, epoch, v["round"], v["attempt"], epoch.members, tag, models, self.random)

    def stages(self) -> Iterator[tuple[str, Any]]:
        """Yield each stage with the coordinator's machine in it; the caller asks, answers and closes."""
        machine: Any = self.opening()
        for stage in STAGES:
            if stage == "E2":  # every vector of both ends is cross_silo
                continue
            if stage == "R0":
                machine = self.begin(machine)
            elif stage == "R5":
                machine.publish(h(self.vector["outcome"]["next_tag"]))
            yield stage, machine


def steps_of(vector: dict[str, Any], stage: str) -> dict[int, dict[str, Any]]:
    return {step["site"]: step for step in vector["steps"] if step["stage"] == stage}


def requests_before(vector: dict[str, Any], after: str | None) -> list[bytes]:
    """Return the requests to site 0 up to the stage `after`, none without one."""
    stages = STAGES[: STAGES.index(after) + 1] if after else ()
    return [h(step["request"]) for step in vector["steps"] if step["site"] == 0 and step["stage"] in stages]


# --- whole rounds ----------------------------------------------------------------------------------------------------


def replay_site(vector: dict[str, Any], i: int) -> SiteProtocol:
    site = Parties(vector).site(i)
    for step in vector["steps"]:
        if step["site"] == i:
            assert site.handle(h(step["request"])).hex() == step["reply"], step["stage"]
    return site


def replay_coordinator(vector: dict[str, Any]) -> MaskedSum:
    machine: Any = None
    for stage, machine in Parties(vector).stages():
        steps = steps_of(vector, stage)
        assert {i: frame.hex() for i, frame in machine.requests()} == {i: s["request"] for i, s in steps.items()}, stage
        for i, step in steps.items():
            if step["arrives"]:
                machine.receive(SiteId(i), h(step["reply"]))
        machine.close_stage()
    assert isinstance(machine, MaskedSum)
    return machine


@pytest.mark.parametrize("name", ROUNDS)
def test_every_site_answers_every_frame_of_the_vector_byte_by_byte(name):
    vector = load(name)

    for i in range(vector["constants"]["sites"]):
        assert replay_site(vector, i).state_name in {"EpochOpen", "Departed"}


def test_a_site_of_cross_device_answers_every_frame_of_the_vector_byte_by_byte():
    vector = load("ok_site_0_of_101")

    assert replay_site(vector, 0).state_name == "EpochOpen"
    assert {step["stage"] for step in vector["steps"]} == set(STAGES)


@pytest.mark.parametrize("name", ROUNDS)
def test_the_coordinator_sends_every_frame_of_the_vector_and_comes_to_its_sum(name):
    vector = load(name)
    outcome = vector["outcome"]

    machine = replay_coordinator(vector)

    assert machine.outcome().integers.tolist() == outcome["sum"]
    assert list(machine.outcome().contributors) == outcome["U3"]
    assert machine.transcript_hash.hex() == outcome["transcript_hash"]
    assert machine.sum_digest == hashlib.sha256(h(outcome["sum_bytes"])).digest()


@pytest.mark.parametrize("name", LOST)
def test_a_dealer_that_shares_another_secret_ends_the_round(name):
    vector = load(name)
    abort = vector["abort"]

    with pytest.raises(getattr(errors, abort["error"]), match=f"site {abort['dealer']}"):
        replay_coordinator(vector)


@pytest.mark.parametrize("end", ["site", "coordinator"])
def test_a_changed_byte_in_a_vector_is_seen(end):
    vector = json.loads(json.dumps(load("ok_round_3")))
    step = next(step for step in vector["steps"] if step["stage"] == "R1p" and step["site"] == 1)
    changed = "reply" if end == "site" else "request"
    step[changed] = step[changed][:-1] + format(int(step[changed][-1], 16) ^ 1, "x")

    with pytest.raises((AssertionError, SecureFrlError)):
        replay_site(vector, 1) if end == "site" else replay_coordinator(vector)


@pytest.fixture
def second_program(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that imports a module of tests/vectors; all are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(VECTORS))
    yield importlib.import_module
    for path in VECTORS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_the_generator_writes_these_vectors_again(second_program):
    generator = second_program("make_vectors")

    made = {name: generator.text(vector) for name, vector in generator.vectors().items()}

    assert made.keys() == {path.stem for path in FOLDER.iterdir()}
    assert [name for name, text in made.items() if text != (FOLDER / f"{name}.json").read_text()] == []


def test_a_second_site_that_follows_the_page_answers_all_vectors(second_program):
    second = second_program("second_site")
    for name in (*ROUNDS, "ok_site_0_of_101"):
        sites = [second.Site(load(name), i) for i in range(len(load(name)["site_identity_secrets"]))]
        for step in load(name)["steps"]:
            assert sites[step["site"]].handle(h(step["request"])).hex() == step["reply"], (name, step["stage"])

    refused = 0
    for case in (parameters.values[0] for name in BAD_TO_SITE for parameters in cases(name)):
        base = load(case["base"])
        site = second.Site(base, 0)
        for request in requests_before(base, case["after"]):
            site.handle(request)
        if case.get("restarts"):
            site = second.Site(base, 0, site.row, site.epoch_noted)
        site.clock_s, before = case.get("clock_s", base["clock_s"]), site.state
        assert site.handle(h(case["request"])).hex() == case["reply"], case["name"]
        assert site.state in BECOMES.get(case["then"], {before}), case["name"]
        refused += 1
    assert refused > 100


# --- messages that must be refused -----------------------------------------------------------------------------------


def cases(name: str) -> list[Any]:
    vector = load(name)
    return [pytest.param({"base": vector.get("base"), **case}, id=case["name"]) for case in vector["cases"]]


@pytest.mark.parametrize("case", [case for name in BAD_TO_SITE for case in cases(name)])
def test_a_site_refuses_each_bad_request_by_its_name(case):
    base = load(case["base"])
    parties = Parties(base)
    site = parties.site(0)
    for request in requests_before(base, case["after"]):
        site.handle(request)
    if case.get("restarts"):
        site = parties.site(0)
    parties.clock = float(case.get("clock_s", parties.clock))
    before = site.state_name

    reply = site.handle(h(case["request"]))

    assert reply.hex() == case["reply"]
    if case["error"] == "BadShare":
        assert read_header(reply).type == MessageType.BAD_SHARE
    else:
        assert reply[152:154] == encode_body(RefusalCode(CODES.index(case["error"])))
    assert site.state_name in BECOMES.get(case["then"], {before})


@pytest.mark.parametrize("case", cases("bad_to_coordinator"))
def test_the_coordinator_names_each_bad_reply_and_what_it_ends(case):
    base = load(load("bad_to_coordinator")["base"])
    changed = {(item["stage"], item["site"]): item["reply"] for item in case["replies"]}

    for stage, machine in Parties(base).stages():
        list(machine.requests())
        for i, step in steps_of(base, stage).items():
            reply = changed.get((stage, i), step["reply"] if step["arrives"] else None)
            if reply is None:
                continue
            if (stage, i) in changed and "site" in case:
                with pytest.raises(PeerError):
                    machine.receive(SiteId(i), h(reply))
            else:
                machine.receive(SiteId(i), h(reply))
        if (stage, case.get("site")) in changed:
            assert machine.excluded == {case["site"]: case["error"]}
            return
        if case.get("abort_at") == stage:
            with pytest.raises(RoundAborted) as caught:
                machine.close_stage()
            assert type(caught.value).__name__ == case["error"]
            return
        machine.close_stage()
    raise AssertionError("the case came to no end")


@pytest.mark.parametrize("case", cases("bad_constants"))
def test_no_site_signs_bad_constants(case):
    with pytest.raises(SecureFrlError) as caught:
        contexts.check_constants(constants_of(case["constants"]))

    assert type(caught.value).__name__ == case["error"]


@pytest.mark.parametrize("case", cases("bad_shares"))
def test_bad_shares_are_malformed(case):
    def read() -> None:
        if "share" in case:
            secret_sharing.check_shares(h(case["share"]))
        else:
            shares = {SiteId(int(i)): h(share) for i, share in case["rebuild"].items()}
            secret_sharing.combine(shares)

    with pytest.raises(SecureFrlError) as caught:
        read()

    assert type(caught.value).__name__ == case["error"]


def test_every_refusal_that_one_message_can_cause_has_a_vector():
    # the other codes come from the site's own host, books or disk: no message decides about them
    hosts = {"SiteFailed", "BudgetExhausted", "CharterViolation", "PolicyForbids", "StaleLedger", "LedgerCorrupt"}
    found = {case["error"] for case in load("bad_to_site")["cases"]}

    elsewhere = {"UnexpectedState", "KeySuspect"}  # the latter where sums are encrypted
    assert found - {"BadShare"} == set(CODES) - hosts - elsewhere


# --- single values ---------------------------------------------------------------------------------------------------


def field_of(plain: dict[str, Any]) -> Any:
    kind, value = next(iter(plain.items()))
    if kind == "list":
        return [field_of(item) for item in value]
    return {"bytes": h, "text": str, "integer": int, "real": float}[kind](value)


def test_the_encodings_are_those_of_the_vectors():
    v = load("ok_encodings")
    fields = [field_of(item) for item in v["lp"]["fields"]]

    assert lp(*fields).hex() == v["lp"]["bytes"]
    assert labelled_hash(v["H"]["purpose"], *fields).hex() == v["H"]["bytes"]
    for item in v["config_hash"]:
        assert contexts.config_hash(constants_of(item["constants"])).hex() == item["bytes"]


def test_messagepack_is_that_of_the_vectors():
    import msgspec

    v, encode = load("ok_encodings"), msgspec.msgpack.encode
    for item in v["messagepack_integers"]:
        assert encode(int(item["value"])).hex() == item["bytes"]
    for item in v["messagepack_bytes"]:
        assert encode(bytes(item["zeros"])).hex() == item["head"] + "00" * item["zeros"]
    for item in v["messagepack_arrays"]:
        assert encode([0] * item["zeros"]).hex() == item["head"] + "00" * item["zeros"]
    assert encode_body(Complaint((SiteId(1), SiteId(300)))) == b"\x91\x92\x01\xcd\x01\x2c"


def test_contexts_and_every_row_of_the_key_table_are_those_of_the_vectors():
    v = load("ok_contexts_and_keys")
    own, coordinator = (
        [keys.KeyPair.from_secret(h(s)) for s in v["c_sk"]],
        keys.KeyPair.from_secret(h(v["coordinator_c_sk"])),
    )
    masks, seeds = [keys.KeyPair.from_secret(h(s)) for s in v["s_sk"]], [h(b) for b in v["b"]]
    session = contexts.session_id(h(v["charter"]))
    epoch = contexts.epoch_hash(session, 1, [(i, own[i].public, b"") for i in range(3)], coordinator.public)
    ctx1 = contexts.attempt_context(session, epoch, 1, 0, (SiteId(0), SiteId(1), SiteId(2)))
    commitments = [site_shares.seed_commitment(ctx1, SiteId(i), seeds[i]) for i in range(3)]
    members = contexts.members_hash(pack_members((i, masks[i].public, commitments[i]) for i in range(3)))
    ctx2 = contexts.mask_context(ctx1, h(v["model_tag"]), h(v["config_hash"]), members)
    survivors = contexts.survivors_hash(ctx2, (SiteId(0), SiteId(1), SiteId(2)))
    assert {
        "session": session.hex(),
        "epoch_hash": epoch.hex(),
        "ctx1": ctx1.hex(),
        "H_b": [one.hex() for one in commitments],
        "U2_hash": members.hex(),
        "ctx2": ctx2.hex(),
        "U3_hash": survivors.hex(),
        "transcript_hash of a sum digest 0x88 x 32": contexts.transcript_hash(ctx2, survivors, b"\x88" * 32).hex(),
        "tag of the model": contexts.model_tag(h(v["model"])).hex(),
    } == v["contexts"]

    publics = {**{i: own[i].public for i in range(3)}, COORDINATOR_ID: coordinator.public}
    channels = {i: keys.open_channels(own[i], i, publics, epoch, 1) for i in (0, 1)}
    found = {"chan_01,e": channels[0].key(1), "chan_0S,e": channels[0].key(COORDINATOR_ID)}
    found["chan_01,3"] = channels[1].key_at(0, 3)
    for one in channels.values():
        one.advance_to(1)
    found |= {"chan_01,1": channels[0].key(1), "chan_0S,1": channels[0].key(COORDINATOR_ID)}
    for i, j in ((0, 1), (1, 0)):
        found[f"share {i}->{j}"] = keys.share_key(channels[j].key(i), ctx1, i, j, masks[i].public, commitments[i])
    found |= {
        "pair_01": keys.pair_key(masks[1], masks[0].public, ctx2, 1, 0),
        "self_0": keys.self_key(seeds[0], ctx2, 0),
    }
    salts = {"R0": epoch, "R1": ctx1, "R1p": ctx1, "R5": ctx1}
    kinds = {"R1p": "R1P", "BadShare": "BAD_SHARE", "R3a": "R3A", "R3b": "R3B", "R3c": "R3C"}
    for name in v["keys"]:
        if name.startswith("link"):
            _, direction, stage = name.split(",")[0].split()
            kind = "R5_REPLY" if (direction, stage) == ("up", "R5") else kinds.get(stage, stage)
            fresh = h(v["fresh_S"] if direction == "down" and stage in ("R0", "R5") else v["fresh_0"])
            found[name] = keys.link_key(
                channels[0].key(COORDINATOR_ID), salts.get(stage, ctx2), MessageType[kind], fresh
            )

    assert {name: key.hex() for name, key in found.items()} == v["keys"]
    assert len(set(found.values())) == len(found)
    words = v["confirmation 0->1 of U3_hash"], v["confirmation 1->0 of U3_hash"]
    of_zero = keys.confirmations(channels[0].key(1), ctx2, 0, 1, survivors)
    of_one = keys.confirmations(channels[1].key(0), ctx2, 1, 0, survivors)
    assert tuple(word.hex() for word in of_zero) == words
    assert of_one == of_zero[::-1]


@pytest.mark.parametrize("bits", [32, 64])
def test_mask_words_are_those_of_the_vectors(bits):
    for item in load("ok_masks")["streams"]:
        if item["word_bits"] == bits:
            words = np.zeros(len(item["words"]), f"<u{bits // 8}")
            prg.PairwiseMasks(len(words), bits).add_(words, h(item["key"]), +1)
            assert [int(word, 16) for word in item["words"]] == words.tolist()


def test_shares_and_commitments_are_those_of_the_vectors():
    v = load("ok_shares")
    holders = [SiteId(int(site)) for site in v["shares"]]

    made = secret_sharing.split(h(v["secret"]), v["threshold"], holders, Drawn([], [v["coefficients"]]))

    assert {str(site): share.hex() for site, share in made.items()} == v["shares"]
    for sites in v["rebuilding"]:
        chosen = {SiteId(site): h(v["shares"][str(site)]) for site in sites}
        assert secret_sharing.combine(chosen) == h(v["secret"])
    bound = v["commitments"]
    fields = h(bound["ctx1"]), SiteId(bound["dealer"]), SiteId(bound["holder"]), h(bound["share"])
    assert site_shares.key_share_commitment(*fields).hex() == bound["g"]
    assert site_shares.seed_share_commitment(*fields).hex() == bound["h"]
    first, last = (np.frombuffer(h(share), "<u4") for share in v["771 + 5x + 7x^2 at sites 0 and 65535"])
    assert (set(first.tolist()), set(last.tolist())) == ({783}, {773})  # secure_aggregation.md, section 9


def test_circulant_graphs_are_those_of_the_vectors():
    v, own = load("ok_graph"), constants_of(load("ok_round_3")["constants"])
    for item in v["graphs"]:
        cohort = tuple(map(SiteId, item["cohort"]))
        numbers = h(v["epoch_hash"]), item["round"], item["attempt"], cohort
        assert graph.graph_seed(*numbers).hex() == item["seed"]

        made = graph.graph_of(replace(own, profile="cross_device", neighbours=item["k"]), *numbers)

        assert list(made.circle) == item["order"]
        for site, near in item["neighbours"].items():
            assert list(made.neighbours(SiteId(int(site)))) == near


def test_primitives_are_those_of_their_standards():
    v = load("ok_primitives")
    for item in v["x25519"]:
        assert keys.KeyPair.from_secret(h(item["secret"])).exchange(h(item["public"])).hex() == item["shared"]
    for item in v["hkdf_sha256"]:
        kdf = HKDF(SHA256(), item["length"], h(item["salt"]), h(item["info"]))
        assert kdf.derive(h(item["ikm"])).hex() == item["okm"], item["source"]
    for item in v["hmac_sha256"]:
        assert hmac.digest(h(item["key"]), h(item["data"]), "sha256").hex() == item["mac"], item["source"]
    for item in v["ed25519"]:
        key = Ed25519PrivateKey.from_private_bytes(h(item["secret"]))
        assert key.public_key().public_bytes_raw().hex() == item["public"]
        assert key.sign(h(item["message"])).hex() == item["signature"], item["source"]
    for item in v["aes_256_ctr"]:
        cipher = Cipher(algorithms.AES(h(item["key"])), modes.CTR(h(item["counter"]))).encryptor()
        assert cipher.update(h(item["plain"])).hex() == item["cipher"]
    for item in v["aes_256_gcm"]:
        made = AESGCM(h(item["key"])).encrypt(h(item["nonce"]), h(item["plain"]), h(item["associated"]))
        assert made.hex() == item["cipher"] + item["tag"], item["source"]
        if h(item["nonce"]) == bytes(12):  # the nonce of every frame
            assert seal(h(item["key"]), h(item["plain"]), h(item["associated"])) == made
    for item in v["sha256"]:
        assert hashlib.sha256(h(item["data"])).hexdigest() == item["digest"]
