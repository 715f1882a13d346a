"""Reading a study: every mistake at once, with where, what was expected, what was found and what to do."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from secure_frl.errors import StudyRefused
from secure_frl.study import Study, default_threshold
from secure_frl.study_file import load_study, parse_study
from secure_frl.study_rules import survival_mistakes

SHIPPED = Path(__file__).parents[2] / "examples" / "icu_sepsis" / "study.toml"
LEAST = {"study": {"schema": 1, "name": "least"}}


def _mistakes(raw: object) -> list[str]:
    with pytest.raises(StudyRefused) as refused:
        parse_study(raw)  # type: ignore[arg-type]
    return [line for line in str(refused.value).splitlines() if line.startswith("  - ")]


def test_the_shipped_study_reads_and_names_every_key_at_its_default() -> None:
    shipped = load_study(SHIPPED)

    assert shipped.declared_units == 200_100
    assert shipped.threshold == 6
    assert shipped.plain() == Study.model_validate({"study": {"schema": 1, "name": "icu-sepsis"}}).plain()
    assert _paths(tomllib.loads(SHIPPED.read_text())) == _paths(shipped.plain())


def _paths(tree: dict[str, Any]) -> set[str]:
    """Return the dotted paths of all values."""
    below = {key: _paths(value) if isinstance(value, dict) else {""} for key, value in tree.items()}
    return {f"{key}.{path}" for key, paths in below.items() for path in paths}


def test_no_default_has_unsafe_in_it() -> None:
    assert "unsafe" not in json.dumps(parse_study(LEAST).plain())
    assert parse_study(LEAST).unsafe_choices == ()


def test_canonical_bytes_do_not_depend_on_the_order_of_keys() -> None:
    one = parse_study({**LEAST, "privacy": {"delta": 1e-6, "noise": "local"}})
    other = parse_study({"privacy": {"noise": "local", "delta": 1e-6}, **LEAST})

    assert one.canonical() == other.canonical()
    assert one.canonical() != parse_study(LEAST).canonical()


def test_all_mistakes_are_told_at_once() -> None:
    lines = _mistakes(
        {
            "study": {"schema": 2, "name": "Bad Name"},
            "sites": {"count": 2},
            "privacy": {"delta": float("nan"), "clipnorm": 1.0, "target_epsilon": float("inf")},
            "training": {"rounds": "ten"},
            "nonsense": {},
        }
    )

    assert {line[4 : line.index(":")] for line in lines} == {
        "study.schema",
        "study.name",
        "sites.count",
        "privacy.delta",
        "privacy.clipnorm",
        "privacy.target_epsilon",
        "training.rounds",
        "nonsense",
    }


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    (line,) = _mistakes({**LEAST, "privacy": {"clipnorm": 1.0}})

    assert "unknown key 'clipnorm'" in line
    assert "write clip_norm instead" in line


@pytest.mark.parametrize(
    ("raw", "cure"),
    [({"rounds": 3}, "training.rounds"), ({"privacy": {"rounds": 3}}, "training.rounds"), ({"zzz": 1}, None)],
)
def test_a_key_in_the_wrong_section_is_refused_with_its_own(raw: dict[str, object], cure: str | None) -> None:
    (line,) = _mistakes({**LEAST, **raw})

    assert line.endswith(f"To mend it: write {cure} instead." if cure else "To mend it: take it out.")


def test_a_mistake_in_one_key_does_not_hide_one_between_others() -> None:
    lines = _mistakes({**LEAST, "privacy": {"delta": 1e-5}, "data": {"max_steps": 0}})

    assert len(lines) == 2
    assert any("below 1 / 200100 declared units" in line for line in lines)


@pytest.mark.parametrize(
    ("sites", "word"),
    [
        ({"count": 10, "min_survivors": 5}, "min_survivors = 5"),
        ({"count": 10, "max_colluders": 9}, "threshold"),
        ({"count": 5, "min_survivors": 8}, "at most sites = 5"),
        ({"count": 3, "min_survivors": 3, "max_colluders": 2}, "honest shares"),
    ],
)
def test_survivors_and_colluders_that_do_not_fit_are_refused(sites: dict[str, int], word: str) -> None:
    lines = _mistakes({**LEAST, "sites": sites, "privacy": {"delta": 1e-9}})

    assert any(word in line for line in lines)


@pytest.mark.parametrize("delta", [1 / 200_100, 1e-5, 0.01])
def test_a_delta_of_one_unit_or_more_is_refused(delta: float) -> None:
    assert any("privacy.delta" in line for line in _mistakes({**LEAST, "privacy": {"delta": delta}}))


# n, c -> floor((n + c) / 2) + 1, from the protocol's table (secure_aggregation.md, section 2)
@pytest.mark.parametrize(("sites", "colluders", "threshold"), [(10, 1, 6), (3, 1, 3), (16, 5, 11), (64, 21, 43)])
def test_the_default_threshold_is_the_least_that_lets_one_sum_open(sites: int, colluders: int, threshold: int) -> None:
    assert default_threshold(sites, colluders) == threshold
    assert survival_mistakes(sites, threshold, colluders, max(threshold, colluders + 2)) == ()
    assert survival_mistakes(sites, threshold - 1, colluders, max(threshold, colluders + 2)) != ()


@pytest.mark.parametrize("content", [b"[study\n", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(content)

    with pytest.raises(StudyRefused, match=r"study\.toml: expected TOML"):
        load_study(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StudyRefused, match="cannot be read"):
        load_study(tmp_path / "none.toml")


def test_what_this_version_cannot_carry_out_is_refused() -> None:
    for section, key, value in (
        ("protection", "method", "paillier"),
        ("training", "objective", "sac"),
        ("training", "target_kl", 0.01),
        ("training", "prioritised", True),
        ("training", "local", {"proximal": 0.1}),
        ("privacy", "sampling_rate", 0.5),
        ("data", "source", "csv"),
    ):
        assert len(_mistakes({**LEAST, section: {key: value}})) == 1


@pytest.mark.parametrize("method", ["masking", "ckks", "ckks+masking"])
def test_the_three_protections_are_read_and_none_of_them_is_unsafe(method: str) -> None:
    study = parse_study(LEAST, {"protection.method": method})

    assert study.protection.method == method
    assert study.unsafe_choices == ()
    assert parse_study(LEAST, {"protection.method": "unsafe-plain"}).unsafe_choices != ()


ADAM = {"training.global": {"optimiser": "adam", "step_size": 0.1}}
MOVES = {"training.epochs": 2, "training.objective": "ppo", "privacy.noise": "local"}


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        ({**MOVES, "training.aggregation": "fedadam"}, "'adam' with 'fedadam', and 'sgd' with"),
        ({**MOVES, **ADAM, "training.aggregation": "fedavg"}, "'adam' with 'fedadam', and 'sgd' with"),
        ({"training.global": {"optimiser": "adam"}}, "step_size up to 10 with 'adam'"),
        ({"training.global": {"noise_corrected": True}}, "no second moment; found true"),
        ({**MOVES, "training.aggregation": "fedprox"}, "proximal above 0 with 'fedprox'"),
        (
            {**MOVES, "training.aggregation": "fedprox", "training.local": {"proximal": 10.0, "step_size": 0.1}},
            "local.step_size x proximal below 1",
        ),
        ({"training.global": {"optimiser": "adam", "step_size": 0.1, "root_floor": 0.0}}, "root_floor"),
        ({"output.tail_average": 2}, "keep_policies = 'all'"),
        (
            {"output.tail_average": 3, "output.keep_policies": "all", "training.rounds": 2},
            "at most training.rounds = 2",
        ),
    ],
)
def test_global_steps_and_means_of_policies_that_do_not_fit_are_refused(
    overrides: dict[str, object], word: str
) -> None:
    with pytest.raises(StudyRefused, match=word):
        parse_study(LEAST, overrides)


def test_adam_goes_with_gradients_and_with_moves() -> None:
    for changes in (ADAM, {**ADAM, **MOVES, "training.aggregation": "fedadam"}):
        assert parse_study(LEAST, changes).training.global_.optimiser == "adam"


# --- cross_device ----------------------------------------------------------------------------------------------------

# n = 1,000, 10 % corrupt, 30 % silent, s = 40: k = 88, t = 36 (secure_aggregation.md, section 7)
THOUSAND = {
    **LEAST,
    "sites": {"count": 1000, "min_survivors": 700, "max_colluders": 100},
    "privacy": {"delta": 1e-8},
    "protection": {"profile": "cross_device"},
}


def test_a_cross_device_study_gets_the_graph_of_its_fractions() -> None:
    study = parse_study(THOUSAND)
    smaller = parse_study(THOUSAND, {"protection.dropout_fraction": 0.1, "sites.min_survivors": 900})

    assert (study.neighbours, study.threshold) == (88, 36)
    assert (smaller.neighbours, smaller.threshold) == (48, 27)
    assert parse_study(LEAST).neighbours == 9


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        ({"sites.count": 100}, "up to 100 sites use cross_silo"),
        ({"sites.max_colluders": 99}, "max_colluders = 99: 100"),
        ({"sites.min_survivors": 699}, "min_survivors = 699: 700"),
        ({"protection.threshold": 36}, "the graph's rules give 36"),
        ({"protection.corrupt_fraction": 0.49, "protection.dropout_fraction": 0.5}, "found none"),
        ({"protection.profile": "cross_silo"}, "sites = 1000: 3 to 100"),
    ],
)
def test_a_cross_device_study_that_does_not_fit_is_refused(overrides: dict[str, object], word: str) -> None:
    with pytest.raises(StudyRefused, match=word):
        parse_study(THOUSAND, overrides)


@pytest.mark.parametrize("method", ["ckks", "ckks+masking"])
def test_encrypted_sums_are_refused_in_cross_device_with_the_reason(method: str) -> None:
    with pytest.raises(StudyRefused, match=r"protection\.method: expected .* the coordinator would have it too"):
        parse_study(THOUSAND, {"protection.method": method})
    parse_study(THOUSAND, {"protection.method": "masking"})
    parse_study(LEAST, {"protection.method": method})


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("policy", {"kind": "gru", "hidden": [64]}, "two widths"),
        ("policy", {"kind": "mlp", "hidden": []}, "policy.hidden"),
        ("output", {"release": ["mean_return"]}, "['policy']"),
        ("output", {"return_range": [1.0, 0.0]}, "a highest return above the lowest"),
        ("output", {"return_range": [0.0, 1e-9]}, "a highest return above the lowest"),
        ("privacy", {"clip_quantile": 0.9, "clip_quantile_noise_share": 0.9}, "noise shares below 1"),
    ],
)
def test_networks_and_figures_that_travel_with_the_update_must_fit(
    section: str, values: dict[str, object], words: str
) -> None:
    (line,) = _mistakes({**LEAST, section: values})

    assert words in line


# --- logged data and local steps -------------------------------------------------------------------------------------

LOGGED = {
    **LEAST,
    "data": {"source": "steps", "path": "steps", "dataset_id": "ward-a", "declared_units": 1000},
    "policy": {"critic": "none"},
    "training": {"objective": "behaviour_cloning"},
    "privacy": {"sampling_rate": 0.1},
}


def test_logged_data_are_declared_once_and_sampled() -> None:
    study = parse_study(LOGGED)
    several = {"training.local_steps": 3, "training.aggregation": "fedavg", "privacy.noise": "local"}

    assert (study.declared_units, study.declared_batch, study.noised_sums) == (10_000, 100, 1)
    assert study.composition_group("ward-a") == "ward-a"
    assert parse_study(LOGGED, several).noised_sums == 3
    assert parse_study(LEAST).composition_group("ward-a") == "fresh"


def test_values_are_learned_from_records_and_by_dqn_from_episodes() -> None:
    for objective in ("dqn", "cql"):
        assert parse_study(LOGGED, {"training.objective": objective}).acts_greedily
    several = {"training.local_steps": 3, "training.aggregation": "fedavg", "privacy.noise": "local"}
    fresh = parse_study(LEAST, {"training.objective": "dqn", "policy.critic": "none", **several})

    assert fresh.acts_greedily
    assert fresh.noised_sums == 3
    assert not parse_study(LEAST).acts_greedily


@pytest.mark.parametrize(
    ("base", "overrides", "word"),
    [
        (LOGGED, {"data.path": ""}, "a folder with source"),
        (LOGGED, {"data.declared_units": 0}, "declared_units above 0"),
        (LOGGED, {"training.objective": "reinforce"}, "whose episodes the policy itself collected"),
        (LOGGED, {"policy.critic": "private"}, "policy.critic = 'none'"),
        (LOGGED, {"privacy.max_rounds_per_person": 2}, "every release is charged to everybody"),
        (LOGGED, {"privacy.relation": "replace_one"}, "replace_one holds at sampling_rate = 1 only"),
        (LOGGED, {"privacy.delta": 1e-3}, "below 1 / 10000 declared units"),
        (LEAST, {"training.entropy_weight": 0.1}, "entropy_weight = 0 with 'reinforce'"),
        (LOGGED, {"training.objective": "bellman_sums", **ADAM}, "bellman_sums, whose step is its own"),
        (LOGGED, {"training.local_steps": 2, "privacy.noise": "local"}, "aggregation = 'fedavg'"),
        (LOGGED, {"training.local_steps": 2, "training.aggregation": "fedavg"}, "a person's influence has no bound"),
        (LEAST, {"data.path": "steps"}, "and none with 'environment'"),
        (LEAST, {"data.declared_units": 5}, "and 0 with 'environment'"),
        (
            LEAST,
            {"training.objective": "behaviour_cloning"},
            "behaviour_cloning or dqn or cql",
        ),
        (LEAST, {"training.objective": "cql", "policy.critic": "none"}, "reinforce or ppo or dqn with 'environment'"),
        (LEAST, {"training.objective": "dqn"}, "policy.critic = 'none'"),
        (
            LOGGED,
            {"training.objective": "cql", "training.local_steps": 5, "training.aggregation": "fedavg"},
            "a person's influence has no bound",
        ),
        (LEAST, {"training.epochs": 2, "training.aggregation": "fedavg", "privacy.noise": "local"}, "the ratio of ppo"),
        (LEAST, {"training.local_steps": 2, "training.objective": "ppo"}, "local_steps = 1 on fresh episodes"),
        (LEAST, {"training.epochs": 2, "training.objective": "ppo"}, "privacy.noise = 'local'"),
        (LEAST, {"privacy.sampling_rate": 0.5}, "1 for fresh episodes"),
    ],
)
def test_data_objective_and_steps_that_do_not_fit_are_refused(
    base: dict[str, object], overrides: dict[str, object], word: str
) -> None:
    with pytest.raises(StudyRefused, match=word):
        parse_study(base, overrides)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"data": {"observation": "features"}}, "which number no states"),
        ({"data": {"observation": "features"}, "policy": {"kind": "mlp"}}, "a table of states"),
        ({"policy": {"critic": "network"}}, "beside critic = 'network'"),
        ({"policy": {"kind": "random_features"}}, "numbers of states are no vectors"),
        ({"policy": {"random_features": {"width": 7}}}, "an even width"),
        (
            {
                "data": {"observation": "features"},
                "policy": {"kind": "random_features"},
                "training": {"personalise": "private_head"},
            },
            "the head is all that is trained",
        ),
        ({"data": {"environment": "CartPole v1"}}, "a Gymnasium id such as"),
        ({"training": {"exploration": 1.1}}, "0 to 1"),
        ({"training": {"value_weight": 0.0}}, "above 0"),
        ({"output": {"evaluation_episodes": 1}}, "2 to 100000"),
        ({"data": {"site_shift": {"kind": "none", "strength": 0.1}}}, "strength 0 with none"),
        ({"data": {"site_shift": {"kind": "case_mix", "strength": 0.0}}}, "above 0 otherwise"),
        ({"data": {"site_shift": {"kind": "practice_effect", "strength": 1.5}}}, "a part of the states"),
        (
            {"data": {"site_shift": {"kind": "case_mix", "strength": 1.0}, "environment": "CartPole-v1"}},
            "simulated patients of icu-sepsis",
        ),
        ({"training": {"personalise": "private_head"}}, "a table has no last layer"),
        ({"training": {"personal": {"prior_weight": 0.0}}}, "above 0"),
    ],
)
def test_observations_and_policies_that_do_not_fit_are_refused_with_a_cure(
    changed: dict[str, dict[str, object]], word: str
) -> None:
    assert any(word in line and "To mend it" in line for line in _mistakes({**LEAST, **changed}))


def test_a_network_over_features_of_any_environment_is_read() -> None:
    study = parse_study(
        {
            **LEAST,
            "data": {"environment": "package.module:Id-v0", "observation": "features"},
            "policy": {"kind": "mlp", "critic": "network"},
        }
    )

    assert study.data.environment == "package.module:Id-v0"  # who plans it, makes it
