"""A policy that comes with R0: taken for steps that the site missed and under its tag, else nothing of it stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from secure_frl.errors import ModelDoesNotFollow, ModelMissing
from secure_frl.federation import run_folder
from secure_frl.federation.enrolment import enrol, open_site
from secure_frl.federation.run_folder import RunOptions
from secure_frl.masking.contexts import model_tag
from secure_frl.secure_sum import SiteId
from secure_frl.study import Study

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tiny: Callable[..., Study], tmp_path: Path) -> Iterator[Any]:
    folder = run_folder.begin(tmp_path / "run", tiny(), RunOptions(), None)
    opened = open_site(folder, enrol(folder, tiny(), rehearse=False), SiteId(0))
    yield opened
    opened.shut_down()


def test_a_policy_under_another_tag_than_announced_is_not_kept(site: Any) -> None:
    held = site._held.state
    ahead = replace(held, round=10**6).to_bytes()

    tag = site.policy_tag(b"\x09" * 32, ahead)

    assert tag == model_tag(ahead) != b"\x09" * 32  # so that the protocol refuses the round
    assert site._held.state is held


@pytest.mark.parametrize("clip", [1e-200, 0.4])
def test_a_clip_from_elsewhere_is_refused(site: Any, clip: float) -> None:
    held = site._held.state
    ahead = replace(held, round=held.round + 1, clip_norm=clip).to_bytes()

    with pytest.raises(ModelDoesNotFollow, match="a clip that its steps can reach"):
        site.policy_tag(model_tag(ahead), ahead)

    assert site._held.state is held


def test_a_policy_of_missed_steps_is_taken_and_one_in_place_of_the_own_is_not(site: Any) -> None:
    held = site._held.state
    other = replace(held, parameters=held.parameters + 1.0).to_bytes()
    with pytest.raises(ModelDoesNotFollow):
        site.policy_tag(model_tag(other), other)
    with pytest.raises(ModelMissing):
        site.policy_tag(model_tag(other), None)
    assert site._held.state is held

    later = replace(held, round=held.round + 3).to_bytes()
    assert site.policy_tag(model_tag(later), later) == model_tag(later)

    assert site._held.state.to_bytes() == later


def test_the_policy_of_one_missed_step_follows_the_one_held(site: Any) -> None:
    held = site._held.state
    stranger = replace(held, round=held.round + 1, predecessor=b"\x01" * 32).to_bytes()
    with pytest.raises(ModelDoesNotFollow, match="that follows the one of step"):
        site.policy_tag(model_tag(stranger), stranger)
    assert site._held.state is held

    following = replace(held, round=held.round + 1, predecessor=sha256(held.to_bytes()).digest()).to_bytes()
    assert site.policy_tag(model_tag(following), following) == model_tag(following)
