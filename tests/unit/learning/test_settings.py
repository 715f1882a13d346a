"""What a study's environment is, without data: spaces, masks, exact values, and names that lead nowhere."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from secure_frl.errors import StudyRefused
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, admissible_actions, load_tables
from secure_frl.learning.environments.icu_sepsis_features import IcuSepsisFeatures
from secure_frl.learning.settings import public_table, setting_named

_NO_GYMNASIUM = """
import sys
from secure_frl.learning.settings import public_table, setting_named
setting_named("icu-sepsis", "state").make(2, 3)
setting_named("icu-sepsis", "features").make(2, 3)
public_table("CartPole-v1", "features")
assert 'gymnasium' not in sys.modules and 'torch' not in sys.modules
setting_named("CartPole-v1", "features")
assert 'gymnasium' in sys.modules and 'torch' not in sys.modules
"""


def test_both_views_of_icu_sepsis_have_one_exact_value_and_the_published_masks() -> None:
    state, features = setting_named("icu-sepsis", "state"), setting_named("icu-sepsis", "features")

    assert (state.states, state.features, state.live_states, state.actions) == (716, None, 713, 25)
    assert (features.states, features.features, features.live_states, features.actions) == (None, 47, 0, 25)
    assert isinstance(state.make(4, 9), IcuSepsis)
    assert isinstance(features.make(4, 9), IcuSepsisFeatures)
    assert np.array_equal(state.admissible, admissible_actions())
    assert features.admissible is None  # masks come with the observations
    for one in (state, features):
        assert one.shown is not None
        assert one.shown.shape[0] == 716
        assert np.array_equal(one.shown_allowed, admissible_actions())
        assert one.value_of is not None
        assert one.value_of(load_tables().expert) == pytest.approx(0.7818, abs=5e-5)  # of the published model
        assert one.gap_of is not None
        assert one.gap_of(0.8751) == pytest.approx(1.0, abs=1e-3)


def test_a_gymnasium_id_shows_what_its_space_says_and_has_no_exact_value() -> None:
    cart, lake = setting_named("CartPole-v1", "features"), setting_named("FrozenLake-v1", "state")

    assert (cart.states, cart.features, cart.actions, cart.live_states, cart.episode_limit) == (None, 4, 2, 0, 500)
    assert (lake.states, lake.features, lake.actions, lake.live_states, lake.episode_limit) == (16, None, 4, 16, 100)
    for one in (cart, lake):
        assert (one.admissible, one.shown, one.value_of, one.gap_of) == (None, None, None, None)
    assert cart.make(3, 7).reset(np.random.default_rng(0)).shape == (3, 4)


def test_the_key_for_observations_must_say_what_the_environment_shows() -> None:
    with pytest.raises(StudyRefused, match="write 'features'"):
        setting_named("CartPole-v1", "state")
    with pytest.raises(StudyRefused, match="write 'state'"):
        setting_named("FrozenLake-v1", "features")


def test_a_public_table_is_known_without_an_environment() -> None:
    assert np.array_equal(public_table("icu-sepsis", "state"), admissible_actions())
    assert public_table("icu-sepsis", "features") is None
    assert public_table("nowhere:Nothing-v0", "state") is None


def test_gymnasium_is_loaded_for_its_own_environments_only() -> None:
    done = subprocess.run([sys.executable, "-c", _NO_GYMNASIUM], capture_output=True, text=True)

    assert done.stderr == ""
