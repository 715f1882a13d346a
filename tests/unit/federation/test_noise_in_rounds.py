"""The noise of real rounds: each site's own share, and what h honest shares leave in the published sum.

Every window is empty, so what leaves a site is its noise alone. Rehearsals, so the draws are fixed; the chi-square has
20 cells of equal probability and fails below p = 1e-6, which correct noise does once in a million seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from secure_frl.federation import simulation
from secure_frl.federation.run_folder import RunOptions
from secure_frl.federation.simulated_patients import SimulatedPatients
from secure_frl.federation.site import StudySite
from secure_frl.masking.coordinator_states import MaskedSum
from secure_frl.privacy import optimizer
from secure_frl.study import Study

pytestmark = [pytest.mark.slow, pytest.mark.statistical]

CELLS = 20
FALSE_ALARM = 1e-6
SHARE = 1024  # S, the shipped deviation of one site's share


def _p_value(values: NDArray[np.int64], deviation: float) -> float:
    """Return the chi-square p-value of integers against a Gaussian of this deviation, continuity-corrected."""
    edges = np.round(norm.ppf(np.arange(1, CELLS) / CELLS) * deviation)
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=CELLS)
    upper = norm.cdf(np.r_[edges + 0.5, np.inf], scale=deviation)
    expected = np.diff(np.r_[0.0, upper]) * values.size
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), CELLS - 1))


def _noise_of_a_run(study: Study, folder: Path) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Return each site's own shares, and for each round the published sum without the last site's share."""
    shares: dict[tuple[int, int], NDArray[np.int64]] = {}
    sums: dict[int, NDArray[np.int64]] = {}
    collect, contribute, outcome = SimulatedPatients.collect, StudySite.contribute, MaskedSum.outcome

    def nobody(self: SimulatedPatients, probabilities: object, context: object) -> object:
        return collect(self, probabilities, context).select(np.zeros(0, dtype=np.int64))  # type: ignore[arg-type]

    def recorded(self: StudySite, context: object) -> object:
        vector = contribute(self, context)  # type: ignore[arg-type]
        half = 1 << (vector.modulus_bits - 1)
        centred = (vector.words.astype(np.int64) + half) % (1 << vector.modulus_bits) - half
        shares[context.round, int(self._parts.me)] = centred[2:-2]  # type: ignore[attr-defined]
        return vector

    def summed(self: MaskedSum) -> object:
        total = outcome(self)
        sums[self._view.context.round] = total.integers
        return total

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedPatients, "collect", nobody)
        patch.setattr(StudySite, "contribute", recorded)
        patch.setattr(MaskedSum, "outcome", summed)
        simulation.run(study, folder / "run", RunOptions(rehearse=True))
    # c = 1 of 3: the colluder knows its own share, so h = 2 shares protect the sum
    return list(shares.values()), [total - shares[number, 2] for number, total in sums.items()]


def test_each_sites_own_share_and_the_sum_of_h_shares_have_the_claimed_noise(
    tiny: Callable[..., Study], tmp_path: Path
) -> None:
    shares, sums = _noise_of_a_run(tiny(), tmp_path)

    assert len(shares) == 6
    assert min(_p_value(share, SHARE) for share in shares) > FALSE_ALARM
    assert _p_value(np.concatenate(sums), SHARE * np.sqrt(2)) > FALSE_ALARM


def test_the_same_test_fails_when_the_noise_is_halved(
    tiny: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = optimizer.discrete_gaussian
    monkeypatch.setattr(
        optimizer, "discrete_gaussian", lambda deviation, count, random: drawn(deviation // 2, count, random)
    )

    shares, sums = _noise_of_a_run(tiny(), tmp_path)

    assert max(_p_value(share, SHARE) for share in shares) < FALSE_ALARM
    assert _p_value(np.concatenate(sums), SHARE * np.sqrt(2)) < FALSE_ALARM


def test_local_noise_is_whole_at_every_site(tiny: Callable[..., Study], tmp_path: Path) -> None:
    shares, _ = _noise_of_a_run(tiny({"privacy.noise": "local"}), tmp_path)

    assert min(_p_value(share, 4096) for share in shares) > FALSE_ALARM
