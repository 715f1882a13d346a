"""A run folder as an honest run leaves it, written through the real records; and what changes one and signs anew."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from sum_events import release_of, sum_constants

from secure_frl.ckks.policies import keyed_tag
from secure_frl.consortium.charter import Charter, SignedCharter, make_charter, sign_charter
from secure_frl.consortium.identity import Identity
from secure_frl.consortium.keystore import write_simulated_key
from secure_frl.consortium.roster import RosterEntry, sign_roster
from secure_frl.evidence.findings import Verification
from secure_frl.evidence.manifest import write_manifest
from secure_frl.masking.contexts import ENCRYPTED
from secure_frl.privacy import accountant
from secure_frl.privacy.events import GaussianSumEvent
from secure_frl.records.journal import Journal
from secure_frl.records.ledger import Ledger
from secure_frl.secure_sum import Block, Budget
from secure_frl.wire.canonical import canonical_json
from secure_frl.wire.hashing import labelled_hash

SIGMA, DELTA, BATCH = 2.0, 1e-5, 100
CONSORTIUM, COORDINATOR = Identity(bytes([200]) * 32), Identity(bytes([201]) * 32)
SITES = {f"site-{number}": Identity(bytes([number + 1]) * 32) for number in range(3)}
NAMES = tuple(SITES)
CONSTANTS = sum_constants(
    5,
    sites=3,
    threshold=3,
    min_survivors=3,
    honest_shares=2,
    neighbours=2,
    scale=1024 * math.sqrt(2) / SIGMA,
    bound=80_000,
    noise_bound=30_000,
    blocks=(Block("policy", 0, 3, 0.4, 0.85), Block("critic", 3, 5, 1.0, 0.15)),
    noise_multiplier=SIGMA,
)
STUDY: dict[str, Any] = {
    "study": {"schema": 1, "name": "made-up"},
    "sites": {"count": 3, "min_survivors": 3, "max_colluders": 1},
    "training": {"episodes_per_site": BATCH, "rounds": 3},
    "protection": {"method": "masking", "profile": "cross_silo", "epoch_rounds": 64},
    "privacy": {
        "unit": "patient",
        "relation": "add_or_remove_one",
        "noise": "distributed",
        "target_epsilon": 4.0,
        "delta": DELTA,
        "sampling_rate": 1.0,
        "max_rounds_per_person": 1,
        "max_sites_per_person": 1,
    },
}
MODELS = [f"policy after round {number}".encode() for number in range(4)]
TAGS = [labelled_hash("model", model) for model in MODELS]


SECRET = bytes([9]) * 32  # of the sites, under protections whose tags are keyed
PARCEL = b"a sealed policy"


def event_of(charter: Charter, number: int) -> GaussianSumEvent:
    return release_of(
        charter.constants,
        charter_hash=charter.session.hex(),
        dataset_id="simulated",
        round_number=number,
        window=f"{number}/0",
        declared_batch=BATCH,
        delta=DELTA,
    )


def book(directory: Path, home: Path, holder: str, identity: Identity, events: list[GaussianSumEvent]) -> None:
    """What a holder does in a run, rounds 1 and 3 with a sum, round 2 lost after release."""
    home.mkdir(parents=True)
    write_simulated_key(home / "identity.key", identity)
    ledger = Ledger.open(
        home / "ledger.sqlite",
        holder=holder,
        dataset_id="simulated",
        budget=Budget(4.0, DELTA),
        guard=lambda *_: None,
        signer=identity,
        code_version="0.1.0",
    )
    for event in events:
        receipt = ledger.reserve(event.canonical())
        ledger.release(receipt)
        ledger.commit(receipt, "aborted" if event.round == 2 else "summed")
    ledger.export(directory / f"ledgers/{holder}.jsonl", directory / f"ledgers/{holder}.head")
    ledger.close_cleanly()


def tags_of(charter: Charter) -> list[bytes]:
    """Of the first policy and of those that rounds 1 to 3 leave, or would leave."""
    if charter.constants.protection in ENCRYPTED:
        return [keyed_tag(SECRET, charter.session, model) for model in MODELS]
    return TAGS


def write_rounds(directory: Path, charter: Charter) -> None:
    """Rounds 1 and 3 give a sum, round 2 is lost; of a blind coordinator after its sum was published."""
    tags, is_blind = tags_of(charter), charter.constants.protection in ENCRYPTED
    journal = Journal.open(directory / "journal.sqlite", charter_hash=charter.session, code_version="0.1.0")
    if not is_blind:
        journal.start(tags[0], MODELS[0])
    journal.open_epoch(1)
    if is_blind:
        journal.start(tags[0], b"")
    lines, in_force = [], []
    for number in (1, 2, 3):
        summed = number != 2
        before = tags[1] if number > 1 else tags[0]
        after = tags[number] if summed else before
        journal.begin_round(number, 0, NAMES)
        if is_blind:
            journal.publish_round(NAMES, {"transcript_hash": "00"})
        if summed:
            details = {} if is_blind else {"shown": {"return": 0.5}}
            journal.sum_round(NAMES, after, PARCEL if is_blind else MODELS[number], details)
        else:
            journal.lose_round("TagsDiffer" if is_blind else "TooFewShares")
        of_round = {"round": number, "attempt": 0, "epoch": 1}
        lines.append(
            {
                **of_round,
                "outcome": "summed" if summed else "lost",
                "reason": None if summed else "TooFewShares",
                "cohort": NAMES,
                "survivors": NAMES if summed else (),
                "policy_tag": before.hex(),
                "next_tag": after.hex(),
                "transcript_hash": hashlib.sha256(b"t").hexdigest(),
            }
        )
        in_force.append(
            {
                **of_round,
                "noise": "distributed",
                "honest_shares_assumed": 2,
                "rehearsal": False,
                "protection": charter.constants.protection,
                "readable_by": "nobody",
                "key_held_by": "every site" if is_blind else "",
                "coordinator_learns": "who took part",
            }
        )
    journal.close_cleanly()
    write_lines(directory / "rounds.jsonl", lines)
    write_lines(directory / "protections.jsonl", in_force)


def write_policies(directory: Path, charter: Charter) -> None:
    """The last one; where the coordinator is blind all of them, as described by who released them."""
    if charter.constants.protection not in ENCRYPTED:
        (directory / "policies/round-0003.model").write_bytes(MODELS[3])
        (directory / "policies/round-0003.safetensors").write_bytes(b"tensors")
        return
    for number in (1, 3):
        keyed = tags_of(charter)[number].hex()
        described = {"round": str(number), "policy_tag": TAGS[number].hex(), "keyed_tag": keyed, "kind": "table"}
        (directory / f"policies/round-{number:04}.model").write_bytes(MODELS[number])
        tensors = save({"logits": np.zeros(2)}, metadata=described)
        (directory / f"policies/round-{number:04}.safetensors").write_bytes(tensors)
        (directory / "policies/policy.json").write_text(json.dumps(described, indent=1))


def read_lines(path: Path) -> list[dict[str, Any]]:  # Any: JSON values
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_bytes(b"".join(canonical_json(line) + b"\n" for line in lines))


def build(
    directory: Path,
    change_event: Callable[[str, GaussianSumEvent], GaussianSumEvent] = lambda holder, event: event,
    protection: str = "masking",
    tail_average: int = 1,
) -> Path:
    for folder in ("ledgers", "policies"):
        (directory / folder).mkdir(parents=True)
    entries = [RosterEntry(name, one.public_key, datetime.date(2030, 1, 1)) for name, one in SITES.items()]
    roster = sign_roster(CONSORTIUM, entries)
    study = STUDY | {"protection": STUDY["protection"] | {"method": protection}}
    study |= {"output": {"tail_average": tail_average, "keep_policies": "all"}} if tail_average > 1 else {}
    charter = make_charter(study, roster, replace(CONSTANTS, protection=protection), COORDINATOR.public_key, bytes(16))
    signatures = tuple(sign_charter(one, charter) for one in SITES.values())
    signed = SignedCharter(charter, signatures, sign_charter(COORDINATOR, charter))
    (directory / "study.toml").write_text("[study]\nschema = 1\n")
    (directory / "roster.toml").write_bytes(roster.encode())
    (directory / "charter.json").write_bytes(signed.encode())
    homes = {name: directory / "state/sites" / name for name in NAMES} | {
        "coordinator": directory / "state/coordinator"
    }
    for holder, home in homes.items():
        events = [change_event(holder, event_of(charter, number)) for number in (1, 2, 3)]
        book(directory, home, holder, SITES.get(holder, COORDINATOR), events)
    write_rounds(directory, charter)
    write_policies(directory, charter)
    (directory / "metrics.jsonl").write_bytes(b"{}\n")
    result = {
        "epsilon_spent": accountant.epsilon([event_of(charter, number) for number in (1, 2, 3)], DELTA),
        "delta": DELTA,
        "rounds_completed": 2,
        "protection": protection,
        "noise": "distributed",
        "unit": "patient",
        "honest_shares_assumed": 2,
        "survivors_min": 3,
        "survivor_difference_min": 0,
        "seconds": 1.5,
    }
    (directory / "result.json").write_bytes(canonical_json(result) + b"\n")
    resign(directory)
    return directory


def resign(directory: Path) -> None:
    """A coordinator writes its manifest; a dishonest one does so again after changing files."""
    charter = SignedCharter.decode((directory / "charter.json").read_bytes()).charter
    write_manifest(directory, COORDINATOR, charter_hash=charter.session, code_version="0.1.0")


def replaced_result(run: Path, **changes: object) -> None:
    plain = json.loads((run / "result.json").read_bytes()) | changes
    (run / "result.json").write_bytes(canonical_json(plain) + b"\n")
    resign(run)


def named(verification: Verification) -> set[str]:
    assert not verification.holds
    return {one.file for one in verification.findings}
