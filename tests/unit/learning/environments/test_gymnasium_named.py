"""Environments by name: ids, modules and factories; what no policy here can use is refused with a cure."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from secure_frl.errors import StudyRefused
from secure_frl.learning.environments.gymnasium_named import made, spaces_of

OWN = "secure_frl.learning.environments.gymnasium_icu_sepsis:secure_frl/ICU-Sepsis-v0"


class Clock(gymnasium.Env[Any, Any]):
    """Shows the time in a 2 x 3 box, and ends after five steps if nobody cuts it before."""

    def __init__(self, observed: Any = None) -> None:
        self.observation_space = observed or Box(0, 9, (2, 3), np.float32)
        self.action_space = Discrete(2, start=1)
        self._time = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._time = 0
        return np.zeros((2, 3), np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in self.action_space
        self._time += 1
        return np.full((2, 3), self._time, np.float32), 1.0, self._time == 5, False, {}


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> str:
    module = ModuleType("clocks")
    module.clock = Clock  # type: ignore[attr-defined]
    module.wide = lambda: Clock(Box(0, 1, (64, 65)))  # type: ignore[attr-defined]
    module.mixed = lambda: Clock(Dict({"a": Discrete(3)}))  # type: ignore[attr-defined]
    module.number = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "clocks", module)
    return "clocks"


def test_a_factory_of_a_module_is_an_environment_flattened_and_cut(clocks: str) -> None:
    found = spaces_of(f"{clocks}:clock")
    assert (found.states, found.features, found.actions, found.limit) == (None, 6, 2, None)

    environment = made(f"{clocks}:clock", 2, 3)
    assert environment.reset(np.random.default_rng(0)).shape == (2, 6)
    steps = [environment.step(np.array([0, 1])) for _ in range(3)]

    assert steps[-1][0].tolist() == [[3.0] * 6] * 2
    assert [bool(cut.all()) for _, _, _, cut in steps] == [False, False, True]


def test_the_id_of_a_module_is_registered_by_importing_it() -> None:
    found = spaces_of(OWN)

    assert (found.states, found.actions, found.limit) == (716, 25, 48)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Pendulum-v1", "Discrete actions"),
        ("NoSuchThing-v0", "Gymnasium id"),
        ("no_such_module_at_all:Thing-v0", "can be imported"),
        ("gymnasium:no_such_factory", "found neither"),
        ("clocks:number", "found neither"),
        ("clocks:wide", "4096 numbers"),
        ("clocks:mixed", "FlattenObservation"),
        (":", "Gymnasium id"),
        ("clocks:", "found neither"),
    ],
)
def test_what_no_policy_can_use_is_refused_with_its_name_and_a_cure(name: str, expected: str, clocks: str) -> None:
    with pytest.raises(StudyRefused, match="To mend it") as refused:
        spaces_of(name)

    assert expected in str(refused.value)
    assert repr(name) in str(refused.value)
    assert ".." not in str(refused.value)


@pytest.mark.parametrize("name", ["CartPole-v1", OWN])
def test_copies_that_share_a_vector_form_do_not_feel_each_other(name: str) -> None:
    """Only forms for which this holds may be used: others act otherwise, and end at other times."""
    paths = []
    for others in (0, 1):
        environment = made(name, 32, 40)
        seen = [environment.reset(np.random.default_rng(4))[3]]
        for t in range(40):
            actions = np.where(np.arange(32) == 3, t % 2, others)
            observations, _, ended, cut = environment.step(actions)
            seen.append(observations[3])
            if ended[3] or cut[3]:
                break
        paths.append(np.array(seen))

    assert len(paths[0]) > 3
    assert np.array_equal(*paths)


@pytest.mark.parametrize("raised", [SystemExit(0), RuntimeError("no screen")])
def test_whatever_a_factory_raises_is_a_refusal(monkeypatch: pytest.MonkeyPatch, raised: BaseException) -> None:
    def factory() -> None:
        raise raised

    module = ModuleType("quitters")
    module.factory = factory  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "quitters", module)

    with pytest.raises(StudyRefused, match="an environment that can be made"):
        spaces_of("quitters:factory")
