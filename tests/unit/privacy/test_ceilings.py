"""Ceilings of attacks: against the design's table, and the best test itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import get_sigma_gaussian

from secure_frl.errors import InvalidParameter
from secure_frl.privacy.ceilings import auc_ceiling, tpr_ceiling, view_mu
from secure_frl.privacy.events import GaussianSumEvent
from secure_frl.privacy.planning import planned_event, sum_constants
from secure_frl.study import Study


@pytest.fixture
def event(tiny: Callable[..., Study]) -> Callable[..., GaussianSumEvent]:
    """Return a function: overrides -> a release of ten sites, h = 7, at epsilon 4 and delta 1e-6."""

    def made(overrides: dict[str, object] | None = None) -> GaussianSumEvent:
        sites = {"sites.count": 10, "sites.min_survivors": 8, "privacy.delta": 1e-6}
        study = tiny({**sites, **(overrides or {})})
        return planned_event(study, sum_constants(study))

    return made


@pytest.mark.parametrize(
    ("epsilon", "auc", "tpr", "swap_auc", "swap_tpr"),
    [(8, 0.881, 0.255, 0.991, 0.843), (4, 0.743, 0.081, 0.905, 0.317), (1, 0.575, 0.020, 0.648, 0.037)],
)
def test_ceilings_at_delta_1e5_are_those_of_the_design(
    epsilon: float, auc: float, tpr: float, swap_auc: float, swap_tpr: float
) -> None:
    # privacy.md, section 8
    mu = 1 / get_sigma_gaussian(epsilon, 1e-5)

    found = (auc_ceiling(mu), tpr_ceiling(mu, 0.01), auc_ceiling(2 * mu), tpr_ceiling(2 * mu, 0.01))

    assert found == pytest.approx((auc, tpr, swap_auc, swap_tpr), abs=6e-4)


def test_ceilings_of_the_shipped_noise_follow_from_its_effective_sigma(
    event: Callable[..., GaussianSumEvent],
) -> None:
    # privacy.md, section 8: epsilon 4, delta 1e-6
    mu, swap = view_mu(event(), 7), view_mu(event(), 7, is_swap=True)

    assert (auc_ceiling(mu), tpr_ceiling(mu, 0.01)) == pytest.approx((0.723, 0.068), abs=6e-4)
    assert (auc_ceiling(swap), tpr_ceiling(swap, 0.01)) == pytest.approx((0.882, 0.258), abs=2e-3)


def test_a_view_that_knows_fewer_shares_has_a_lower_ceiling_and_a_person_at_two_sites_a_higher_one(
    event: Callable[..., GaussianSumEvent],
) -> None:
    assert view_mu(event(), 10) == pytest.approx(view_mu(event(), 7) * np.sqrt(7 / 10), rel=1e-6)
    two = replace(event(), max_sites_per_person=2)
    assert view_mu(two, 7) == pytest.approx(2 * view_mu(event(), 7))


def test_a_replaced_member_counts_twice_once_whatever_the_events_relation(
    event: Callable[..., GaussianSumEvent],
) -> None:
    replaced = replace(event(), relation="replace_one")

    assert view_mu(replaced, 7, is_swap=True) == view_mu(event(), 7, is_swap=True) == 2 * view_mu(event(), 7)
    assert view_mu(replaced, 7) == view_mu(event(), 7)


@pytest.mark.statistical
def test_the_best_test_reaches_the_ceiling_and_does_not_pass_it() -> None:
    # 400,000 scores a side: five deviations of the AUC are 2.3e-3, of the TPR 2e-3
    generator, mu = np.random.default_rng(0), 0.8379
    out, inside = generator.standard_normal(400_000), generator.standard_normal(400_000) + mu

    ranks = np.searchsorted(np.sort(out), inside)
    assert ranks.mean() / out.size == pytest.approx(auc_ceiling(mu), abs=2.3e-3)
    assert (inside > np.quantile(out, 0.99)).mean() == pytest.approx(tpr_ceiling(mu, 0.01), abs=3e-3)


def test_sampling_and_figures_out_of_range_are_refused(event: Callable[..., GaussianSumEvent]) -> None:
    with pytest.raises(InvalidParameter, match="full batches"):
        view_mu(replace(event(), sampling_rate=0.5, sampler="poisson"), 7)
    with pytest.raises(InvalidParameter):
        auc_ceiling(-1.0)
    with pytest.raises(InvalidParameter):
        tpr_ceiling(1.0, 1.5)
