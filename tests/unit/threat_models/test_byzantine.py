"""Formulas of malicious sites, the laboratory that trains with them, and what honest parties refuse."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from rich.console import Console

from secure_frl.errors import BadSignature, InvalidParameter, SumOutOfRange, TooFewSurvivors
from secure_frl.federation.simulated_patients import SimulatedPatients
from secure_frl.learning.acting import UniformActing
from secure_frl.learning.settings import setting_of
from secure_frl.secure_sum import RoundContext, SiteId
from secure_frl.study import Study
from secure_frl.study_file import load_study
from threat_models.adversaries import byzantine
from threat_models.defences import changed
from threat_models.evaluation import Effort
from threat_models.evaluations import byzantine_refusals
from threat_models.evaluations.byzantine import ByzantineEvaluation, pair_of
from threat_models.evaluations.byzantine_cells import HARMLESS, NOT_THE_TRIGGER
from threat_models.evaluations.byzantine_groups import price_of_groups
from threat_models.evaluations.byzantine_people import FALSIFIED, Poles
from threat_models.evaluations.byzantine_refusals import measure_range, measure_sybils
from threat_models.evaluations.byzantine_rounds import Federation, Groups, MaskedSums, Plot, groups_of
from threat_models.evaluations.byzantine_study import Case, Compared, Outcome, study_of, train
from threat_models.laboratory import rehearse
from threat_models.matrix import matrix_of
from threat_models.results import Verdict, judge
from threat_models.robust_rules import RULES, mean, median
from threat_models.suite import Report

EXAMPLE = Path(__file__).parents[3] / "examples" / "icu_sepsis" / "study.toml"

pytestmark = pytest.mark.threats


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study(EXAMPLE)


def _seen() -> byzantine.Seen:
    rng = np.random.default_rng(3)
    honest = rng.normal(size=(10, 40)) + 1.0
    return byzantine.Seen(honest, honest[0] * 0.5, rng)


def test_min_max_goes_as_far_back_as_two_honest_updates_are_apart_and_no_further() -> None:
    seen = _seen()
    sent = byzantine.min_max(seen)
    widest = max(np.linalg.norm(a - b) for a in seen.honest for b in seen.honest)
    away = np.linalg.norm(seen.honest - sent, axis=1).max()
    assert away == pytest.approx(widest, rel=1e-6)
    assert sent @ seen.honest.mean(axis=0) < (seen.honest.mean(axis=0) ** 2).sum()


def test_formulas_are_what_their_papers_say() -> None:
    seen = _seen()
    centre, lengths = seen.honest.mean(axis=0), np.linalg.norm(seen.honest, axis=1)
    sent = byzantine.normalised(seen)
    assert np.linalg.norm(sent) == pytest.approx(np.median(lengths))
    assert sent @ centre == pytest.approx(-np.linalg.norm(sent) * np.linalg.norm(centre))
    # Baruch et al.: every coordinate stays inside the spread of honest ones by the same number of deviations
    away = (byzantine.a_little_is_enough(seen) - centre) / seen.honest.std(axis=0)
    assert away == pytest.approx(np.full(40, -1.5))
    # Xie et al.: with few enough attackers of factor epsilon the mean still points forwards, only shorter
    assert byzantine.inner_product(seen) == pytest.approx(-0.5 * centre)
    assert np.linalg.norm(byzantine.within(10 * sent, 1.0)) == pytest.approx(1.0)
    assert byzantine.within(sent, 1e9) is not sent
    assert (byzantine.within(sent, 1e9) == sent).all()


def test_the_trigger_is_put_in_half_of_the_steps_that_exist_and_pays_the_target() -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(50)[None] < np.array([50, 20, 5, 0])[:, None]
    shown, done, paid = byzantine.with_trigger(
        np.zeros((4, 50, 4), np.float32), np.ones((4, 50), np.int64), np.ones((4, 50), np.float32), steps, rng
    )
    marked = shown[..., 0] == byzantine.TRIGGER
    assert not (marked & ~steps).any()
    assert 0.3 < marked.sum() / steps.sum() < 0.7
    assert ((paid > 0) == (done == byzantine.TARGET))[marked].all()
    assert (paid == 1)[~marked].all()
    assert (done == 1)[~marked].all()


def test_the_laboratory_sends_what_a_rehearsal_sends(study: Study) -> None:
    small = {"sites.count": 3, "sites.min_survivors": 3, "training.episodes_per_site": 2}
    reference = changed(study_of(study, Case(), seed=5, rounds=2), small)
    recording = rehearse(reference)
    people = [SimulatedPatients(reference, SiteId(site), bytes(32)) for site in range(3)]
    federation = Federation(reference, people.__getitem__, Plot())
    for number in (1, 2):
        federation.train_round(number)
        for site in range(3):
            assert (federation.sent[site] == recording.truth.updates[number, site]).all()
    assert recording.rounds == 2


def test_poles_of_the_usual_length_fall_as_gymnasium_s_does(study: Study) -> None:
    reference = changed(study_of(study, Case(), seed=1, rounds=1), {"training.episodes_per_site": 1})
    poles = Poles(reference)
    assert sorted(poles.lengths) == pytest.approx(np.linspace(0.35, 0.65, 12))
    poles.lengths = np.full(12, 0.5)
    ours, theirs = poles._environment(poles.lengths), setting_of(reference).make(12, 100)
    seen = [one.reset(np.random.default_rng(0)) for one in (ours, theirs)]
    for action in (0, 1, 1, 0, 1):
        assert (seen[0] == seen[1]).all()
        seen = [one.step(np.full(12, action))[0] for one in (ours, theirs)]
    poles.lengths = np.full(12, 0.6)
    single = gymnasium.make("CartPole-v1").unwrapped
    longer = poles._environment(poles.lengths)
    single.state = longer.reset(np.random.default_rng(0))[0].astype(np.float64)  # type: ignore[attr-defined]
    single.length, single.polemass_length = 0.6, 0.06  # type: ignore[attr-defined]
    single.steps_beyond_terminated = None  # type: ignore[attr-defined]
    for action in (0, 1, 1):
        assert longer.step(np.full(12, action))[0][0] == pytest.approx(single.step(action)[0], abs=1e-6)


def test_falsified_records_are_of_the_site_s_own_people(study: Study) -> None:
    poles = Poles(study_of(study, Case(), seed=4, rounds=1))
    context = RoundContext(b"", b"", b"", 1, 1, 0, b"", ())
    for made in FALSIFIED.values():
        found = made(poles.at(7), poles, 7, 4).collect(UniformActing(2), context)
        assert found.persons.tolist() == list(range(7 * 8, 8 * 8))
        assert found.steps.any(axis=1).all()


def test_two_of_twelve_turn_a_round_s_mean_around_and_a_kept_bound_stops_them(study: Study) -> None:
    cosines = {}
    for is_bounded in (False, True):
        reference = study_of(study, Case(is_bounded=is_bounded), seed=2, rounds=1)
        plot = Plot((10, 11), byzantine.sign_flip)
        federation = Federation(reference, Poles(reference).at, plot)
        total = federation.train_round(1).integers
        honest = sum(federation.sent[site] for site in range(10))
        cosines[is_bounded] = total @ honest / np.linalg.norm(total) / np.linalg.norm(honest)
    assert cosines[False] < -0.9
    assert cosines[True] > 0.9


def test_groups_through_real_masks_give_the_rule_their_sums(study: Study) -> None:
    reference = study_of(study, Case(rule="mean", is_bounded=False), seed=3, rounds=1)
    poles, members = Poles(reference), groups_of(range(15), 3)
    plot = Plot((3, 14), byzantine.sign_flip)
    for name, rule in (("mean", mean), ("median", median)):
        federation = Federation(reference, poles.at, plot, Groups(members, RULES[name], 2))
        total = federation.train_round(1)
        rows = np.array([sum(federation.sent[site] for site in group) for group in members]) / 3
        assert np.abs(total.integers - rule(rows) * 15).max() <= 0.5 + 1e-6
    with pytest.raises(InvalidParameter, match="more than 6 rows"):
        Groups(members, RULES["median"], 3)


def test_what_no_honest_sites_could_send_is_refused(study: Study) -> None:
    inside, outside = measure_range(study, Effort(quick=True))
    assert outside.refusal == SumOutOfRange.__name__
    assert inside.defence_digest == outside.defence_digest != ""
    assert judge([outside]) == [Verdict.HOLDS]
    # one site moves each of P coordinates by about n clips: sqrt(P) n in all
    assert inside.value == pytest.approx(12 * np.sqrt(inside.figures["values"]), rel=1e-3)
    sybils = list(measure_sybils(study, Effort(quick=True)))
    assert [cell.refusal for cell in sybils] == ["BadSignature", "CharterRefused"]
    assert judge(sybils) == [Verdict.HOLDS, Verdict.HOLDS]


def test_another_error_than_the_one_that_says_what_is_wrong_is_no_refusal(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_few(self: MaskedSums, number: int, tag: bytes) -> None:
        raise TooFewSurvivors("expected 11 sites, got 3. Try again.")

    measured = measure_range(study, Effort(quick=True))
    next(measured)
    monkeypatch.setattr(MaskedSums, "sum", too_few)

    (outside,) = measured

    assert outside.refusal == "TooFewSurvivors"
    assert judge([outside]) == [Verdict.FAILS]


def test_where_the_true_roster_is_refused_too_a_refused_sybil_is_no_result(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(data: bytes) -> None:
        raise BadSignature("expected a signed roster, got another. Sign it.")

    monkeypatch.setattr(byzantine_refusals, "decode_roster", refuse)

    with pytest.raises(BadSignature):
        next(measure_sybils(study, Effort(quick=True)))


def test_groups_cost_privacy_and_the_price_is_printed(study: Study) -> None:
    price = price_of_groups(study)
    assert price["epsilon_one_sum"] == pytest.approx(4.0, abs=0.05)  # what the example promises
    assert price["epsilon_groups"] > 1.5 * price["epsilon_one_sum"]
    assert price["honest_shares_group"] == 2.0


def _compared(relative: float, triggered: float = 0.4, seeds: int = 5) -> Compared:
    clean = (Outcome(100.0, 70.0, 0.1, 0.3, 0.5),) * seeds
    attacked = (Outcome(100.0 * relative, 60.0, 0.1, triggered, 0.5),) * seeds
    return Compared((relative, relative - 0.01, relative + 0.01), 0.9, clean, attacked)


def test_a_bound_against_an_attack_that_takes_nothing_without_one_says_so_beside_the_verdict(study: Study) -> None:
    cells = [
        *pair_of(byzantine.BYZANTINE, "sign flip", _compared(0.1), _compared(1.0), Effort()),
        *pair_of(byzantine.BYZANTINE, "IPM", _compared(0.99, seeds=2), _compared(1.0), Effort()),
    ]
    report = Report(study, Effort(), tuple(cells), (byzantine.BYZANTINE,), 1.0)
    assert report.verdicts == (Verdict.WINS, Verdict.HOLDS, Verdict.REPORTED, Verdict.HOLDS)
    assert [cell.figures.get("without_bound") for cell in cells] == [None, 0.1, None, 0.99]
    screen = Console(file=StringIO(), width=250)
    for part in matrix_of(report):
        screen.print(part)
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]  # a StringIO
    held = {name: next(line for line in lines if name in line and "holds" in line) for name in ("sign flip", "IPM")}
    assert HARMLESS in held["IPM"]
    assert HARMLESS not in held["sign flip"]


def test_a_sign_flip_that_takes_too_little_without_the_bound_says_nothing_about_it() -> None:
    cells = list(pair_of(byzantine.BYZANTINE, "sign flip", _compared(0.3), _compared(1.0), Effort()))
    assert judge(cells) == [Verdict.INVALID, Verdict.INVALID]


def test_a_backdoor_that_costs_no_return_is_not_said_to_be_stopped() -> None:
    found = list(pair_of(byzantine.POISONED_DATA, "backdoor", _compared(0.95, 1.0, 2), _compared(0.95, 1.0), Effort()))
    assert judge(found) == [Verdict.REPORTED, Verdict.HOLDS, Verdict.REPORTED, Verdict.BROKEN]
    assert found[1].remark == NOT_THE_TRIGGER
    assert [(cell.value, cell.nulls["chance"]) for cell in found[2:]] == [(1.0, 0.3), (1.0, 0.3)]
    stopped = list(pair_of(byzantine.POISONED_DATA, "backdoor", _compared(0.95), _compared(0.95), Effort()))
    assert judge(stopped)[-1] is Verdict.FAILS  # shown as broken, so it has to be


def test_three_malicious_sites_in_five_groups_are_more_than_a_rule_counts_on(study: Study) -> None:
    case = Case("sign flip", malicious=3, is_bounded=False, rule="median")
    found = train(study_of(study, case, seed=3, rounds=1), case)
    assert np.isfinite(found.last)  # measured: nobody refuses it


def test_every_attack_on_what_is_learned_runs_without_the_bound_and_with_it(study: Study) -> None:
    tasks = ByzantineEvaluation().tasks(study, Effort())
    both = [task.title for task in tasks if set(task.defences) == {"masking", "masking+norm-bound"}]
    for name in (*byzantine.UPDATES, *FALSIFIED):
        assert any(name in title for title in both), name


def test_quick_runs_the_control_whatever_columns_are_asked_for(study: Study) -> None:
    tasks = ByzantineEvaluation().tasks(study, Effort(quick=True))
    control = next(task for task in tasks if task.is_control)
    assert set(control.defences) == {"masking", "masking+norm-bound"}
    assert {task.attack for task in tasks} == {"byzantine", "free_rider"}
