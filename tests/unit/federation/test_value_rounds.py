"""Fitted value iteration through every room: one budget over rounds that differ, and what happens when one is lost."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure_frl.consortium.charter import SignedCharter
from secure_frl.consortium.roster import decode_roster
from secure_frl.errors import BudgetExhausted, CharterViolation, StudyRefused, StudyStopped
from secure_frl.evidence import books
from secure_frl.evidence.findings import Notes
from secure_frl.evidence.ledger_view import COLUMNS, view_ledger
from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation, site
from secure_frl.federation.audit_study import audit_study
from secure_frl.federation.budgets import study_guard
from secure_frl.federation.coordinator import Coordinator
from secure_frl.federation.optimisers import initial_state
from secure_frl.federation.policy_files import load_policy
from secure_frl.federation.run_folder import RunOptions
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training import Trainer
from secure_frl.federation.training_state import TrainingState
from secure_frl.federation.value_sums import check_round
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, admissible_actions
from secure_frl.learning.rollout import roll_out_table
from secure_frl.learning.steps_table import write_steps
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.events import GaussianSumEvent, decode_event
from secure_frl.privacy.planning import constants_at, make_plan, planned_schedule, sum_constants
from secure_frl.privacy.round_shares import share_of
from secure_frl.randomness import rehearsal_source
from secure_frl.records.ledger import read_ledger_state
from secure_frl.secure_sum import Budget
from secure_frl.study import Study
from secure_frl.study_file import load_study

pytestmark = pytest.mark.slow

STUDY = Path(__file__).parents[2] / "studies" / "logged.toml"
PATIENTS = 24  # as the study declares; each has two stays
VALUES: dict[str, Any] = {
    "training.objective": "bellman_sums",
    "privacy.sampling_rate": 1.0,
    "privacy.target_epsilon": 4.0,
    "privacy.clip_norm": 0.3,
}


def stays_of(number: int) -> Trajectories:
    admissible = admissible_actions().astype(np.float64)
    uniform = admissible / admissible.sum(axis=1, keepdims=True)
    persons = np.arange(2 * PATIENTS, dtype=np.uint64) // np.uint64(2)
    return roll_out_table(uniform, IcuSepsis(2 * PATIENTS, 12), np.random.default_rng(number), persons)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("values") / "steps"
    folder.mkdir()
    for number in (1, 2, 3):
        stays = stays_of(number)
        names = [f"p{int(person)}" for person in stays.persons]
        write_steps(folder / f"site-{number:02d}.parquet", stays, names, is_simulated=True)
    return folder


def study_at(tables: Path | str = "steps", **overrides: Any) -> Study:
    return load_study(STUDY, {**VALUES, "data.path": str(tables), **overrides})


@pytest.fixture(scope="module")
def finished(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("values-run")
    simulation.run(study_at(tables), folder / "run", RunOptions(state=folder / "state"))
    return folder


def events_of(state: Path, holder: str = "sites/site-01") -> list[GaussianSumEvent]:
    return [decode_event(event) for event in read_ledger_state(state / holder / "ledger.sqlite").events()]


# --- one budget ------------------------------------------------------------------------------------------------------


def test_two_releases_spend_the_planned_budget_once_and_verify_finds_it(finished: Path, tables: Path) -> None:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    outcome, events, plan = verify(finished / "run"), events_of(finished / "state"), make_plan(study_at(tables))

    assert outcome.findings == ()
    assert [event.purpose for event in events] == ["value_start", "policy_update"]
    assert [share_of(event.blocks) for event in events] == pytest.approx([0.13, 0.87])
    by_hand = PLDAccountant(value_discretization_interval=1e-3)
    for event in events:
        sigma = math.sqrt(event.honest_shares * event.integer_noise_scale**2 - 4) / event.rounding_bound
        by_hand.compose(dp_accounting.GaussianDpEvent(sigma))
    assert outcome.epsilon_claimed == outcome.epsilon_recomputed == plan.epsilon
    assert outcome.epsilon_claimed == pytest.approx(by_hand.get_epsilon(1e-3), rel=5e-3)
    assert 3.98 < outcome.epsilon_claimed <= 4.0
    first, last = plan.epsilon_by_round
    assert first is not None
    assert first < 0.4 * 4.0  # what is left of the budget after the value start is most of it
    assert last == plan.epsilon


def test_the_ledgers_table_shows_the_noise_of_each_release_in_its_own_shifts(finished: Path, tables: Path) -> None:
    sigma = make_plan(study_at(tables)).constants.noise_multiplier

    rows = view_ledger(finished / "run/ledgers/site-01.jsonl").rows

    shown = [float(row.cells()[COLUMNS.index("sigma")]) for row in rows]
    assert shown == pytest.approx([sigma / 0.13**0.5, sigma / 0.87**0.5], abs=1e-4)


def test_the_plan_states_fewer_shares_and_more_sites_over_both_rounds(finished: Path, tables: Path) -> None:
    plan = make_plan(study_at(tables))

    claimed = verify(finished / "run").statement
    assert claimed is not None
    assert claimed["epsilon_if_one_more_site"] == plan.epsilon_if_one_more_site
    # Two sites of a person double the shift: at least twice epsilon, and about four times where noise is large.
    assert plan.epsilon_if_one_more_site is not None
    assert 8.0 < plan.epsilon_if_one_more_site < 16.0


def test_an_event_with_another_rounds_shares_contradicts_the_charter(finished: Path) -> None:
    run, notes = finished / "run", Notes()
    charter = SignedCharter.decode((run / "charter.json").read_bytes()).charter
    key = decode_roster((run / "roster.toml").read_bytes()).public_keys[0]
    book = books.read_book(run, "site-01", key, charter, notes)
    assert book is not None
    start, backup = book.booked
    cheap = dataclasses.replace(start.event, round=2, window=backup.event.window)  # books 13 % where 87 % were spent
    books.check_against_charter(book, charter, notes)
    assert notes.findings == []

    forged = dataclasses.replace(book, booked=(start, dataclasses.replace(backup, event=cheap)))
    books.check_against_charter(forged, charter, notes)

    assert "contradicts the charter: blocks=" in str(notes.findings[0])


def test_a_study_that_does_not_fit_a_lifetime_budget_is_refused_at_its_cheap_first_round() -> None:
    study = study_at()
    first = planned_schedule(study, sum_constants(study))[0][0]
    start = dataclasses.replace(first, charter_hash="ab" * 32, dataset_id="ward-a", composition_group="ward-a")
    guard = study_guard(study, bytes.fromhex("ab" * 32))

    guard(Budget(4.0, 1e-3), (), start.canonical())
    with pytest.raises(BudgetExhausted, match=r"announces [34]\."):
        guard(Budget(3.0, 1e-3), (), start.canonical())


# --- a lost value start ----------------------------------------------------------------------------------------------

LOST = {"sites.simulate_drop": {"before_masked": 0, "after_masked": 1}, "training.rounds": 4}


def test_no_backup_is_paid_for_when_the_value_start_was_lost(tables: Path, tmp_path: Path) -> None:
    study = study_at(tables, **LOST)

    with pytest.raises(StudyStopped, match="value start of round 1"):
        simulation.run(study, tmp_path / "run", RunOptions(state=tmp_path / "state"))

    assert [event.round for event in events_of(tmp_path / "state", "coordinator")] == [1]
    spent = events_of(tmp_path / "state")
    assert [event.round for event in spent] == [1]
    assert share_of(spent[0].blocks) == pytest.approx(0.13)


def test_values_that_only_started_are_released_as_no_policy(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = site.check_round

    def refuse_backups(study: Study, state: TrainingState, number: int) -> None:
        if number == 2:
            raise CharterViolation("expected no backup, got one. Lose it.")
        right(study, state, number)

    monkeypatch.setattr(site, "check_round", refuse_backups)

    with pytest.raises(StudyStopped, match="rounds 2 to 2, but all were lost"):
        simulation.run(study_at(tables), tmp_path / "run", RunOptions(state=tmp_path / "state"))

    assert not list((tmp_path / "run").glob("policies/*"))


def test_sites_refuse_by_themselves_a_backup_that_nothing_started(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Coordinator, "_check_values_started", lambda *_: None)

    with pytest.raises(StudyStopped, match="3 rounds in a row"):
        simulation.run(study_at(tables, **LOST), tmp_path / "run", RunOptions(state=tmp_path / "state"))

    assert [event.round for event in events_of(tmp_path / "state", "coordinator")] == [1, 2, 3]
    assert [event.round for event in events_of(tmp_path / "state")] == [1]


def test_a_round_is_right_once_values_have_started() -> None:
    study = study_at()
    first = initial_state(optimiser_rule(study, sum_constants(study)))

    check_round(study, first, 1)
    check_round(study, dataclasses.replace(first, round=1), 3)
    with pytest.raises(CharterViolation, match="Nothing more is sampled"):
        check_round(study, first, 2)
    # Another attempt at round 1 under values of step 1 would book 13 % of the budget for a message with 87 %.
    with pytest.raises(CharterViolation, match="the values of step 1"):
        check_round(study, dataclasses.replace(first, round=1), 1)


# --- a site's message ------------------------------------------------------------------------------------------------


def _state(study: Study, round_number: int) -> TrainingState:
    first = initial_state(optimiser_rule(study, sum_constants(study)))
    return dataclasses.replace(first, round=round_number - 1)


def _sent(study: Study, records: Trajectories, usable: np.ndarray, round_number: int) -> np.ndarray:
    """The message without noise, in units of the scale."""
    trainer = Trainer(study, constants_at(study, 0.0))
    random = rehearsal_source(0, "a site")
    update = trainer.update(_state(study, round_number), records, usable, random, 0)
    return update.integers / update.scale


@pytest.mark.parametrize(("round_number", "share"), [(1, 0.13), (2, 0.87)])
def test_all_stays_of_a_patient_move_a_round_by_the_root_of_its_share_at_most(round_number: int, share: float) -> None:
    study = study_at(**{"privacy.noise": "unsafe-none", "data.dataset_id": ""})
    records = stays_of(1)
    everybody = np.ones(records.count, dtype=np.bool_)

    with_all = _sent(study, records, everybody, round_number)
    shifts = []
    for person in range(PATIENTS):
        others = np.flatnonzero(records.persons != person)
        without = _sent(study, records.select(others), everybody[others], round_number)
        shifts.append(float(np.linalg.norm(with_all - without)))

    assert max(shifts) <= math.sqrt(share) * 1.01  # rounding to integers of 2^-16 beside it
    assert max(shifts) > 0.9 * math.sqrt(share)  # somebody is cut


def test_an_unusable_stay_takes_its_patient_out_and_the_message_keeps_its_form() -> None:
    study = study_at(**{"privacy.noise": "unsafe-none", "data.dataset_id": ""})
    records = stays_of(1)
    usable = np.ones(records.count, dtype=np.bool_)
    usable[5] = False  # of person 2, who has stays 4 and 5
    others = np.flatnonzero(records.persons != 2)

    found = _sent(study, records, usable, 2)

    assert found.tolist() == _sent(study, records.select(others), usable[others], 2).tolist()
    nobody = _sent(study, records.select(others[:0]), usable[:0], 1)
    assert nobody.shape == found.shape
    assert not nobody.any()


def test_the_released_policy_takes_the_best_value(finished: Path) -> None:
    policy = load_policy(finished / "run")

    assert policy.choice.is_greedy
    assert policy.probabilities is not None
    logits = np.where(admissible_actions(), policy.arrays["logits.weight"], -np.inf)[:713]
    assert (policy.probabilities[:713].argmax(axis=1) == logits.argmax(axis=1)).all()


# --- what is refused, and the audit ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"policy.kind": "mlp"}, "policy.kind"),
        ({"training.rounds": 1}, "training.rounds = 1"),
        ({"privacy.unit": "site"}, "privacy.unit"),
        ({"privacy.sampling_rate": 0.5}, "sampling_rate = 0.5"),
        ({"output.release": ["policy", "mean_return"]}, "mean_return"),
        ({"output.return_range": [0.0, 2.0]}, "rewards must be scaled"),
        ({"training.bellman.count_noise_share": 0.96}, "shares of the value start = 1.01"),
        ({"data.source": "environment", "data.path": "", "data.declared_units": 0}, "bellman_sums"),
    ],
)
def test_what_does_not_go_with_sums_of_values_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(StudyRefused, match=match):
        study_at(**changes)


def test_an_audit_of_a_backup_comes_near_the_claim_and_stays_below_it() -> None:
    report = audit_study(study_at(), canaries=4000)

    assert report.epsilon_bound is not None
    assert 0.6 * report.claimed_epsilon < report.epsilon_bound <= report.claimed_epsilon < 4.0
