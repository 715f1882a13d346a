"""The published vectors, replayed against this package as whole rounds, and made again by their generator.

The values in tests/vectors/v1 come from a second program that shares no code with secure_frl. A vector is never edited:
a change of the protocol is a v2. Messages that must be refused stand in test_vector_refusals.py, single values in
test_vector_values.py.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from vector_parties import (
    BECOMES,
    EPOCH,
    FOLDER,
    LOST,
    ROUNDS,
    SITE_0_OF_101,
    STAGES,
    TO_SITE,
    VECTORS,
    Parties,
    attempts_of,
    cases,
    dialogue,
    h,
    load,
    requests_before,
    steps_of,
)

from secure_frl import errors
from secure_frl.errors import SecureFrlError
from secure_frl.masking.coordinator_states import MaskedSum
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.secure_sum import SiteId


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


@pytest.mark.parametrize("name", SITE_0_OF_101)
def test_a_site_of_cross_device_answers_every_frame_of_the_vector_byte_by_byte(name):
    vector = load(name)

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
    for name in (*ROUNDS, *SITE_0_OF_101, EPOCH):
        vector = load(name)
        sites = [second.Site(attempts_of(vector)[0], i) for i in range(len(vector["site_identity_secrets"]))]
        for attempt in attempts_of(vector):
            for site in sites:
                site.draw(attempt)
            for step in attempt["steps"]:
                assert sites[step["site"]].handle(h(step["request"])).hex() == step["reply"], (name, step["stage"])

    refused = 0
    for case in (parameters.values[0] for name in TO_SITE for parameters in cases(name)):
        base = load(case["base"])
        site = second.Site(base, 0)
        for request in requests_before(base, case["after"]):
            site.handle(request)
        if case.get("restarts"):
            site = second.Site(base, 0, site.row, site.epoch_noted)
        site.clock_s = case.get("clock_s", base["clock_s"])
        for step in dialogue(case):
            site.vector_fails, before = step.get("vector") == "fails", site.state
            assert site.handle(h(step["request"])).hex() == step["reply"], case["name"]
            if "then" in step:
                assert site.state in BECOMES.get(step["then"], {before}), case["name"]
        refused += "error" in case
    assert refused > 140
