"""The claims of docs/protections.md, one attack each, with the control that shows what the attack sees elsewhere.

Attackers have valid keys: a coordinator that seals and signs what it likes, a site that hands it the epoch's key and
all secrets of its own. Vectors have 2,000 values, so that uniform words can be told from others.
"""

from __future__ import annotations

import numpy as np
import pytest
from blind_federation import cipher_at, combined
from numpy.typing import NDArray
from small_federation import Federation

from secure_frl.ckks.coordinator_states import encrypted_of
from secure_frl.ckks.epoch_cipher import EpochCipher
from secure_frl.encoding.ring import centred, reduce_
from secure_frl.encoding.slots import SLOTS
from secure_frl.masking import unmasking
from secure_frl.masking.coordinator_memory import AttemptView
from secure_frl.masking.keys import pair_key, self_key
from secure_frl.masking.prg import mask_adder
from secure_frl.secure_sum import SiteId, Words

BOTH = ("ckks", "ckks+masking")
N, LENGTH = 5, 2000
BITS = 24  # of the federation's ring
pytestmark = pytest.mark.threats


@pytest.fixture
def at(federations):
    """Return a function: protection -> the federation of these tests."""
    return lambda protection: federations(N, protection, length=LENGTH)


# --- telling uniform words from others -------------------------------------------------------------------------------


def bytes_of(words: Words) -> NDArray[np.uint8]:
    """The three bytes of each word of 24 bits."""
    return words.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3].ravel()


def looks_uniform(words: Words) -> bool:
    """Monobit and chi-square over 256 byte values, each at a false alarm of 1e-6; seeds are fixed.

    6,000 bytes: chi-square with 255 degrees of freedom has its 1 - 1e-6 quantile at 379 (Wilson and Hilferty).
    """
    found = bytes_of(words)
    ones, bits = int(np.unpackbits(found).sum()), found.size * 8
    expected = found.size / 256
    chi_square = float(((np.bincount(found, minlength=256) - expected) ** 2 / expected).sum())
    return abs(ones - bits / 2) < 4.9 * np.sqrt(bits) / 2 and chi_square < 379


def correlation(words: Words, values: NDArray[np.int64]) -> float:
    """Between centred words without their lanes and a vector; 5 deviations are .11 at 2,000 values."""
    return abs(float(np.corrcoef(centred(words, BITS)[2:-2], values)[0, 1]))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Words]:
    """What sites decrypt, before anything is taken off."""
    seen: list[Words] = []
    genuine = EpochCipher.open_sum

    def watching(self: EpochCipher, body: bytes | memoryview, contributors: int) -> Words:
        words = genuine(self, body, contributors)
        seen.append(words.copy())
        return words

    monkeypatch.setattr(EpochCipher, "open_sum", watching)
    return seen


# --- one site's ciphertexts as the sum -------------------------------------------------------------------------------


@pytest.mark.parametrize("protection", BOTH)
def test_one_sites_ciphertexts_are_no_sum_of_one_nor_of_all(at, protection, opened):
    parties = at(protection)
    machine = parties.next_round()
    held = parties.hosts[0].held_tag()

    assert parties.answer(machine, 0, parties.total_of(machine, 0, parties.given[2], [2])) == "SurvivorsRefused"
    answer = parties.answer(machine, 1, parties.total_of(machine, 1, parties.given[2]))

    assert len(answer) == 32
    assert answer not in {held, parties.answer(machine, 3, parties.total_of(machine, 3))}
    assert len(opened) == 1  # site 3's, which is the sum
    assert parties.hosts[0].total is parties.hosts[1].total is None


def test_not_claimed_under_ckks_a_site_opens_and_follows_one_update_added_to_itself(at):
    """ "Any single update that S sends it as the sum": the site steps by n times x, and its policy shows x."""
    parties = at("ckks")
    machine = parties.next_round()
    times = combined(parties.plan, [(N, parties.given[2])])

    answer = parties.answer(machine, 1, parties.total_of(machine, 1, times))

    assert parties.hosts[1].total.integers.tolist() == (N * parties.hosts[2].values).tolist()
    assert answer == parties.hosts[1].held_tag()


def test_under_ckks_masking_one_update_added_to_itself_opens_to_uniform_words_and_changes_nothing(at, opened):
    parties = at("ckks+masking")
    machine = parties.next_round()
    times = combined(parties.plan, [(N, parties.given[2])])
    held = parties.hosts[1].held_tag()

    answer = parties.answer(machine, 1, parties.total_of(machine, 1, times))

    assert len(answer) == 32
    assert answer != parties.hosts[1].held_tag() == held
    assert cipher_at(parties.sites[1]).failures == 1
    assert parties.hosts[1].total is None
    (words,) = opened
    assert looks_uniform(words)
    assert correlation(words, parties.hosts[2].values) < 0.11
    plain = parties.words(2) * np.uint32(N)
    reduce_(plain, BITS)
    assert not looks_uniform(plain)  # the control: what plain ckks opens
    assert correlation(plain, parties.hosts[2].values) > 0.999


# --- a key holder in league with the coordinator ---------------------------------------------------------------------


@pytest.mark.parametrize("protection", BOTH)
def test_the_key_and_all_frames_open_an_update_under_ckks_and_uniform_words_under_masks(at, protection):
    parties = at(protection)
    parties.next_round()

    words = cipher_at(parties.sites[0]).open_sum(parties.given[3], 1)

    is_open = protection == "ckks"  # every update, to the last word
    assert (words.tolist() == parties.words(3).tolist()) == is_open
    assert looks_uniform(words) == (not is_open)
    assert (correlation(words, parties.hosts[3].values) > 0.999) == is_open
    assert is_open or correlation(words, parties.hosts[3].values) < 0.11


def test_with_one_sites_own_secrets_and_the_rebuilt_seeds_an_update_stays_uniform_with_all_sites_it_opens(
    at, monkeypatch
):
    """S rebuilds b of every survivor; each site in league gives its s. One honest site beside the victim is enough."""
    parties = at("ckks+masking")
    rebuilt: dict[int, bytes] = {}
    genuine = unmasking._rebuild

    def rebuilding(state: object, site: int, threshold: int) -> bytes:
        rebuilt[site] = genuine(state, site, threshold)
        return rebuilt[site]

    monkeypatch.setattr(unmasking, "_rebuild", rebuilding)
    machine = parties.next_attempt()
    parties.exchange(machine)
    secrets = [site._state.keys for site in parties.sites]
    machine.close_stage()
    public = secrets[3].public
    while machine.state_name != "Summed":
        parties.exchange(machine)
        machine.close_stage()
    ctx2 = parties.sites[0]._state.ctx2

    def peeled(league: list[int]) -> Words:
        words = cipher_at(parties.sites[0]).open_sum(parties.given[3], 1)
        masks = [(self_key(rebuilt[3], ctx2, 3), -1)]
        masks += [(pair_key(secrets[site], public, ctx2, 3, site), -1 if site > 3 else +1) for site in league]
        mask_adder(parties.constants).add_all_(words, masks)
        reduce_(words, BITS)
        return words

    assert set(rebuilt) == set(range(N))
    for league in ([0], [0, 1], [0, 1, 4]):  # up to all but one beside the victim
        assert looks_uniform(peeled(league)), league
        assert correlation(peeled(league), parties.hosts[3].values) < 0.11
    assert peeled([0, 1, 2, 4]).tolist() == parties.words(3).tolist()  # the control: nothing is left


def test_what_is_published_of_the_masks_is_uniform_and_says_nothing_of_the_sum(at):
    parties = at("ckks+masking")
    machine = parties.next_round()
    words = np.frombuffer(machine._summed().total_bytes, "<u4").astype(np.uint32)

    assert looks_uniform(words)
    assert correlation(words, sum(host.values for host in parties.hosts)) < 0.11


# --- sums of several rounds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protection", BOTH)
def test_a_difference_of_two_rounds_is_no_sum_and_a_sum_is_opened_once(at, protection):
    parties = at(protection)
    first = parties.next_round()
    earlier = encrypted_of(first._view).body
    of_first = parties.total_of(first, 2)
    parties.publish_blind(first)
    machine = parties.next_round()
    later = encrypted_of(machine._view).body
    difference = combined(parties.plan, [(1, later), (-1, earlier)])
    held = parties.hosts[1].held_tag()

    attempts: list[tuple[int, bytes, bytes | None]] = [(1, difference, None)]
    if protection == "ckks+masking":  # marks and lanes are those of a sum; under ckks it is one, for x did not change
        more, masks = (np.frombuffer(one._summed().total_bytes, "<u4").astype(np.uint32) for one in (machine, first))
        twice_less = 2 * more - masks
        reduce_(twice_less, BITS)
        attempts.append((3, combined(parties.plan, [(2, later), (-1, earlier)]), twice_less.tobytes()))
    for site, ciphertexts, correction in attempts:
        answer = parties.answer(machine, site, parties.total_of(machine, site, ciphertexts, correction=correction))
        assert len(answer) == 32
        assert answer != parties.hosts[site].held_tag() == held
        assert parties.hosts[site].total is None

    honest = parties.total_of(machine, 2)
    assert parties.answer(machine, 2, honest) == parties.hosts[2].held_tag() != held
    stepped = parties.hosts[2].model
    assert parties.answer(machine, 2, honest) == parties.hosts[2].held_tag()  # the same bytes, the same answer
    for ciphertexts in (difference, parties.given[3], encrypted_of(machine._view).body + b""):
        asked = parties.total_of(machine, 2, ciphertexts, survivors=range(4))
        assert parties.answer(machine, 2, asked) == "AlreadyAnswered"
    assert parties.answer(first, 2, of_first) == "AlreadyAnswered"
    assert parties.hosts[2].model == stepped


def test_last_rounds_ciphertexts_with_this_rounds_masks_are_no_sum(at):
    parties = at("ckks+masking")
    first = parties.next_round()
    earlier = encrypted_of(first._view).body
    parties.publish_blind(first)
    machine = parties.next_round()
    held = parties.hosts[1].held_tag()

    answer = parties.answer(machine, 1, parties.total_of(machine, 1, earlier))

    assert len(answer) == 32
    assert answer != parties.hosts[1].held_tag() == held


@pytest.mark.parametrize("protection", BOTH)
def test_not_claimed_a_coordinator_repeats_and_shifts_sums_that_it_cannot_read(at, protection):
    """Integrity against S: a sum, with its masks, is not bound to a round, and a constant can be added."""
    parties = at(protection)
    first = parties.next_round()
    earlier, masks, old = encrypted_of(first._view).body, first._summed().total_bytes, parties.plain_sum(range(N))
    vectors = [host.values for host in parties.hosts]
    try:
        for host in parties.hosts:
            host.values = host.values // 3
        machine = parties.next_round()
        new = sum(host.values for host in parties.hosts)
    finally:
        for host, values in zip(parties.hosts, vectors, strict=True):
            host.values = values
    slots = np.zeros((parties.plan.chunks, SLOTS), np.int64)
    slots[0, 4:9] = 7  # behind two marks and two lanes
    shift = np.zeros(LENGTH, np.int64)
    shift[:5] = 7
    shifted = combined(parties.plan, [(1, encrypted_of(machine._view).body)], slots)

    for site, ciphertexts, correction, expected in ((1, earlier, masks, old), (2, shifted, None, new + shift)):
        request = parties.total_of(machine, site, ciphertexts, correction=correction)
        assert parties.answer(machine, site, request) == parties.hosts[site].held_tag(), site
        assert parties.hosts[site].total.integers.tolist() == expected.tolist(), site


# --- what the coordinator sees ---------------------------------------------------------------------------------------


def forms(values: NDArray[np.int64]) -> dict[str, bytes]:
    """Eight values in every form in which they could be written."""
    few = values[40:48]
    assert np.unique(few).size == 8
    words = (few % (1 << BITS)).astype("<u4")
    return {
        "ring words": words.tobytes(),
        "centred words": few.astype("<i4").tobytes(),
        "packed words": bytes(bytes_of(words)),
        "integers": few.astype("<i8").tobytes(),
        "float32": few.astype("<f4").tobytes(),
        "float64": few.astype("<f8").tobytes(),
        "units": (few / 64.0).astype("<f8").tobytes(),
        "units in float32": (few / 64.0).astype("<f4").tobytes(),
        "decimal text": ", ".join(map(str, few.tolist())).encode(),
    }


def found(places: list[bytes], values: list[NDArray[np.int64]]) -> set[str]:
    return {name for one in values for name, form in forms(one).items() if any(form in place for place in places)}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the coordinator reads in sealed frames."""
    seen: list[bytes] = []
    genuine = AttemptView.unseal

    def watching(self: AttemptView, *arguments: object) -> bytes:
        seen.append(bytes(genuine(self, *arguments)))
        return seen[-1]

    monkeypatch.setattr(AttemptView, "unseal", watching)
    return seen


@pytest.mark.parametrize("protection", BOTH)
def test_no_frame_sealed_or_opened_by_the_coordinator_has_an_update_or_the_sum_in_it(at, protection, read):
    parties = at(protection)
    machine = parties.next_round()
    parties.publish_blind(machine)
    vectors = [host.values for host in parties.hosts]
    total = parties.hosts[0].total.integers
    places = [*(frame for _, _, frame in parties.frames), *read, *parties.given.values(), machine._summed().total_bytes]

    assert found(places, [*vectors, total]) == set()
    opened_inputs = [plain for plain in read if plain in parties.given.values()]
    assert len(opened_inputs) == N  # the search looks at what matters
    model = parties.hosts[0].model
    assert not any(model in place for place in places)


def test_control_the_same_search_finds_updates_and_sum_where_nothing_protects_them(read):
    parties = Federation(N, length=LENGTH, protection="unsafe-plain")
    machine = parties.begin(parties.open())
    total = parties.drive(machine)
    parties.publish(machine)
    places = [*(frame for _, _, frame in parties.frames), *read]

    for site in range(N):
        assert "ring words" in found(places, [parties.values[site]])
    assert "centred words" in found([machine._summed().total_bytes], [total.integers])
    for name, form in forms(parties.values[0]).items():  # and each form where somebody writes it
        assert name in found([b"before" + form + b"after"], [parties.values[0]])


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_a_log_line_or_repr_of_a_round_that_fails(at):
    """Context, site secret, seeds, mask keys and channels: as repr, as hexadecimal, whole or their first 16 bytes."""
    parties = at("ckks+masking")
    machine = parties.next_attempt()
    secrets: list[bytes] = [parties.hosts[0].secret, cipher_at(parties.sites[0]).key.context[100:]]
    texts: list[str] = []

    def look() -> None:
        for site, host in zip(parties.sites, parties.hosts, strict=True):
            texts.extend(map(repr, (site, site._state, site._party, cipher_at(site))))
            view = getattr(site._state, "view", None) or site._state.attempt.view
            secrets.append(view.channels.key(SiteId(1 if host.me == 0 else 0)))
        texts.extend(map(repr, (machine, machine._state, machine._view, parties.blind)))

    while machine.state_name != "Summed":
        parties.exchange(machine)
        for site in parties.sites:
            state = site._state
            for name in ("keys", "seed", "own_share"):
                secret = getattr(state, name, None)
                secrets.extend([] if secret is None else [secret.secret if name == "keys" else secret])
            for name in ("seed_shares", "key_shares"):
                secrets.extend(getattr(state, name, {}).values())
        look()
        machine.close_stage()
    for site in range(N):  # every way to fail: by name, and without one
        change = {"correction": b""} if site % 2 else {"ciphertexts": parties.given[0]}
        parties.answer(machine, site, parties.total_of(machine, site, **change))
    look()
    texts += [text for log in parties.logs for line in log for text in line]

    assert len(secrets) > 60
    assert any("correction" in text for text in texts)
    joined = "\n".join(texts)
    for secret in secrets:
        for part in (bytes(secret), bytes(secret)[:16]):
            assert repr(part)[2:-1] not in joined
            assert part.hex() not in joined
    assert "array(" not in joined
