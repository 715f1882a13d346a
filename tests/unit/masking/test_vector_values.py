"""Single values of the published vectors: encodings, contexts, keys, masks, shares, graphs, primitives."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from vector_parties import Drawn, constants_of, h, load

from secure_frl.masking import contexts, graph, keys, prg, secret_sharing, site_shares
from secure_frl.secure_sum import COORDINATOR_ID, SiteId
from secure_frl.wire.envelope import seal
from secure_frl.wire.hashing import labelled_hash, lp
from secure_frl.wire.messages import Complaint, MessageType, encode_body
from secure_frl.wire.records import pack_members


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
