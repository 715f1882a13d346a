"""Events: one canonical form, read strictly, and never an epsilon."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sum_events import release_of, sum_constants

from secure_frl.errors import InvalidParameter, LedgerCorrupt
from secure_frl.privacy.events import GaussianSumEvent, decode_event, purpose_of
from secure_frl.secure_sum import Block

CONSTANTS = sum_constants(
    scale=1024 * 7**0.5 / 1.25,
    blocks=(Block("policy", 0, 80, 0.4, 0.85), Block("critic", 80, 100, 1.0, 0.15)),
    noise_multiplier=1.25,
)


def event() -> GaussianSumEvent:
    roots = {"register_root_before": "00ff", "register_root_after": "01ff"}
    return release_of(CONSTANTS, round_number=3, window="round 3 attempt 0", delta=1e-6, **roots)


def test_an_event_returns_from_its_bytes() -> None:
    assert decode_event(event().canonical()) == event()
    survived = dataclasses.replace(event(), survivors=(0, 2, 9))
    assert decode_event(survived.canonical()).survivors == (0, 2, 9)


def test_the_bytes_are_json_with_sorted_keys_a_format_and_no_spaces() -> None:
    data = event().canonical()

    fields = json.loads(data)

    assert fields["format"] == "secure_frl/gaussian_sum_event/v2"
    assert list(fields) == sorted(fields)
    assert b": " not in data
    assert b", " not in data


def test_no_epsilon_is_in_an_event() -> None:
    assert b"epsilon" not in event().canonical()


def test_whole_numbers_in_the_place_of_floats_still_return() -> None:
    whole = dataclasses.replace(CONSTANTS, blocks=(Block("policy", 0, 100, 1, 1),))  # ints, as a TOML file may hold

    made = release_of(whole)

    assert decode_event(made.canonical()) == made


def altered(**changes: object) -> bytes:
    fields = json.loads(event().canonical()) | changes
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def first_version(**changes: object) -> bytes:
    """Bytes as the first version wrote them."""
    fields = json.loads(event().canonical()) | {"format": "secure_frl/gaussian_sum_event/v1"} | changes
    fields.pop("noised_sums", None)
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def test_an_event_of_the_first_version_means_one_noised_sum_and_keeps_its_bytes() -> None:
    data = first_version()

    found = decode_event(data)

    assert found.noised_sums == 1
    assert found.canonical() == data
    assert dataclasses.replace(found, version=2) == event()


@pytest.mark.parametrize("changes", [{"unit": "site"}, {"relation": "replace_one"}, {"version": 1}])
def test_the_first_version_cannot_say_what_it_did_not_know(changes: dict[str, object]) -> None:
    with pytest.raises(LedgerCorrupt):
        decode_event(first_version(**changes))
    with pytest.raises(InvalidParameter):
        dataclasses.replace(decode_event(first_version()), noised_sums=2)


def test_a_newer_version_is_named_and_nothing_is_called_damaged() -> None:
    with pytest.raises(LedgerCorrupt, match="version 4: this ledger was written by a newer version") as refusal:
        decode_event(altered(format="secure_frl/gaussian_sum_event/v4", more=1))

    assert "Restore" not in str(refusal.value)


def test_the_purpose_names_every_figure_that_travels_in_the_vector() -> None:
    policy = Block("policy", 0, 98, 0.4, 0.9)
    extra = (Block("clip_quantile", 98, 99, 0.5, 0.05), Block("mean_return", 99, 100, 1.0, 0.05))

    assert event().purpose == "policy_update"
    assert purpose_of((policy, *extra)) == "policy_update+clip_quantile+mean_return"


def test_several_noised_sums_and_each_unit_and_relation_return_from_their_bytes() -> None:
    for changes in ({"noised_sums": 12}, {"unit": "site"}, {"unit": "unsafe-transition"}, {"relation": "replace_one"}):
        made = dataclasses.replace(event(), **changes)  # type: ignore[arg-type]  # fields by name
        assert decode_event(made.canonical()) == made


def test_replace_one_under_sampling_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidParameter, match="not that of twice the shift"):
        dataclasses.replace(event(), relation="replace_one", sampling_rate=0.5, sampler="poisson")


@pytest.mark.parametrize("version", ["secure_frl/gaussian_sum_event/v0", "", None, 1, "laplace", "v2"])
def test_an_unknown_format_is_refused(version: object) -> None:
    with pytest.raises(LedgerCorrupt, match="expected format"):
        decode_event(altered(format=version))


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(LedgerCorrupt):
        decode_event(altered(epsilon=0.1))


def test_a_missing_field_is_refused() -> None:
    fields = json.loads(event().canonical())
    del fields["max_sites_per_person"]

    with pytest.raises(LedgerCorrupt):
        decode_event(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(json.loads(event().canonical())).encode(),  # spaces
        event().canonical() + b"\n",
        event().canonical().replace(b'"delta":1e-06', b'"delta":0.000001'),
        event().canonical().replace(b'"attempt":0', b'"attempt":0,"attempt":0'),
        b"[]",
        b"null",
        b"",
        b"\xff",
        b"[" * 50_000,
        b"{" + b" " * 70_000 + b"}",
    ],
)
def test_bytes_in_another_form_are_refused(data: bytes) -> None:
    with pytest.raises(LedgerCorrupt):
        decode_event(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": 2.5},  # more noise claimed than S, h and the scale allow
        {"scale": 1.0},
        {"integer_noise_scale": 2048},
        {"rounding_bound": 1.0},
        {"rounding_beta": 0.5},
        {"honest_shares": 8},
        {"mechanism": "local"},
        {"mechanism": "laplace"},
        {"sampling_rate": 0.5},
        {"sampling_rate": 0.0},
        {"max_sites_per_person": 0},
        {"max_rounds_per_person": 0},
        {"unit": "transition"},
        {"relation": "replace_two"},
        {"relation": "replace_one", "sampling_rate": 0.5, "sampler": "poisson"},
        {"noised_sums": 0},
        {"noised_sums": 100_001},
        {"purpose": ""},
        {"version": 2},
        {"composition_group": "other"},
        {"dataset_id": ""},
        {"random_source": "seeded"},
        {"delta": 1.5},
        {"round": 0},
        {"round": True},
        {"attempt": -1},
        {"length": 99},
        {"charter_hash": "xyz"},
        {"charter_hash": ""},
        {"declared_batch": 0},
        {"survivors": ["a"]},
        {"blocks": []},
    ],
)
def test_an_event_that_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(LedgerCorrupt):
        decode_event(altered(**changes))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_figures_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(InvalidParameter):
        dataclasses.replace(event(), noise_multiplier=value)
    with pytest.raises(LedgerCorrupt):
        decode_event(event().canonical().replace(b'"delta":1e-06', b'"delta":NaN'))


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_decoder(data: bytes) -> None:
    with pytest.raises(LedgerCorrupt):
        decode_event(data)


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_is_another_event(position: int, byte: int) -> None:
    data = bytearray(event().canonical())
    data[position % len(data)] = byte
    if bytes(data) == event().canonical():
        return

    try:
        found = decode_event(bytes(data))
    except LedgerCorrupt:
        return

    assert found != event()
