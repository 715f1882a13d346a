"""The policy that a site of a blind coordinator keeps on its disk: which steps it takes, and which it gives up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from secure_frl.ckks.policies import keyed_tag, seal_policy
from secure_frl.errors import KeyRefused, LedgerCorrupt, ModelDoesNotFollow, ModelMissing
from secure_frl.federation.held_policy import SealedPolicy, policy_path, read_stored, secret_path
from secure_frl.federation.optimisers import OptimiserRule, initial_state
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training_state import TrainingState
from secure_frl.privacy.planning import sum_constants
from secure_frl.randomness import system_source
from secure_frl.secure_sum import SiteId
from secure_frl.study import Study

SECRET, SESSION = b"\x51" * 32, b"\x52" * 32
OTHER = b"\x53" * 32
Opened = Callable[[], SealedPolicy]


@pytest.fixture(scope="module")
def rule(tiny: Callable[..., Study]) -> OptimiserRule:
    study = tiny({"protection.method": "ckks"})
    return optimiser_rule(study, sum_constants(study))


@pytest.fixture
def opened(rule: OptimiserRule, tmp_path: Path) -> Opened:
    """Open the site's policy as its program does when it starts; twice for a restart."""

    def begin() -> SealedPolicy:
        log, source = logging.getLogger(str(tmp_path)), system_source()
        first = initial_state(rule)
        held = SealedPolicy(first, rule, log, me=SiteId(1), session=SESSION, home=tmp_path, random=source)
        if held.secret() is None:
            held.offer_secret(SECRET)
        return held

    return begin


def after(state: TrainingState, shift: float = 1.0) -> TrainingState:
    """A step as a sum would make it."""
    predecessor = sha256(state.to_bytes()).digest()
    return replace(state, round=state.round + 1, parameters=state.parameters + shift, predecessor=predecessor)


def tag_of(state: TrainingState, secret: bytes = SECRET, session: bytes = SESSION) -> bytes:
    return keyed_tag(secret, session, state.to_bytes())


def parcel_of(state: TrainingState, secret: bytes = SECRET, session: bytes = SESSION) -> bytes:
    tag, model = tag_of(state, secret, session), state.to_bytes()
    return seal_policy(
        secret, session, writer=SiteId(2), step=state.round, tag=tag, model=model, random=system_source()
    )


def make(held: SealedPolicy, following: TrainingState, figures: dict[str, float] | None = None) -> None:
    held.follow(following, figures or {})
    held.concluded("summed")


# --- steps of its own ------------------------------------------------------------------------------------------------


def test_a_step_is_there_after_a_restart_and_a_round_without_a_sum_leaves_none(opened: Opened) -> None:
    held = opened()
    one = after(held.state)
    make(held, one)
    held.follow(after(one), {})
    held.concluded("unknown")
    held.concluded("summed")  # of a round that this site was not in

    assert held.tag() == opened().tag() == tag_of(one)


def test_a_step_that_cannot_be_written_is_not_taken_and_leaves_the_one_before(opened: Opened, tmp_path: Path) -> None:
    held = opened()
    zero, one = held.state, after(held.state)
    make(held, one)
    path = policy_path(tmp_path, SESSION)
    path.rename(tmp_path / "aside")
    path.mkdir()  # takes no file

    with pytest.raises(IsADirectoryError):
        make(held, after(one))

    path.rmdir()
    (tmp_path / "aside").rename(path)
    assert held.tag() == opened().tag() == tag_of(one)
    for policy in (opened(), held):  # still provisional, as it was
        assert policy.announced(tag_of(zero), None) == tag_of(zero)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_provisional_step_is_given_up_for_the_one_before_and_for_no_other(restarts: bool, opened: Opened) -> None:
    held = opened()
    zero = held.state
    one = after(zero)
    two = after(one)
    make(held, one)
    held.announced(tag_of(one), None)
    make(held, two)
    held = opened() if restarts else held

    assert held.announced(tag_of(one), None) == tag_of(one)

    for policy in (held, opened()):
        assert policy.tag() == tag_of(one)
        for gone in (zero, two):  # back once, and not forward to what was given up
            with pytest.raises(ModelMissing):
                policy.announced(tag_of(gone), None)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_step_whose_tag_was_announced_is_not_given_up(restarts: bool, opened: Opened) -> None:
    held = opened()
    zero, one = held.state, after(held.state)
    make(held, one)
    held.announced(tag_of(one), None)
    held = opened() if restarts else held

    with pytest.raises(ModelMissing):
        held.announced(tag_of(zero), None)
    with pytest.raises(ModelDoesNotFollow):
        held.announced(tag_of(zero), parcel_of(zero))

    assert held.tag() == opened().tag() == tag_of(one)


# --- parcels ---------------------------------------------------------------------------------------------------------


def unfit(rule: OptimiserRule) -> dict[str, tuple[bytes, bytes]]:
    """Announced tag and parcel of what a site that holds step 2, announced, takes none of."""
    zero = initial_state(rule)
    one = after(zero)
    two = after(one)
    longer = np.append(two.parameters, 0.0)
    cases = {
        "an older step": one,
        "another policy of the same step": after(one, 2.0),
        "a next step that does not follow": replace(after(two), predecessor=OTHER),
        "another size": replace(after(two), parameters=longer, momentum=longer),
        "a critic out of range": replace(after(two), critic=two.critic + 2.0),
        "a clip that does not adapt here": replace(after(two), clip_norm=1.0),
    }
    missed = after(after(two))
    return {
        **{name: (tag_of(state), parcel_of(state)) for name, state in cases.items()},
        "another tag than announced": (tag_of(missed), parcel_of(after(missed))),
        "another charter": (tag_of(missed, session=OTHER), parcel_of(missed, session=OTHER)),
        "another secret": (tag_of(missed, OTHER), parcel_of(missed, OTHER)),
        "no parcel": (tag_of(missed), b"\x00" * 200),
        "an empty one": (tag_of(missed), b""),
    }


def test_what_does_not_fit_changes_nothing(opened: Opened, rule: OptimiserRule, tmp_path: Path) -> None:
    held = opened()
    one = after(held.state)
    two = after(one)
    for step in (one, two):
        make(held, step)
        held.announced(tag_of(step), None)
    before = policy_path(tmp_path, SESSION).read_bytes()

    for tag, parcel in unfit(rule).values():
        with pytest.raises(ModelDoesNotFollow):
            held.announced(tag, parcel)
        assert held.tag() == tag_of(two)

    assert policy_path(tmp_path, SESSION).read_bytes() == before
    three = after(two)
    assert held.announced(tag_of(three), parcel_of(three)) == tag_of(three)  # control: what follows is taken


def test_missed_steps_are_taken_kept_and_final(opened: Opened) -> None:
    held = opened()
    zero, one = held.state, after(held.state)
    make(held, one)
    three = after(after(one))

    assert held.announced(tag_of(three), parcel_of(three)) == tag_of(three)

    for policy in (held, opened()):
        assert policy.tag() == tag_of(three)
        for older in (zero, one):
            with pytest.raises(ModelMissing):
                policy.announced(tag_of(older), None)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("further", [0, 1])
def test_a_study_that_went_on_without_a_provisional_step_takes_its_site_along(
    further: int, restarts: bool, opened: Opened
) -> None:
    """The site made a step that too few made, and was away when the study went back: R0 never named the one before."""
    held = opened()
    one = after(held.state)
    make(held, one)
    held.announced(tag_of(one), None)
    make(held, after(one, 7.0))
    held = opened() if restarts else held
    news = after(one, 2.0)
    for _ in range(further):
        news = after(news)

    assert held.announced(tag_of(news), parcel_of(news)) == tag_of(news)

    with pytest.raises(ModelMissing):
        opened().announced(tag_of(one), None)
    assert opened().tag() == tag_of(news)


def test_a_provisional_step_gives_way_to_nothing_that_follows_from_elsewhere(opened: Opened) -> None:
    held = opened()
    one = after(held.state)
    two = after(one)
    make(held, one)
    held.announced(tag_of(one), None)
    make(held, two)
    for step in (1, 2):
        stranger = replace(two, round=step, predecessor=OTHER)
        with pytest.raises(ModelDoesNotFollow):
            held.announced(tag_of(stranger), parcel_of(stranger))

    assert held.tag() == tag_of(two)
    assert held.announced(tag_of(one), None) == tag_of(one)  # still provisional


def test_a_parcel_opens_at_another_site_and_only_for_the_tag_held(opened: Opened) -> None:
    held = opened()
    one = after(held.state)
    with pytest.raises(ModelMissing):
        held.sealed(tag_of(one))
    make(held, one)

    parcel = held.sealed(tag_of(one))

    assert one.parameters.tobytes()[:64] not in parcel
    policy_path(held._path.parent, SESSION).unlink()  # another site, which was away
    assert opened().announced(tag_of(one), parcel) == tag_of(one)


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_are_for_the_sites_eyes_only_and_named_by_charter(opened: Opened, tmp_path: Path) -> None:
    held = opened()
    make(held, after(held.state))
    held.announced(tag_of(held.state), None)
    make(held, after(held.state))

    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}

    short = SESSION.hex()[:16]
    assert modes == {f"site-secret-{short}.key": 0o600, f"policy-{short}.held": 0o600}


def test_a_secret_is_kept_and_another_refused(opened: Opened, tmp_path: Path) -> None:
    held = opened()
    held.offer_secret(OTHER)
    held.offer_secret(SECRET)  # no round was announced under the one before
    assert held.secret() is None
    held.announced(tag_of(held.state), None)
    again = opened()
    assert again.secret() == SECRET
    with pytest.raises(KeyRefused):
        again.offer_secret(OTHER)
    assert opened().secret() == SECRET
    secret_path(tmp_path, SESSION).write_bytes(SECRET[:-1])
    with pytest.raises(LedgerCorrupt, match=secret_path(tmp_path, SESSION).name):
        opened()


def damaged(content: bytes) -> dict[str, bytes]:
    changed = bytearray(content)
    changed[-20] ^= 1
    early = bytearray(content)
    early[content.index(b"\n") + 2000] ^= 1
    return {
        "empty": b"",
        "cut": content[:-1],
        "longer": content + b"\x00",
        "a bit of the policy before": bytes(changed),
        "a bit of the policy": bytes(early),
        "no header": content[content.index(b"\n") + 1 :],
        "not of this kind": b"\xff" * 500,
        "another format": content.replace(b"/held-policy/v1", b"/held-policy/v9"),
        "another charter": content.replace(SESSION.hex().encode(), OTHER.hex().encode()),
    }


def test_a_damaged_file_is_refused_by_name(opened: Opened, tmp_path: Path) -> None:
    held = opened()
    make(held, after(held.state))
    path = policy_path(tmp_path, SESSION)
    content = path.read_bytes()

    for other in damaged(content).values():
        path.write_bytes(other)
        with pytest.raises(LedgerCorrupt, match=path.name):
            opened()

    path.write_bytes(content)
    assert opened().tag() == held.tag()


def test_figures_stand_beside_the_policy_that_they_came_with_and_no_other(opened: Opened, tmp_path: Path) -> None:
    held = opened()
    one = after(held.state)
    two = after(one)
    figures: list[dict[str, float]] = []

    def note() -> None:
        figures.append(dict(read_stored(policy_path(tmp_path, SESSION), SESSION).figures))

    make(held, one, {"clip_norm": 1.0})
    held.follow(two, {"clip_norm": 9.0})
    held.concluded("unknown")  # nothing came of it
    held.announced(tag_of(one), None)
    note()
    make(held, two, {"clip_norm": 2.0})
    note()
    held.announced(tag_of(one), None)  # back
    note()
    make(held, two, {"clip_norm": 3.0})
    missed = after(after(two))
    held.announced(tag_of(missed), parcel_of(missed))
    note()

    assert figures == [{"clip_norm": 1.0}, {"clip_norm": 2.0}, {}, {}]
