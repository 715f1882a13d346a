"""What others got wrong in trust: parameters from the server, keys that nobody signed, thresholds that two sites meet.

The table of test_what_others_got_wrong.py names these tests. A control runs the same attack against a copy with the
mistake in it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from attackers_view import has_lanes, unmask, upload, values_of

from secure_frl.errors import CharterRefused, RoundAborted
from secure_frl.masking import contexts, coordinator_states, site_attempt, site_epoch, site_states
from secure_frl.masking.keys import KeyPair
from secure_frl.masking.prg import mask_adder
from secure_frl.masking.secret_sharing import combine
from secure_frl.secure_sum import SiteId
from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES
from secure_frl.wire.messages import MessageType

# --- protocol parameters taken from the server -----------------------------------------------------------------------


def test_sites_keep_their_own_constants_when_the_refusal_is_taken_out(federation, monkeypatch):
    # the comparison of constants at R0 taken out: sites mask under what they signed, so nothing verifies at the
    # coordinator, whose other numbers are in its keys; R0 carries a hash of numbers, never a number to take
    parties = federation(5)
    genuine = site_attempt.check_announcement

    def credulous(party: Any, view: Any, header: Any, body: Any) -> None:
        own = type(body)(body.cohort, body.fresh, party.config_hash, body.model_tag, body.sealed_digest)
        genuine(party, view, header, own)

    monkeypatch.setattr(site_attempt, "check_announcement", credulous)
    epoch, signed = parties.open(), parties.terms
    parties.terms = replace(signed, constants=replace(parties.constants, protection="unsafe-plain"))
    machine = parties.begin(epoch)
    parties.exchange(machine)
    machine.close_stage()

    parties.exchange(machine)

    assert set(machine.excluded.values()) == {"BadSignature"}
    raw = [site._sent[MessageType.R1P].reply[HEADER_BYTES:-TAG_BYTES] for site in parties.sites]
    assert not any(has_lanes(np.frombuffer(words, "<u4")) for words in raw)


def test_control_sites_that_take_the_coordinators_constants_send_their_signs(federation, monkeypatch):
    # a copy in which the coordinator's word is the charter: no masks, and w = 14, where a sign is one bit
    parties, genuine = federation(5), site_attempt.check_announcement
    epoch, signed = parties.open(), parties.terms
    told = replace(parties.constants, protection="unsafe-plain", modulus_bits=14)
    parties.terms = replace(signed, constants=told)

    def obedient(party: Any, view: Any, header: Any, body: Any) -> None:
        taken = {"terms": parties.terms, "config_hash": contexts.config_hash(told), "masks": mask_adder(told)}
        for name, value in taken.items():
            object.__setattr__(party, name, value)
        party.host.constants = told
        genuine(party, view, header, body)

    monkeypatch.setattr(site_attempt, "check_announcement", obedient)

    parties.drive(parties.begin(epoch))

    signs = [(upload(parties, site)[2:-2] >> np.uint32(13)) == 1 for site in range(5)]
    assert [row.tolist() for row in signs] == (parties.values < 0).tolist()


# --- no authentication of keys ---------------------------------------------------------------------------------------


def play_all_others(federation: Any) -> tuple[bool, list[str]]:
    """The coordinator shows site 0 an epoch of puppets under its own keys, and takes their zeros off the sum."""
    honest, puppets = federation(5), federation(5, seed=9)
    puppets.keys = [honest.keys[0], *[replace_key(40 + i) for i in range(1, 5)]]
    puppets.terms = replace(
        puppets.terms, site_public_keys=tuple(key.public_key().public_bytes_raw() for key in puppets.keys)
    )
    puppets.values[1:] = 0
    puppets.sites = [honest.sites[0], *[puppets.start(SiteId(i)) for i in range(1, 5)]]
    try:
        total = puppets.drive(puppets.begin(puppets.open()))
    except RoundAborted:
        total = None
    refused = [name for name, _ in honest.logs[0]]
    is_opened = total is not None and 0 in total.contributors and total.integers.tolist() == honest.values[0].tolist()
    return is_opened, refused


def replace_key(number: int) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def test_a_coordinator_cannot_play_all_other_sites(federation):
    is_opened, refused = play_all_others(federation)

    assert not is_opened
    assert refused[0] == "BadSignature"


def test_control_without_signatures_the_coordinator_plays_all_other_sites(federation, monkeypatch):
    monkeypatch.setattr(site_epoch, "check_entry", lambda *entry: None)

    is_opened, refused = play_all_others(federation)

    assert is_opened  # the sum of one site and four zeros is that site's update
    assert refused == []


# --- thresholds of 2 -------------------------------------------------------------------------------------------------


def pool_two_sites(federation: Any, **changes: Any) -> list[int] | None:
    """The coordinator with sites 3 and 4 of five pools what they hold of site 0."""
    parties = federation(5, **changes)
    machine = parties.begin(parties.open())
    for _ in range(2):
        parties.exchange(machine)
        machine.close_stage()
    mates = {SiteId(site): parties.sites[site]._state for site in (3, 4)}
    seed = combine({site: mate.seed_shares[0] for site, mate in mates.items()})
    pair = KeyPair.from_secret(combine({site: mate.key_shares[0] for site, mate in mates.items()}))
    words = unmask(parties, machine._state, 0, seed, pair)
    return values_of(words, parties) if has_lanes(words) else None


def test_two_sites_with_the_coordinator_open_nothing(federation):
    assert pool_two_sites(federation) is None


def test_control_a_threshold_of_two_lets_two_sites_open_an_input(federation, monkeypatch):
    with pytest.raises(CharterRefused, match="2t > n"):
        federation(5, threshold=2, max_colluders=1, honest_shares=3)
    for module in (site_states, coordinator_states, contexts):
        monkeypatch.setattr(module, "check_constants", lambda constants: None)

    stolen = pool_two_sites(federation, threshold=2, max_colluders=1, honest_shares=3)

    assert stolen == federation(5).values[0].tolist()
