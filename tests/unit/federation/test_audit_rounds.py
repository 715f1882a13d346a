"""An audited sum holds the canaries and h honest shares of noise: nothing of colluders, lost sites or anybody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from secure_frl.errors import UnexpectedState
from secure_frl.federation.audit_rounds import AuditFederation, AuditParts
from secure_frl.federation.carriers.in_process import DropSchedule
from secure_frl.privacy.audit_report import audited_release
from secure_frl.privacy.canaries import Canaries
from secure_frl.privacy.planning import planned_event, sum_constants
from secure_frl.study import Study

WITHOUT_NOISE = AuditParts(constants_at=lambda rank, constants: replace(constants, noise="unsafe-none"))


@pytest.fixture
def federation(tiny: Callable[..., Study]) -> Callable[..., tuple[AuditFederation, Canaries]]:
    """Return a function: overrides -> ten sites of which two are lost and one colludes, with their canaries."""

    def made(overrides: dict[str, object] | None = None) -> tuple[AuditFederation, Canaries]:
        study = tiny({"sites.count": 10, "sites.min_survivors": 8, **(overrides or {})})
        constants = sum_constants(study)
        canaries = Canaries(constants.blocks)
        release = audited_release(planned_event(study, constants))
        return AuditFederation(study, constants, canaries, release), canaries

    return made


def window(canaries: Canaries, numbers: list[int]) -> object:
    return canaries.window(np.array(numbers, dtype=np.int64), np.ones(len(numbers), dtype=np.float32))


@pytest.mark.parametrize("turn", [0, 1])
def test_without_the_honest_shares_only_canaries_are_left(
    federation: Callable[..., tuple[AuditFederation, Canaries]], turn: int
) -> None:
    audited, canaries = federation()
    windows = [window(canaries, [site, 100 + site]) for site in range(audited.shares)]

    values = audited.sum(turn, windows, WITHOUT_NOISE)

    expected = np.zeros(200)
    expected[[*range(7), *range(100, 107)]] = 1.0
    assert audited.shares == 7
    # each of 7 sites rounds with a dither of its own: seven steps of the grid at most, in each of two blocks
    assert np.abs(canaries.scores(turn, values, 200) - expected).max() < 14 / audited._constants.scale


@pytest.mark.statistical
def test_the_noise_of_an_audited_sum_is_that_of_h_shares(
    federation: Callable[..., tuple[AuditFederation, Canaries]],
) -> None:
    # 3,427 values know a deviation to 1.2 %: five of those are 6 %; eight shares would be 6.9 % more, six 7.4 % less
    audited, canaries = federation()

    values = audited.sum(0, [canaries.nobody()] * 7, AuditParts())

    assert values.std() * audited._constants.scale == pytest.approx(1024 * np.sqrt(7), rel=0.06)


@pytest.mark.statistical
def test_under_local_noise_one_sites_own_noise_is_left(
    federation: Callable[..., tuple[AuditFederation, Canaries]],
) -> None:
    audited, canaries = federation({"privacy.noise": "local"})

    values = audited.sum(0, [canaries.nobody()], AuditParts())

    assert audited.shares == 1
    assert values.std() * audited._constants.scale == pytest.approx(4096, rel=0.06)


def test_rounds_go_on_in_a_new_epoch_when_one_is_full(
    federation: Callable[..., tuple[AuditFederation, Canaries]],
) -> None:
    audited, canaries = federation({"protection.epoch_rounds": 2})

    for turn in range(3):
        values = audited.sum(turn, [window(canaries, [turn]), *[canaries.nobody()] * 6], WITHOUT_NOISE)
        assert canaries.scores(turn, values, 10)[turn] == pytest.approx(1.0, abs=0.02)


def test_a_sum_of_other_sites_than_expected_is_refused(
    federation: Callable[..., tuple[AuditFederation, Canaries]],
) -> None:
    audited, canaries = federation()
    audited._drops = DropSchedule(seed=2, sites=10, before_masked=2)  # what is expected; the carrier keeps its own

    with pytest.raises(UnexpectedState, match="in the sum"):
        audited.sum(0, [canaries.nobody()] * 7, AuditParts())
