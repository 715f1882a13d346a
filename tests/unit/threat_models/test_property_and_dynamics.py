"""What updates say of a whole hospital, and a policy of the world it was trained in; each from its view alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from secure_frl.learning.environments.icu_sepsis import LIVE_STATES, STATES
from secure_frl.learning.environments.site_shift import SiteDynamics
from secure_frl.learning.evaluation import exact_values
from secure_frl.privacy.ceilings import auc_ceiling
from secure_frl.study import Study
from threat_models.adversaries.dynamics_inference import DIRECTION, GREEDY, DynamicsInference
from threat_models.adversaries.property_inference import PropertyInference
from threat_models.defences import LOCAL_8, MASKING, PLAIN, Defence, changed
from threat_models.evaluation import Effort
from threat_models.evaluations import dynamics_inference as dynamics
from threat_models.evaluations import property_inference as mix
from threat_models.laboratory import Recording, rehearse, view_of
from threat_models.public import public_of
from threat_models.results import Bar, Kind
from threat_models.statistics import auc
from threat_models.threat import CapturedView, Guess, View
from threat_models.truth import Truth

pytestmark = pytest.mark.threats
Tiny = Callable[..., Study]
ROUNDS, EFFORT = 6, Effort()
SEEN = 0.8  # an area that eighteen trials can tell from one half; the suite asks for .9 of a hundred


def _mixed(study: Study, defence: Defence) -> tuple[Recording, mix.Coins]:
    attacked = mix.reference(study, defence, mix.FEW, ROUNDS, 0)
    coins = mix.tossed(ROUNDS, 3, defence != MASKING, np.random.default_rng(1))
    around = partial(mix._mixed, attacked, coins, EFFORT, ("test", defence.name))
    return rehearse(attacked, around=around), coins


def _said(recording: Recording) -> Guess:
    adversary = PropertyInference(mix.is_severe(), window=mix.FEW, shadows=2000)
    adversary.prepare(public_of(recording.study), np.random.default_rng(0))
    return adversary.run(view_of(recording, View.COORDINATOR))


def _area(recording: Recording, coins: mix.Coins) -> float:
    found = mix.decisions(_said(recording), coins)
    return auc(found.scores, found.is_member)


def _bytes(guess: Guess) -> dict[str, bytes]:
    return {name: found.tobytes() for name, found in guess.items()}


def test_an_update_tells_the_case_mix_of_its_site_and_the_guess_is_made_of_the_view_alone(tiny: Tiny) -> None:
    recording, coins = _mixed(tiny(), PLAIN)

    assert _area(recording, coins) > SEEN
    assert _bytes(_said(recording)) == _bytes(_said(replace(recording, truth=Truth())))
    for key, coin in coins.items():
        came = recording.truth.trajectories[key].observations[:, 0]
        assert mix.is_severe()[came].sum() == (21 if coin else 5)


def test_a_sum_tells_the_case_mix_of_all(tiny: Tiny) -> None:
    recording, coins = _mixed(tiny(), MASKING)

    assert all(coins[number, 0] == coins[number, site] for number, site in coins)
    assert _area(recording, coins) > SEEN


def test_noise_of_a_person_hides_the_case_mix_of_few(tiny: Tiny) -> None:
    assert _area(*_mixed(tiny(), LOCAL_8)) < SEEN


def test_a_whole_sites_noise_is_held_to_a_ceiling_that_the_attack_passes_without_it(tiny: Tiny) -> None:
    mu = mix.mu_of_sites(tiny())
    ceiling = auc_ceiling(mu)
    tasks = {task.defences[0]: task.is_control for task in mix.PropertyInferenceEvaluation().tasks(tiny(), EFFORT)}

    assert 0.55 < ceiling < 0.7  # fifty trials at an area of .85 have a lower limit of about .65
    assert mix._asked(mix.OF_SITES, ceiling, EFFORT)["bars"] == (Bar("lowest", at_most=ceiling),)
    without = mix._asked(mix.CLIPPED_SITES, ceiling, EFFORT)
    assert (without["kind"], without["bars"]) == (Kind.CONTROL, (Bar("lowest", at_least=ceiling),))
    assert tasks[mix.CLIPPED_SITES.name]
    assert not tasks[mix.OF_SITES.name]


def _trained_in(study: Study, world: SiteDynamics) -> Recording:
    sizes = {"training.episodes_per_site": 300, "privacy.delta": 1e-4}
    attacked = changed(study, dynamics.REFERENCE, sizes, PLAIN.changes)
    return rehearse(attacked, around=partial(dynamics._inside, attacked, world, EFFORT, ("test",)))


def test_a_policy_names_the_world_that_it_was_trained_in(tiny: Tiny) -> None:
    worlds = dynamics.candidates(3, np.random.default_rng(0))
    adversary = DynamicsInference([dynamics.world_of(one) for one in worlds])
    adversary.prepare(public_of(changed(tiny(), dynamics.REFERENCE, PLAIN.changes)), np.random.default_rng(0))

    for truth in (0, 2):
        recording = _trained_in(tiny(), worlds[truth])
        guess = adversary.run(view_of(recording, View.POLICY_USER))
        blind = adversary.run(view_of(replace(recording, truth=Truth()), View.POLICY_USER))
        assert guess[DIRECTION].argmax() == truth
        assert _bytes(guess) == _bytes(blind)


def test_a_candidate_is_solved_as_the_exact_evaluation_solves_it(tiny: Tiny) -> None:
    worlds = dynamics.candidates(3, np.random.default_rng(0))
    public = public_of(changed(tiny(), dynamics.REFERENCE, PLAIN.changes))
    adversary = DynamicsInference([dynamics.world_of(one) for one in worlds])
    adversary.prepare(public, np.random.default_rng(0))

    for number, world in enumerate(worlds):
        best = np.zeros((STATES, 25))
        best[np.arange(LIVE_STATES), adversary._best[number]] = 1.0
        best[LIVE_STATES:] = 1 / 25
        score = exact_values(world).score(best)
        assert score.mean_return == pytest.approx(score.optimal, abs=1e-9)


def test_a_policy_that_learned_nothing_names_no_world(tiny: Tiny) -> None:
    public = public_of(changed(tiny(), dynamics.REFERENCE, PLAIN.changes))
    adversary = DynamicsInference([dynamics.world_of(one) for one in dynamics.candidates(3, np.random.default_rng(0))])
    adversary.prepare(public, np.random.default_rng(0))

    guess = adversary.run(CapturedView(View.POLICY_USER, (), (), {}, {1: public.first_policy}, {}, {}))

    assert np.ptp(guess[DIRECTION]) == 0.0
    assert set(guess) == {DIRECTION, GREEDY}
