"""Studies over features and in environments by name: run, verified, scored, and released so that a reader can act."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from secure_frl.cli.watch import _show_result, _Watcher
from secure_frl.errors import DataRefused
from secure_frl.evidence.verify import verify
from secure_frl.federation import evaluation, simulation
from secure_frl.federation.evaluation import evaluate_state
from secure_frl.federation.optimisers import initial_state
from secure_frl.federation.policy_files import load_policy
from secure_frl.federation.results import RoundReport, RunResult
from secure_frl.federation.run_folder import RunOptions
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.learning.acting import UniformActing
from secure_frl.learning.environments.icu_sepsis import admissible_actions
from secure_frl.learning.environments.icu_sepsis_features import IcuSepsisFeatures, state_features
from secure_frl.learning.evaluation import exact_return, gap_of
from secure_frl.learning.forms import policy_form
from secure_frl.learning.rollout import roll_out
from secure_frl.learning.settings import setting_of
from secure_frl.learning.steps_table import write_steps
from secure_frl.privacy.planning import make_plan
from secure_frl.study import Study
from secure_frl.study_file import load_study

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]

NETWORK = {
    "data.observation": "features",
    "policy.kind": "mlp",
    "policy.hidden": [6, 5],
    "policy.critic": "network",
    "privacy.noise": "local",
    "output.evaluation_episodes": 60,
}
CART = NETWORK | {"data.environment": "CartPole-v1", "data.max_steps": 12}
ONE = {"training.rounds": 1}
VALUES = {"training.objective": "dqn", "policy.critic": "none"}
LINEAR = {"policy.kind": "random_features", "policy.random_features.width": 8, "policy.critic": "private"}
# A reader of a policy file needs its numbers and nothing of its environment.
_READ = """
import sys
from pathlib import Path
import numpy as np
from secure_frl import load_policy
acting = load_policy(Path(sys.argv[1])).acting()
acting.begin(2)
chosen, log_probabilities = acting.act(np.arange(2), np.zeros((2, 4), np.float32), np.array([.1, .9]))
assert chosen.shape == log_probabilities.shape == (2,)
assert 'gymnasium' not in sys.modules and 'torch' not in sys.modules
"""


class Keeper:
    """Keeps the reports that people would read."""

    def __init__(self, reports: list[RoundReport]) -> None:
        self._reports = reports

    def round_ended(self, report: RoundReport) -> None:
        self._reports.append(report)


@pytest.fixture(scope="module")
def clinical(
    tiny: Callable[..., Study], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, RunResult, list[RoundReport]]:
    """One finished run over clinical features."""
    reports: list[RoundReport] = []
    folder = tmp_path_factory.mktemp("clinical") / "run"
    return folder, simulation.run(tiny(NETWORK | ONE), folder, watch=lambda _: Keeper(reports)), reports


@pytest.mark.parametrize("changed", [{}, ONE | VALUES, ONE | {"policy.kind": "gru"}, LINEAR])
def test_a_study_on_cartpole_runs_verifies_and_its_policy_acts_as_it_was_scored(
    changed: dict[str, object], tiny: Callable[..., Study], tmp_path: Path
) -> None:
    study = tiny(CART | changed)

    result = simulation.run(study, tmp_path / "run")

    assert verify(tmp_path / "run").holds
    assert result.epsilon_spent <= 4
    assert result.rounds_completed == study.training.rounds
    assert result.gap_recovered is None
    assert json.loads((tmp_path / "run" / "result.json").read_text())["gap_recovered"] is None
    released = load_policy(tmp_path / "run")
    assert released.probabilities is None
    assert (released.environment, released.observation) == ("CartPole-v1", "features")
    # The same episodes as `evaluate_state` makes: 60 of at most 500 steps, whose return is their length.
    environment, nobody = setting_of(study).make(60, 500), np.arange(60, dtype=np.uint64)
    seen = roll_out(released.acting(), environment, np.random.default_rng(study.study.seed), nobody)
    assert result.mean_return == pytest.approx(seen.lengths.mean())
    assert result.return_half_width == pytest.approx(1.959964 * seen.lengths.std(ddof=1) / math.sqrt(60))
    assert _python(_READ, tmp_path / "run") == ""


def _python(program: str, argument: Path) -> str:
    done = subprocess.run([sys.executable, "-c", program, str(argument)], capture_output=True, text=True)
    return done.stderr


def test_people_read_a_gap_only_where_there_is_one(clinical: tuple[Path, RunResult, list[RoundReport]]) -> None:
    folder, result, reports = clinical
    screens = {}
    for name, has_gap in {"known": True, "unknown": False}.items():
        screen = Console(file=io.StringIO(), width=200)
        changed = {} if has_gap else {"gap_recovered": None, "return_half_width": 0.5}
        _show_result(folder, replace(result, **changed), screen)
        with Progress(console=screen) as bar:
            report = reports[0] if has_gap else replace(reports[0], gap_recovered=None)
            _Watcher(bar, 1).round_ended(report)
        screens[name] = screen.file.getvalue()  # type: ignore[attr-defined]  # a StringIO

    assert screens["known"].count("gap recovered") == 2  # of the round, and at the end
    assert "exact chance of survival" in screens["known"]
    assert "gap recovered" not in screens["unknown"]
    assert "survival" not in screens["unknown"]
    assert "mean return under the released policy, simulated: +-0.5000" in screens["unknown"]


def test_over_clinical_features_the_return_is_exact_and_the_file_holds_the_table_it_was_computed_from(
    clinical: tuple[Path, RunResult, list[RoundReport]],
) -> None:
    folder, result, _ = clinical

    assert verify(folder).holds
    released = load_policy(folder)
    assert released.probabilities is not None
    assert result.return_half_width == 0
    assert result.mean_return == exact_return(released.probabilities)
    assert result.gap_recovered == gap_of(result.mean_return)
    assert released.probabilities[~admissible_actions()].max() == 0
    acting, states = released.acting(), np.arange(0, 713, 7)
    acting.begin(states.size)
    for uniform in (0.05, 0.5, 0.95):  # by features and masks the reader's policy does what the table says
        chosen, log_probabilities = acting.act(
            np.arange(states.size),
            state_features()[states],
            np.full(states.size, uniform),
            admissible_actions()[states],
        )
        assert np.exp(log_probabilities) == pytest.approx(released.probabilities[states, chosen], abs=1e-12)
        before = np.where(np.arange(25) < chosen[:, None], released.probabilities[states], 0).sum(axis=1)
        assert (before <= uniform + 1e-12).all()
        assert (uniform <= before + released.probabilities[states, chosen] + 1e-12).all()


def test_feature_columns_of_a_steps_table_are_learned_from_and_another_number_of_them_is_refused(
    tmp_path: Path,
) -> None:
    (tmp_path / "steps").mkdir()
    for number in (1, 2, 3):
        environment, persons = IcuSepsisFeatures(48, 12), np.arange(48, dtype=np.uint64)
        stays = roll_out(UniformActing(25), environment, np.random.default_rng(number), persons)
        patients = [f"p{int(person) // 2}" for person in persons]
        write_steps(tmp_path / "steps" / f"site-{number:02d}.parquet", stays, patients, is_simulated=True)
    logged = Path(__file__).parents[2] / "studies" / "logged.toml"
    chosen = {"data.observation": "features", "policy.kind": "mlp", "policy.hidden": [6], "training.rounds": 1}
    study = load_study(logged, {"data.path": str(tmp_path / "steps")} | chosen)

    result = simulation.run(study, tmp_path / "run", RunOptions(state=tmp_path / "state"))

    assert verify(tmp_path / "run").holds
    assert result.return_half_width == 0
    elsewhere = load_study(logged, {"data.path": str(tmp_path / "steps"), "data.environment": "CartPole-v1"} | chosen)
    with pytest.raises(DataRefused, match="may not"):
        simulation.run(elsewhere, tmp_path / "other", RunOptions(state=tmp_path / "other-state"))
    assert "another number of features" in (tmp_path / "other-state/sites/site-01/site.log").read_text()


def test_a_policy_of_values_is_scored_greedily_and_collects_with_the_rounds_exploration(
    tiny: Callable[..., Study],
) -> None:
    ends = {"training.exploration": 0.8, "training.exploration_end": 0.2, "training.rounds": 4}
    study = tiny(NETWORK | VALUES | ends)
    state = initial_state(optimiser_rule(study, make_plan(study).constants))

    shown = evaluate_state(study)(state)

    table = policy_form(study).probabilities_at(state.parameters, state_features(), admissible_actions())
    assert set(np.unique(table)) == {0.0, 1.0}
    assert shown["return"] == exact_return(table)
    assert shown["return_half_width"] == 0
    assert [study.exploration_at(number) for number in (1, 2, 3, 4, 5)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.2])


def test_episodes_that_do_not_fit_at_once_are_played_in_portions(
    tiny: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny(CART | {"output.evaluation_episodes": 50})
    state = initial_state(optimiser_rule(study, make_plan(study).constants))
    played = []
    monkeypatch.setattr(evaluation, "_MOST_NUMBERS", 20 * 500 * 4)
    monkeypatch.setattr(evaluation, "roll_out", lambda *of: played.append(roll_out(*of)) or played[-1])

    shown = evaluate_state(study)(state)

    returns = np.concatenate([portion.lengths for portion in played])
    assert [portion.count for portion in played] == [20, 20, 20]
    assert not np.array_equal(played[0].lengths, played[1].lengths)  # nobody is played twice
    assert shown["return"] == pytest.approx(returns[:50].mean())


def test_a_table_of_an_environments_numbered_states_is_trained_and_acts(
    tiny: Callable[..., Study], tmp_path: Path
) -> None:
    study = tiny(
        {"data.environment": "FrozenLake-v1", "data.max_steps": 20, "policy.kind": "table"}
        | {"privacy.noise": "local", "output.evaluation_episodes": 20, "training.rounds": 1}
    )

    result = simulation.run(study, tmp_path / "run")

    assert verify(tmp_path / "run").holds
    assert result.gap_recovered is None
    acting = load_policy(tmp_path / "run").acting()
    acting.begin(16)
    assert acting.act(np.arange(16), np.arange(16), np.full(16, 0.5))[0].max() < 4
