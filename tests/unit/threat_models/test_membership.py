"""Who was in: the filter wins with the defence off, keeps under its ceiling with it on, and sees its view alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from secure_frl.study import Study
from threat_models.adversaries.membership_policy import MembershipPolicy
from threat_models.adversaries.membership_update import Candidates, MembershipUpdate
from threat_models.defences import CLIP, LOCAL_1, LOCAL_8, PLAIN, Defence, changed, defended
from threat_models.evaluation import Effort
from threat_models.evaluations import membership_policy as policy
from threat_models.evaluations.membership_update import REFERENCE, Coins, MembershipUpdateEvaluation, Pools, family_of
from threat_models.laboratory import Recording, rehearse, view_of
from threat_models.membership import Decisions, ceiling_bars, scored
from threat_models.public import public_of, typical_norm
from threat_models.results import Cell, Kind, Verdict, judge
from threat_models.statistics import auc
from threat_models.threat import Guess, View
from threat_models.truth import Truth

pytestmark = pytest.mark.threats
Tiny = Callable[..., Study]
WINDOW = 24


def _recorded(study: Study, defence: Defence, *, is_swap: bool = False) -> tuple[Recording, Pools]:
    reference = changed(study, REFERENCE, {"training.rounds": 1, "training.episodes_per_site": WINDOW})
    pools: Pools = {}
    recording = rehearse(
        defended(reference, defence, clip_norm=typical_norm(reference)),
        around=lambda source, site: Coins(source, site, is_swap, np.random.default_rng(site), pools),
    )
    return recording, pools


def _guess(recording: Recording, pools: Pools, *, is_swap: bool = False) -> Guess:
    asked = {key: Candidates(people, is_swap) for key, (people, _) in pools.items()}
    adversary = MembershipUpdate(asked, window=WINDOW, shadows=100)
    adversary.prepare(public_of(recording.study), np.random.default_rng(0))
    return adversary.run(view_of(recording, View.COORDINATOR))


def _area(guess: Guess, pools: Pools, way: str, *, is_swap: bool = False) -> float:
    coins = {key: found for key, (_, found) in pools.items()}
    one = family_of(guess, coins, is_swap)[way]
    return auc(one.scores, one.is_member)


def test_a_clipped_update_names_its_people_and_the_guess_is_made_of_the_view_alone(tiny: Tiny) -> None:
    recording, pools = _recorded(tiny(), CLIP)
    guess = _guess(recording, pools)
    blind = _guess(replace(recording, truth=Truth()), pools)

    assert _area(guess, pools, "together") > 0.99
    assert _area(guess, pools, "alone") > 0.8
    assert all(len(pools[key][0].lengths) == WINDOW for key in pools)
    assert {name: scores.tobytes() for name, scores in guess.items()} == {
        name: scores.tobytes() for name, scores in blind.items()
    }


def test_of_a_pair_the_one_who_is_in_is_named(tiny: Tiny) -> None:
    recording, pools = _recorded(tiny(), CLIP, is_swap=True)

    assert all(coins.sum() == WINDOW // 2 for _, coins in pools.values())
    assert _area(_guess(recording, pools, is_swap=True), pools, "together", is_swap=True) > 0.99


def test_noise_at_epsilon_one_leaves_next_to_nothing(tiny: Tiny) -> None:
    recording, pools = _recorded(tiny(), LOCAL_1)

    assert abs(_area(_guess(recording, pools), pools, "together") - 0.5) < 0.2


def _game(mu: float, seed: int) -> Decisions:
    rng = np.random.default_rng(seed)
    is_member: NDArray[np.bool_] = rng.random(4000) < 0.5
    return Decisions(rng.normal(size=4000) + mu * is_member, is_member, np.repeat(np.arange(100), 40))


def _verdict(real: float, claimed: float) -> Verdict:
    fields = scored({"alone": _game(real, 0), "together": _game(real / 2, 1)}, claimed, np.random.default_rng(0))
    cell = Cell("in", "noise", Kind.DEFENDED, view="coordinator", bars=ceiling_bars(fields, claimed), **fields)
    return judge([cell])[0]


def test_an_attack_at_its_ceiling_is_none_and_one_above_it_refutes_the_claim() -> None:
    assert _verdict(1.0, 1.0) is Verdict.HOLDS
    assert _verdict(1.4, 1.0) is Verdict.FAILS


def test_no_false_positive_of_few_is_not_certainty_about_anybody() -> None:
    members = np.arange(1200) < 600
    one = Decisions(np.where(members, 10.0, 0.0), members, np.arange(1200) % 40)

    found = scored({"only": one}, 0.1, np.random.default_rng(0))["figures"]

    assert found["tpr_at_1_percent"] > 0.99
    assert found["false_positive_rate"] == 0
    assert 0.08 < found["ppv_at_prior_0.001"] < 0.1  # 1 in a thousand against 1 in a hundred, not 1


def test_the_better_way_counts_and_its_figures_are_of_the_known_game() -> None:
    fields = scored({"alone": _game(1.0, 0), "together": _game(0.1, 1)}, 1.0, np.random.default_rng(0))

    assert fields["value"] == fields["figures"]["auc_alone"] == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.02)
    assert fields["ceiling"] == pytest.approx(norm.cdf(1 / np.sqrt(2)))
    assert fields["nulls"]["swapped"] == pytest.approx(0.5, abs=0.03)
    assert fields["curves"]["tpr_ceiling"][-1] == 1.0
    assert min(fields["curves"]["fpr"]) * 2000 >= 0.9


def test_both_games_are_played_at_each_epsilon_of_one_site(tiny: Tiny) -> None:
    titles = {task.title for task in MembershipUpdateEvaluation().tasks(tiny(), Effort())}

    for defence in (CLIP, LOCAL_8, LOCAL_1):
        assert {f"membership_update, {defence.name}", f"membership_update, {defence.name}, swap"} <= titles


def test_nobody_is_asked_about_where_a_site_is_the_unit(tiny: Tiny) -> None:
    by_site = changed(tiny(), {"privacy.unit": "site", "privacy.max_rounds_per_person": 1})

    for one in (MembershipUpdateEvaluation(), policy.MembershipPolicyEvaluation()):
        assert "unit is the site" in one.why_not(by_site)
        assert not one.why_not(tiny())


@pytest.fixture(scope="module")
def remembered(tiny: Tiny) -> tuple[Recording, Study, NDArray[np.bool_]]:
    """One federation that trained on a random half of its candidates again and again, with nothing to protect them."""
    reference = changed(tiny(), policy.REFERENCE)
    study = defended(reference, PLAIN, clip_norm=typical_norm(reference))
    coin = np.random.default_rng(3).random(policy.SITES * policy.SLOTS) < 0.5
    pool = policy.survivors(public_of(study), coin.size, 0)
    return rehearse(study, around=partial(policy.admitted, pool, coin)), study, coin


def test_the_user_of_a_policy_has_the_last_one_and_nothing_else(
    remembered: tuple[Recording, Study, NDArray[np.bool_]],
) -> None:
    recording, study, _ = remembered
    view = view_of(recording, View.POLICY_USER)

    ((number, released),) = view.policies.items()
    assert number == study.training.rounds + 1
    assert not any(np.array_equal(released, met) for met in recording.memory.policies.values())
    assert not view.frames
    assert not view.sums


def test_a_policy_that_remembers_names_whom_it_was_trained_on(
    remembered: tuple[Recording, Study, NDArray[np.bool_]],
) -> None:
    recording, study, coin = remembered
    public = public_of(study)
    pool = policy.survivors(public, coin.size, 0)
    adversary = MembershipPolicy(pool, policy.survivors(public, coin.size, 1), rounds=study.training.rounds, shadows=4)
    adversary.prepare(public, np.random.default_rng(0))

    guess = adversary.run(view_of(recording, View.POLICY_USER))
    blind = adversary.run(view_of(replace(recording, truth=Truth()), View.POLICY_USER))

    assert max(auc(guess["lira"], coin), auc(guess["rmia"], coin)) > 0.7
    assert {name: found.tobytes() for name, found in guess.items()} == {
        name: found.tobytes() for name, found in blind.items()
    }
