"""What others got wrong in words and bytes: ring widths, masks of the wrong kind, rounds that wear out, pickle.

The table of test_what_others_got_wrong.py names these tests. A control runs the same attack against a copy with the
mistake in it.
"""

from __future__ import annotations

import ast
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure_frl.encoding import ring
from secure_frl.errors import BitBudget, LocalProtocolError, MalformedMessage, RoundAborted
from secure_frl.masking import contexts, coordinator_states, site_states
from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES, Address, read_header, seal_frame
from secure_frl.wire.messages import MessageType

ROOT = Path(__file__).parents[3]


def upload(parties: Any, site: int) -> np.ndarray:
    """Return the words of a site's masked input."""
    (frame,) = (f for d, s, f in parties.frames if (d, s) == ("up", site) and read_header(f).type == MessageType.R2)
    return np.frombuffer(frame[HEADER_BYTES:-TAG_BYTES], "<u4").copy()


def width_mask(parties: Any) -> np.uint32:
    return np.uint32((1 << parties.constants.modulus_bits) - 1)


# --- silent overflow, bit budgets, carry -----------------------------------------------------------------------------


def test_a_ring_that_a_sum_could_leave_is_refused(federation):
    with pytest.raises(BitBudget):
        federation(5, modulus_bits=12)  # 5 * 1000 + 50 > 2^11


def test_control_without_the_bit_budget_a_sum_wraps_in_silence(federation, monkeypatch):
    for module in (site_states, coordinator_states, contexts):
        monkeypatch.setattr(module, "check_constants", lambda constants: None)
    parties = federation(5, modulus_bits=12)
    parties.values[:] = 900  # 4,500: one bit more than the ring has, and lanes that hold

    total = parties.drive(parties.begin(parties.open()))

    assert set(total.integers.tolist()) == {4500 - 4096}  # wrong, with nothing that tells it


@pytest.mark.parametrize("n", [3, 10, 11, 64, 100, 1025, 10_000])
def test_every_number_of_sites_has_the_width_that_it_needs(n):
    bound, noise = 3_022_865, ring.noise_bound(1024, n, 5317)

    width = ring.width_for(sites=n, bound=bound, noise_bound=noise, weight=1)

    assert n * bound + noise < 2 ** (width - 1)
    assert n * bound + noise >= 2 ** (width - 2)


@pytest.mark.parametrize("modulus_bits", [15, 32, 33, 64])
def test_ten_sites_at_both_ends_of_the_range_sum_exactly(federation, modulus_bits):
    # 10 * 1000 + 50 < 2^14: the narrowest ring, both edges of 32-bit words, the widest
    parties = federation(10, modulus_bits=modulus_bits)
    parties.values[:] = np.where(np.arange(17) % 2, 1000, -1000)  # the extremes are neighbours
    parties.values[:, ::5] = 0

    total = parties.drive(parties.begin(parties.open()))

    assert total.integers.tolist() == parties.plain_sum(range(10)).tolist()
    assert set(np.abs(total.integers).tolist()) == {0, 10_000}


def test_control_a_ring_for_eight_sites_loses_the_sum_of_ten(federation, monkeypatch):
    narrow = ring.width_for(sites=8, bound=1000, noise_bound=50, weight=1)
    with pytest.raises(BitBudget):
        federation(10, modulus_bits=narrow)
    for module in (site_states, coordinator_states, contexts):
        monkeypatch.setattr(module, "check_constants", lambda constants: None)
    parties = federation(10, modulus_bits=narrow)
    parties.values[:] = 1000

    total = parties.drive(parties.begin(parties.open()))

    assert set(total.integers.tolist()) == {10_000 - (1 << narrow)}


def test_control_packed_elements_carry_into_their_neighbours(federation):
    # two elements a word, each with the 12 bits that one site's value needs: the whole words fit the ring, lanes hold
    parties = federation(10, modulus_bits=32, bound=1 << 22)
    parties.values[:] = (900 << 12) + 900

    total = parties.drive(parties.begin(parties.open()))

    low, high = total.integers & 0xFFF, total.integers >> 12
    assert set(low.tolist()) == {9000 % 4096}
    assert set(high.tolist()) == {9000 + 9000 // 4096}  # the carry of the low element is in the high one


# --- masks of the wrong kind -----------------------------------------------------------------------------------------


class OneByOne:
    """Adds many masks one at a time."""

    def add_all_(self: Any, accumulator: np.ndarray, masks: Any) -> None:
        for key, sign in masks:
            self.add_(accumulator, key, sign)


class OneWordMasks(OneByOne):
    """OpenFL's mistake: one random number for a whole vector."""

    def add_(self, accumulator: np.ndarray, key: bytes, sign: int) -> None:
        mask = np.uint32(int.from_bytes(key[:4], "little"))
        (np.add if sign > 0 else np.subtract)(accumulator, mask, out=accumulator)


class NormalMasks(OneByOne):
    """APPFL's mistake: unit-normal masks (here of one unit of the grid) beside values of many units."""

    def add_(self, accumulator: np.ndarray, key: bytes, sign: int) -> None:
        generator = np.random.default_rng(int.from_bytes(key, "little"))
        mask = np.rint(generator.standard_normal(len(accumulator)) * 64).astype(np.int64)
        accumulator += (sign * mask).astype(np.uint32)


def masked_with(federation: Any, monkeypatch: pytest.MonkeyPatch, masks: Any | None) -> Any:
    """Return one round of five sites with 1,000 values, its masks replaced by a copy with a mistake."""
    if masks is not None:
        for module in (site_states, coordinator_states):
            monkeypatch.setattr(module, "mask_adder", lambda constants: masks)
    parties = federation(5, length=1000)
    total = parties.drive(parties.begin(parties.open()))
    assert total.integers.tolist() == parties.plain_sum(range(5)).tolist()  # the mistakes keep the sum right
    return parties


def shows_differences(parties: Any, site: int) -> bool:
    words = upload(parties, site)[2:-2]
    found = ring.centred((words[1:] - words[:-1]) & width_mask(parties), parties.constants.modulus_bits)
    return bool((found == np.diff(parties.values[site])).mean() > 0.5)


def test_differences_of_coordinates_are_hidden(federation, monkeypatch):
    parties = masked_with(federation, monkeypatch, None)

    assert not any(shows_differences(parties, site) for site in range(5))


def test_control_one_word_for_a_whole_vector_shows_every_difference(federation, monkeypatch):
    parties = masked_with(federation, monkeypatch, OneWordMasks())

    assert all(shows_differences(parties, site) for site in range(5))


def correlations(parties: Any) -> list[float]:
    width = parties.constants.modulus_bits
    rows = [ring.centred(upload(parties, site), width)[2:-2] for site in range(5)]
    return [abs(float(np.corrcoef(row, parties.values[site])[0, 1])) for site, row in enumerate(rows)]


def test_an_upload_does_not_correlate_with_the_update(federation, monkeypatch):
    # |r| < 5 / sqrt(1000): for independent rows beyond it with probability 6e-7 each; seed 1
    assert max(correlations(masked_with(federation, monkeypatch, None))) < 5 / np.sqrt(1000)


def test_control_normal_masks_correlate(federation, monkeypatch):
    assert min(correlations(masked_with(federation, monkeypatch, NormalMasks()))) > 0.73  # APPFL: .73 to .999


# --- failure after 70 rounds -----------------------------------------------------------------------------------------


def test_eighty_rounds_over_two_epochs_are_exact(federation):
    parties = federation(3)
    epoch, model = parties.open(), b"first model"
    for number in range(1, 81):
        if number == 65:  # an epoch has 64 rounds
            epoch = parties.open(epoch=2, first_round=number)
        machine = parties.begin(epoch, number)
        total = parties.drive(machine)
        assert total.integers.tolist() == parties.plain_sum(range(3)).tolist()
        parties.publish(machine, model)
        model = parties.hosts[0].model

    assert parties.errors == {}
    assert [len(host.contexts) for host in parties.hosts] == [80] * 3


def test_control_an_epoch_that_is_never_renewed_wears_out(federation):
    parties = federation(3)
    epoch, model = parties.open(), b"first model"
    for number in (1, 64):
        machine = parties.begin(epoch, number)
        parties.drive(machine)
        parties.publish(machine, model)
        model = parties.hosts[0].model
    with pytest.raises(LocalProtocolError, match="inside the epoch"):
        parties.begin(epoch, 65)
    parties.terms = replace(parties.terms, epoch_rounds=80)  # a coordinator without that check

    with pytest.raises(RoundAborted):
        parties.drive(parties.begin(epoch, 65))

    assert [log[-1][0] for log in parties.logs] == ["RoundRefused"] * 3


# --- pickle ----------------------------------------------------------------------------------------------------------


class Payload:
    """Runs when somebody unpickles it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("import sys; sys.ran_a_pickle = True",)


@pytest.fixture
def has_run() -> Iterator[Callable[[], bool]]:
    """Return whether the payload has run since the test began."""
    yield lambda: hasattr(sys, "ran_a_pickle")
    vars(sys).pop("ran_a_pickle", None)


def test_a_pickle_from_a_peer_is_malformed_and_runs_nothing(federation, has_run):
    attack, parties = pickle.dumps(Payload()), federation(5)
    machine = parties.begin(parties.open())
    view, context = machine._view, machine._view.context
    requests = dict(machine.requests())
    replies = {site: parties.sites[site].handle(frame) for site, frame in requests.items()}
    fresh = read_header(replies[1]).fresh
    peer = Address(context.session, context.epoch, context.round, context.attempt, 1, 2**64 - 1, fresh)
    key = view.link(1, MessageType.R1, view.ctx1, fresh)
    with pytest.raises(MalformedMessage, match="expected the fields of RoundKeys"):
        machine.receive(1, seal_frame(peer, MessageType.R1, attack, key))
    for site in (0, 2, 3, 4):
        machine.receive(site, replies[site])
    machine.close_stage()
    key = view.link(0, MessageType.R1P, view.ctx1, view.fresh_of[0])
    clear, digest = machine._state.packed, machine._state.packed_hash
    request = seal_frame(view.address(0, view.fresh_of[0]), MessageType.R1P, attack, key, clear, digest)

    code = parties.refusal(0, request, parties.sites[0].handle(request))

    assert code == "MalformedMessage"
    assert machine.excluded == {1: "MalformedMessage"}
    assert not has_run()


def test_control_the_same_bytes_run_where_somebody_unpickles(has_run):
    pickle.loads(pickle.dumps(Payload()))  # the control itself

    assert has_run()


def test_no_module_can_unpickle():
    barred = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
    for path in sorted((ROOT / "secure_frl").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & barred, path
            for word in node.keywords if isinstance(node, ast.Call) else []:
                unsafe = {"allow_pickle": True, "weights_only": False}.get(word.arg or "")
                given = word.value.value if isinstance(word.value, ast.Constant) else None
                assert unsafe is None or given is not unsafe, path
