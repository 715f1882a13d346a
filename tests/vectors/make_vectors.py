"""Write v1/*.json: `python tests/vectors/make_vectors.py`. Deterministic: a second run writes the same bytes.

This is the reference for how the vectors were made. Published vectors are never edited: what changes is a v2. The
values come from reference.py, frames.py, epochs.py, charters.py and encrypted.py, which share no code with secure_frl;
what must be refused comes from wrong_requests.py, edge_requests.py and wrong_replies.py, the published vectors of the
primitives from primitives.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import edge_requests
import wrong_replies
import wrong_requests
from charters import bad_charters, charter_and_roster
from encrypted import encrypted
from epochs import epoch_of_five
from frames import Frames
from primitives import primitives
from reference import (
    LABEL,
    H,
    Round,
    Study,
    config_hash,
    exchange,
    identity,
    kdf,
    lp,
    pack,
    permutation,
    share,
    stream,
    words_of,
)

FOLDER = Path(__file__).parent / "v1"
SIZES = {3: (3, 1, 3), 5: (4, 2, 4)}  # n -> t, c, min_survivors


def constants(n: int, **changes: Any) -> dict[str, Any]:
    """Return every number that a charter fixes for the sum."""
    t, c, least = SIZES[n]
    numbers = {"sites": n, "threshold": t, "max_colluders": c, "min_survivors": least, "honest_shares": least - c}
    rest = {
        "profile": "cross_silo", "neighbours": n - 1, "protection": "masking", "length": 6, "modulus_bits": 24,
        "scale": 64.0, "bound": 1000, "noise_bound": 50,
        "blocks": [{"name": "policy", "start": 0, "stop": 6, "clip_norm": 1.0, "noise_share": 1.0}],
        "noise": "distributed", "noise_multiplier": 1.5, "integer_noise_scale": 1024, "weight": 1,
    }  # fmt: skip
    return numbers | rest | changes


def values(n: int, bound: int) -> list[list[int]]:
    """Return n rows of 6 integers in [-bound, bound] that meet both ends."""
    raw = stream(H("values", n, bound), 6 * n, 8)
    rows = [[raw[6 * i + at] % (2 * bound + 1) - bound for at in range(6)] for i in range(n)]
    rows[0][0], rows[1][1] = bound, -bound
    return rows


def trace(title: str, r: Round, only: list[int] | None = None) -> dict[str, Any]:
    """Return one round as a vector: what everybody (or only some) holds and draws, every frame, what comes out."""
    study, shown = r.study, r.listed if only is None else only
    rows = {kind: [[share_row(row).hex() for row in r.rows[kind, i][1:]] for i in shown] for kind in ("seed", "key")}
    present = [i for i in shown if i in r.members]

    def hexed(items: list[bytes]) -> list[str]:
        return [items[i].hex() for i in shown]

    pairs = [(i, j) for i in present for j in r.near(i, r.members) if i < j or j not in present]
    return {
        "protocol": LABEL,
        "what": title,
        "charter": study.charter.hex(),
        "session": study.session.hex(),
        "constants": study.constants,
        "epoch_rounds": study.epoch_rounds,
        "roster_hash": study.roster_hash.hex(),
        "clock_s": study.clock_s,
        "expiry_s": study.expiry_s,
        "site_identity_secrets": hexed(study.identities),
        "coordinator_identity_secret": study.coordinator_identity.hex(),
        "epoch": r.epoch,
        "first_round": r.first_round,
        "round": r.number,
        "attempt": r.attempt,
        "model": r.model.hex(),
        "sites_without_the_model": list(r.lacks_model),
        "values": [r.values[i] for i in shown],
        "drawn": {
            "coordinator": {"c_sk": r.coordinator_c_sk.hex(), "fresh": r.coordinator_fresh.hex()},
            "c_sk": hexed(r.c_sk),
            "fresh": hexed(r.fresh),
            "s_sk": hexed(r.s_sk),
            "b": hexed(r.seeds),
            "seed_coefficients": rows["seed"],
            "key_coefficients": rows["key"],
        },
        "derived": {
            "config_hash": study.config_hash.hex(),
            "epoch_hash": r.epoch_hash.hex(),
            "ctx1": r.ctx1.hex(),
            "H_b": hexed(r.commitments),
            "U2": r.members,
            "U2_hash": r.members_hash.hex(),
            "model_tag": r.model_tag.hex(),
            "ctx2": r.ctx2.hex(),
            "pair_keys": {f"{i},{j}": r.pair_key(i, j).hex() for i, j in pairs},
            "self_keys": {str(i): r.self_key(i).hex() for i in present},
            "plain_words": {str(i): r.plain_words(i) for i in present},
        },
        "steps": Frames(r).steps(only),
        "outcome": {
            "U3": r.survivors,
            "sum": r.totals,
            "sum_bytes": r.sum_bytes.hex(),
            "U3_hash": r.survivors_hash.hex(),
            "transcript_hash": r.transcript.hex(),
            "next_model": r.next_model.hex(),
            "next_tag": r.next_tag.hex(),
        },
    }


def sparse_round() -> Round:
    """Return a round of 101 sites on the circulant graph, in which two neighbours of site 0 get lost."""
    numbers = {"sites": 101, "threshold": 11, "max_colluders": 10, "min_survivors": 91, "honest_shares": 81}
    study = Study(constants(3) | {"profile": "cross_device", "neighbours": 22} | numbers)
    whole = Round(study, values(101, 1000))
    near = whole.near(0, whole.cohort)
    return Round(study, values(101, 1000), silent_r2=(near[0], near[-1]), silent_r3b=(near[1],))


def fewer_round() -> Round:
    """Return a round of 101 sites that may lose 22, and does."""
    numbers = {"sites": 101, "threshold": 11, "max_colluders": 10, "min_survivors": 79, "honest_shares": 69}
    study = Study(constants(3, noise="local") | {"profile": "cross_device", "neighbours": 22} | numbers)
    return edge_requests.fewer(study, values(101, 1000))


def sparse(r: Round, what: str = "two get lost") -> dict[str, Any]:
    """Return what site 0 of 101 sees of it."""
    made = trace(f"site 0 of 101 in cross_device: nonces, E2, 22 neighbours of whom {what}", r, only=[0])
    return made | {
        "site_identity_publics": [identity(secret).hex() for secret in r.study.identities],
        "nonce_0": r.nonces[0].hex(),
        "order": r.order,
        "neighbours_0": r.near(0, r.cohort),
    }


def share_row(words: list[int]) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


# --- single values ---------------------------------------------------------------------------------------------------


def contexts() -> dict[str, Any]:
    """The fixed points of the design: tag 0x44 x 32 and config hash 0x55 x 32 stand in for real ones."""
    r = Round(Study(constants(3)), values(3, 1000))
    tag, config = b"\x44" * 32, b"\x55" * 32
    ctx2 = H("ctx2", r.ctx1, tag, config, r.members_hash)
    r.ctx2 = ctx2
    keys = {
        "chan_01,e": kdf(exchange(r.c_sk[0], r.c_pk[1]), r.epoch_hash, "chan", 0, 1),
        "chan_0S,e": kdf(exchange(r.c_sk[0], r.coordinator_c_pk), r.epoch_hash, "chan", 0, 2**64 - 1),
        "chan_01,1": r.channel(0, 1),
        "chan_0S,1": r.channel(0, 2**64 - 1),
        "share 0->1": r.share_key(0, 1),
        "share 1->0": r.share_key(1, 0),
        "pair_01": r.pair_key(0, 1),
        "self_0": r.self_key(0),
    }
    later = Round(Study(constants(3)), values(3, 1000), number=3)
    keys |= {"chan_01,3": later.channel(0, 1)}
    for stage in ("R1", "R2", "BadShare", "R3b", "R4", "R5"):
        keys[f"link up {stage}, site 0"] = r.link(0, stage, "up")
    for stage in ("R0", "R1p", "R3a", "R3c", "R5"):
        keys[f"link down {stage}, site 0"] = r.link(0, stage, "down")
    survivors = H("U3", ctx2, [0, 1, 2])
    return {
        "protocol": LABEL,
        "what": "contexts and every row of the key table; epoch 1, round 1, attempt 0, first round 1, cohort 0-2",
        "charter": b"charter".hex(),
        "c_sk": [secret.hex() for secret in r.c_sk],
        "coordinator_c_sk": r.coordinator_c_sk.hex(),
        "s_sk": [secret.hex() for secret in r.s_sk],
        "b": [secret.hex() for secret in r.seeds],
        "fresh_0": r.fresh[0].hex(),
        "fresh_S": r.coordinator_fresh.hex(),
        "model_tag": tag.hex(),
        "config_hash": config.hex(),
        "model": r.model.hex(),
        "contexts": {
            "session": r.study.session.hex(),
            "epoch_hash": r.epoch_hash.hex(),
            "ctx1": r.ctx1.hex(),
            "H_b": [one.hex() for one in r.commitments],
            "U2_hash": r.members_hash.hex(),
            "ctx2": ctx2.hex(),
            "U3_hash": survivors.hex(),
            "transcript_hash of a sum digest 0x88 x 32": H("transcript", ctx2, survivors, b"\x88" * 32).hex(),
            "tag of the model": H("model", r.model).hex(),
        },
        "keys": {name: key.hex() for name, key in keys.items()},
        "confirmation 0->1 of U3_hash": r.confirmation(0, 1, survivors).hex(),
        "confirmation 1->0 of U3_hash": r.confirmation(1, 0, survivors).hex(),
    }


def encodings() -> dict[str, Any]:
    """lp, H and MessagePack, and the hash of constants."""
    fields: list[Any] = [b"", b"\x00\xff", "text", 0, 2**64 - 1, 1.0, [], [1, [b"a", "b"], []]]
    shown = [{"bytes": f.hex()} if isinstance(f, bytes) else {"text": f} if isinstance(f, str) else
             {"real": f} if isinstance(f, float) else {"integer": str(f)} if isinstance(f, int) else None
             for f in fields[:-1]]  # fmt: skip
    shown[6] = {"list": []}
    inner = {"list": [{"bytes": "61"}, {"text": "b"}]}
    shown.append({"list": [{"integer": "1"}, inner, {"list": []}]})
    numbers = [0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1]
    sizes = [0, 1, 255, 256, 65_535, 65_536]
    cases = [constants(3), constants(5), constants(5, modulus_bits=40, noise="local", scale=1e-3, weight=7)]
    two = [{"name": "policy", "start": 0, "stop": 4, "clip_norm": 0.4, "noise_share": 0.85},
           {"name": "critic", "start": 4, "stop": 6, "clip_norm": 0.7, "noise_share": 0.15}]  # fmt: skip
    cases.append(constants(5, blocks=two))
    return {
        "protocol": LABEL,
        "what": "the encodings under every hash, key and frame",
        "lp": {"fields": shown, "bytes": lp(*fields).hex()},
        "H": {"purpose": "purpose", "fields": shown, "bytes": H("purpose", *fields).hex()},
        "messagepack_integers": [{"value": str(value), "bytes": pack(value).hex()} for value in numbers],
        "messagepack_bytes": [
            {"zeros": size, "head": pack(bytes(size))[: len(pack(bytes(size))) - size].hex()} for size in sizes
        ],
        "messagepack_arrays": [
            {"zeros": size, "head": pack([0] * size)[: len(pack([0] * size)) - size].hex()} for size in (0, 15, 16, 300)
        ],
        "config_hash": [{"constants": case, "bytes": config_hash(case).hex()} for case in cases],
    }


def masks() -> dict[str, Any]:
    """Words of the streams of three keys at both widths."""
    r = Round(Study(constants(3)), values(3, 1000))
    r.ctx2 = H("ctx2", r.ctx1, b"\x44" * 32, b"\x55" * 32, r.members_hash)
    keys = [r.pair_key(0, 1), r.self_key(0), bytes(range(32))]
    listed = [
        {"key": key.hex(), "word_bits": 8 * size, "words": [f"{word:0{2 * size}x}" for word in stream(key, 9, size)]}
        for key in keys
        for size in (4, 8)
    ]
    return {
        "protocol": LABEL,
        "what": "mask words: the numbers as hex, most significant digit first",
        "streams": listed,
    }


def shares() -> dict[str, Any]:
    """Shares of one secret, the polynomial of the design, and what rebuilds."""
    secret, t, holders = bytes(range(0xE0, 0x100)), 4, [0, 1, 2, 3, 4, 99, 9_999]
    rows = [words_of(secret), *[[(7919 * (16 * d + w) + 65_530) % 65_537 for w in range(16)] for d in range(1, t)]]
    rows[1][0], rows[2][0], rows[3][0] = 65_536, 65_536, 65_536
    r = Round(Study(constants(3)), values(3, 1000))
    made = {str(site): share(rows, site).hex() for site in holders}
    first = share([[771] * 16, [5] * 16, [7] * 16], 0), share([[771] * 16, [5] * 16, [7] * 16], 65_535)
    listed = b"".join(word.to_bytes(4, "little") for word in range(16))
    bound = {
        "ctx1": r.ctx1.hex(), "dealer": 0, "holder": 1, "share": listed.hex(),
        "g": H("share-s", r.ctx1, 0, 1, listed).hex(), "h": H("share-b", r.ctx1, 0, 1, listed).hex(),
    }  # fmt: skip
    return {
        "protocol": LABEL,
        "what": "sharing over Z_65537 at x = site + 1, 16 words, little-endian uint32; coefficients by degree",
        "threshold": t,
        "secret": secret.hex(),
        "coefficients": [share_row(row).hex() for row in rows[1:]],
        "shares": made,
        "rebuilding": [[0, 1, 2, 3], [1, 3, 4, 9_999], [0, 2, 99, 9_999]],
        "771 + 5x + 7x^2 at sites 0 and 65535": [part.hex() for part in first],
        "commitments": bound,
    }


def graph() -> dict[str, Any]:
    """The circulant graph: seed, order, neighbours."""
    epoch_hash, listed = bytes.fromhex(contexts()["contexts"]["epoch_hash"]), []
    session_round = [(8, 4, 1, 0), (101, 24, 1, 0), (101, 24, 1, 1), (1000, 48, 7, 2)]
    for n, k, number, attempt in session_round:
        cohort = list(range(0, 3 * n, 3)) if n == 101 else list(range(n))
        seed = H("graph", epoch_hash, number, attempt, cohort)
        order = permutation(seed, cohort)
        place = {site: at for at, site in enumerate(order)}
        steps = [*range(1, k // 2 + 1), *range(-(k // 2), 0)]
        near = {site: sorted(order[(place[site] + step) % n] for step in steps) for site in cohort[:2] + cohort[-1:]}
        listed.append({
            "cohort": cohort, "k": k, "round": number, "attempt": attempt, "seed": seed.hex(), "order": order,
            "neighbours": {str(site): found for site, found in near.items()},
        })  # fmt: skip
    return {"protocol": LABEL, "what": "circulant graphs", "epoch_hash": epoch_hash.hex(), "graphs": listed}


# --- files -----------------------------------------------------------------------------------------------------------


def rounds() -> dict[str, Round]:
    """The rounds that other vectors start from."""
    three, five = Study(constants(3)), Study(constants(5))
    wide = Study(constants(3, modulus_bits=45, bound=2**42, noise_bound=2**40))
    return {
        "ok_round_3": Round(three, values(3, 1000)),
        "ok_round_3_wide": Round(wide, values(3, 2**42)),
        "ok_round_5_one_lost": Round(five, values(5, 1000), silent_r2=(2,), lacks_model=(4,)),
        "ok_round_5_absent": Round(five, values(5, 1000), silent_r1=(0,), epoch=3, number=9, attempt=2, first_round=7),
    }


def vectors() -> dict[str, dict[str, Any]]:
    """Return every vector by its file's name."""
    titles = {
        "ok_round_3": "one round of three sites, every frame",
        "ok_round_3_wide": "the same with 64-bit words, w = 45",
        "ok_round_5_one_lost": "site 2's masked input gets lost; site 4 is sent the model",
        "ok_round_5_absent": "site 0's reply to R0 gets lost; epoch 3, round 9, attempt 2, first round 7",
    }
    made = rounds()
    files: dict[str, dict[str, Any]] = {name: trace(titles[name], made[name]) for name in made}
    files |= {
        "ok_contexts_and_keys": contexts(), "ok_encodings": encodings(), "ok_masks": masks(), "ok_shares": shares(),
        "ok_graph": graph(), "ok_primitives": primitives(), "ok_encrypted": encrypted(constants, values),
    }  # fmt: skip
    large = sparse_round()
    files["ok_site_0_of_101"] = sparse(large)
    files["bad_to_site_0_of_101"] = {
        "protocol": LABEL,
        "base": "ok_site_0_of_101",
        "what": "requests that only cross_device refuses",
        "cases": wrong_requests.to_site(large, (wrong_requests.nonces,)),
    }
    bases = made | {"ok_site_0_of_101": large, "ok_site_0_of_101_22_lost": fewer_round()}
    few = "some get lost, 22 of all: eleven beside each other on the circle, which one gap does not cut in two"
    files |= {
        "ok_site_0_of_101_22_lost": sparse(bases["ok_site_0_of_101_22_lost"], few),
        "ok_epoch_5": epoch_of_five(trace, constants, values),
        "ok_charter": charter_and_roster(constants),
        "bad_charters": _cases("charter bytes that nobody signs", bad_charters(constants)),
        "bad_to_site_at_edges": _cases("requests that site 0 refuses, most for one rule", edge_requests.to_site(bases)),
        "ok_to_site_at_edges": _cases("requests that site 0 answers", edge_requests.accepted(bases)),
    }
    base = made["ok_round_5_one_lost"]
    head = {"protocol": LABEL, "base": "ok_round_5_one_lost"}
    files["bad_to_site"] = head | {"what": "requests that site 0 refuses", "cases": wrong_requests.to_site(base)}
    files["bad_to_coordinator"] = head | {
        "what": "replies that put a site out, or end the round",
        "cases": wrong_replies.to_coordinator(base),
    }
    files["bad_constants"] = {
        "protocol": LABEL,
        "what": "charters that nobody signs",
        "cases": wrong_replies.constants(constants),
    }
    files["bad_shares"] = {"protocol": LABEL, "what": "shares and rebuilt secrets", "cases": wrong_replies.shares()}
    for name, first_words in wrong_replies.dealers(base).items():
        r = Round(Study(constants(5)), values(5, 1000), silent_r2=(2,), first_words=first_words)
        steps = trace("", r)
        steps["steps"] = [step for step in steps["steps"] if step["stage"] != "R5"]
        del steps["outcome"]
        files[f"bad_round_5_{name}"] = steps | {
            "what": f"a dealer shares another secret than it announced: {name}",
            "abort": {"stage": "R3c", "error": "DealerCheated", "dealer": next(iter(first_words))[1]},
        }
    return files


def _cases(what: str, cases: list[dict[str, Any]]) -> dict[str, Any]:
    return {"protocol": LABEL, "what": what, "cases": cases}


def text(vector: dict[str, Any]) -> str:
    """Return a vector's file."""
    return json.dumps(vector, indent=1) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, vector in sorted(vectors().items()):
        (FOLDER / f"{name}.json").write_text(text(vector))
        print(name)
