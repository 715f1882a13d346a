"""What a simulation knows of a finished run by site and by severity, and that of records nothing of it is computed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clipped_sums import clipped_sum
from rich.console import Console

from secure_frl.cli.watch import _show_result
from secure_frl.federation import by_site, finish, simulation
from secure_frl.federation.optimisers import initial_state
from secure_frl.federation.policy_files import load_policy
from secure_frl.federation.run_folder import RunOptions
from secure_frl.federation.simulated_patients import made_up
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training import Trainer
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, admissible_actions, load_tables
from secure_frl.learning.rollout import roll_out_table
from secure_frl.learning.steps_table import write_steps
from secure_frl.privacy.planning import sum_constants
from secure_frl.study import Study
from secure_frl.study_file import load_study

Tiny = Callable[..., Study]
LOGGED = Path(__file__).parents[2] / "studies" / "logged.toml"


@pytest.mark.slow
def test_a_table_by_site_holds_each_against_its_own_best(tiny: Tiny, tmp_path: Path) -> None:
    result = simulation.run(tiny({"data.site_shift": {"kind": "case_mix", "strength": 1.0}}), tmp_path / "run")

    assert result.simulated is not None
    rows = result.simulated["by_site"]
    policy = load_policy(tmp_path / "run").probabilities
    assert policy is not None
    assert [row["site"] for row in rows] == ["site-01", "site-02", "site-03"]
    assert len({row["optimal"] for row in rows}) == 3
    for row in rows:
        expected = (row["return"] - row["expert"]) / (row["optimal"] - row["expert"])
        assert row["gap_recovered"] == pytest.approx(expected)
        assert row["expert"] < row["optimal"]
    gaps = [row["gap_recovered"] for row in rows]
    assert result.simulated["gap_recovered_worst"] == min(gaps)
    assert result.gap_recovered == pytest.approx(sum(gaps) / 3)
    shown = io.StringIO()
    _show_result(tmp_path / "run", result, Console(file=shown, width=200))
    for said in ("shared policy", "worst", "site-03", f"{rows[2]['gap_recovered']:.3f}"):
        assert said in shown.getvalue()


def test_the_clinicians_recover_nothing_and_the_thirds_are_named(tiny: Tiny) -> None:
    study = tiny()
    constants = sum_constants(study)
    state = initial_state(optimiser_rule(study, constants))

    found = by_site.simulated_figures(study, constants, state, ["a", "b", "c"], {"a": load_tables().expert})

    assert found is not None
    assert found["by_site"][0]["personal_gap_recovered"] == pytest.approx(0.0, abs=1e-12)
    assert "personal_gap_recovered_mean" not in found  # two sites have none
    assert list(found["gap_by_severity"]) == ["mild", "middle", "severe"]
    assert list(found["clipped_by_severity"]) == ["mild", "middle", "severe"]


def test_whose_gradient_is_cut_is_what_a_window_of_theirs_alone_would_show(tiny: Tiny) -> None:
    study = tiny({"privacy.clip_norm": 0.3})
    constants = sum_constants(study)
    trainer, state = Trainer(study, constants), initial_state(optimiser_rule(study, constants))
    people = made_up(study, 40)

    found = trainer.units_cut(state, people)

    assert set(found) == {"policy", "critic"}
    for person in range(people.count):
        alone = clipped_sum(
            trainer._policy,
            trainer._losses(state),
            people.select(np.array([person])),
            unit="trajectory",
            segments=trainer._form.layout.segments,
            constants=constants,
        ).vector
        for block in constants.blocks:
            length = np.linalg.norm(alone[block.start : block.stop]) / np.sqrt(block.noise_share)
            assert found[block.name][person] == (length > 1 - 1e-9)
    assert 0 < found["policy"].sum() < people.count


def test_what_people_would_send_alone_adds_up_to_what_they_send_together(tiny: Tiny) -> None:
    study = tiny({"privacy.clip_norm": 0.3})
    constants = sum_constants(study)
    trainer, state = Trainer(study, constants), initial_state(optimiser_rule(study, constants))
    people = made_up(study, 40)

    alone = trainer.unit_messages(state, people)

    together = clipped_sum(
        trainer._policy,
        trainer._losses(state),
        people,
        unit="trajectory",
        segments=trainer._form.layout.segments,
        constants=constants,
    ).vector
    assert alone.shape == (people.count, constants.length)
    np.testing.assert_allclose(alone.sum(axis=0), together, atol=1e-12)
    assert 0.5 < np.linalg.norm(alone, axis=1).max() <= 1 + 1e-9


def test_a_third_that_few_episodes_leave_empty_is_left_out(tiny: Tiny) -> None:
    study = tiny({"output.evaluation_episodes": 2})
    constants = sum_constants(study)
    state = initial_state(optimiser_rule(study, constants))

    found = by_site.simulated_figures(study, constants, state, ["a", "b", "c"], {})

    assert found is not None
    assert 1 <= len(found["clipped_by_severity"]) <= 2
    assert all(np.isfinite(part) for third in found["clipped_by_severity"].values() for part in third.values())


def test_one_episode_a_site_is_enough_to_join_with(tiny: Tiny) -> None:
    study = tiny({"training.episodes_per_site": 1})
    constants = sum_constants(study)
    trainer, state = Trainer(study, constants), initial_state(optimiser_rule(study, constants))

    trainer.check_before_joining(state, made_up(study, 1), None)


@pytest.mark.slow
def test_of_records_nothing_is_computed_that_a_sum_did_not_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admissible = admissible_actions().astype(np.float64)
    (tmp_path / "steps").mkdir()
    for number in (1, 2, 3):
        names = np.arange(24, dtype=np.uint64)
        uniform = admissible / admissible.sum(axis=1, keepdims=True)
        stays = roll_out_table(uniform, IcuSepsis(24, 12), np.random.default_rng(number), names)
        write_steps(
            tmp_path / "steps" / f"site-{number:02d}.parquet", stays, [f"p{n}" for n in names], is_simulated=True
        )

    def looked(*_: object) -> None:
        raise AssertionError("a figure of somebody's records was asked for")

    monkeypatch.setattr(finish, "simulated_figures", looked)
    monkeypatch.setattr(finish, "load_policy", looked)  # a site's own policy is not even opened
    monkeypatch.setattr(Trainer, "units_cut", looked)
    study = load_study(
        LOGGED,
        {"data.path": str(tmp_path / "steps"), "training.personalise": "prior", "training.personal.steps": 3},
    )

    result = simulation.run(study, tmp_path / "run", RunOptions(state=tmp_path / "state"))

    assert result.simulated is None
    assert len(list((tmp_path / "state" / "sites").glob("*/personal-*.safetensors"))) == 3
    assert (
        by_site.simulated_figures(
            study, sum_constants(study), initial_state(optimiser_rule(study, sum_constants(study))), ["a", "b", "c"], {}
        )
        is None
    )
