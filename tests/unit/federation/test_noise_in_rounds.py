"""The noise of real rounds: each site's own share, and what the honest shares leave in the published sum.

That sum is as private as claimed whoever is lost and whoever pools what they know, up to the charter's numbers; with
one site fewer there is none. Every window is empty, so what leaves a site is its noise alone. Rehearsals, so the
draws are fixed; the chi-square has 20 cells of equal probability and fails below p = 1e-6, which correct noise does
once in a million seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from secure_frl.errors import StudyStopped
from secure_frl.federation import simulation
from secure_frl.federation.run_folder import RunOptions
from secure_frl.federation.simulated_patients import SimulatedPatients
from secure_frl.federation.site import StudySite
from secure_frl.masking.coordinator_states import MaskedSum
from secure_frl.privacy import accountant, optimizer
from secure_frl.privacy.charging import WhatIf
from secure_frl.privacy.planning import make_plan, planned_event
from secure_frl.study import Study
from secure_frl.wire.capture import read_capture
from secure_frl.wire.envelope import read_header
from secure_frl.wire.messages import MessageType

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


@dataclass
class Noise:
    """What a run of empty windows gave: each site's own share, and each round's published sum with who is in it."""

    shares: dict[tuple[int, int], NDArray[np.int64]] = field(default_factory=dict)  # by round and site
    sums: dict[int, tuple[tuple[int, ...], NDArray[np.int64]]] = field(default_factory=dict)

    def unknown_to(self, colluders: int) -> NDArray[np.int64]:
        """Return the sums of all rounds without the shares of so many contributors."""
        return np.concatenate(
            [
                total - sum(self.shares[number, site] for site in contributors[-colluders:] if colluders)
                for number, (contributors, total) in self.sums.items()
            ]
        )


@contextmanager
def _empty_windows() -> Iterator[Noise]:
    noise = Noise()
    collect, contribute, outcome = SimulatedPatients.collect, StudySite.contribute, MaskedSum.outcome

    def nobody(self: SimulatedPatients, probabilities: object, context: object) -> object:
        return collect(self, probabilities, context).select(np.zeros(0, dtype=np.int64))  # type: ignore[arg-type]

    def recorded(self: StudySite, context: object) -> object:
        vector = contribute(self, context)  # type: ignore[arg-type]
        half = 1 << (vector.modulus_bits - 1)
        centred = (vector.words.astype(np.int64) + half) % (1 << vector.modulus_bits) - half
        noise.shares[context.round, int(self._parts.me)] = centred[2:-2]  # type: ignore[attr-defined]
        return vector

    def summed(self: MaskedSum) -> object:
        total = outcome(self)
        noise.sums[self._view.context.round] = tuple(map(int, total.contributors)), total.integers
        return total

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedPatients, "collect", nobody)
        patch.setattr(StudySite, "contribute", recorded)
        patch.setattr(MaskedSum, "outcome", summed)
        yield noise


def _noise_of_a_run(study: Study, folder: Path) -> Noise:
    with _empty_windows() as noise:
        simulation.run(study, folder / "run", RunOptions(rehearse=True))
    return noise


def test_each_sites_own_share_and_the_sum_of_h_shares_have_the_claimed_noise(
    tiny: Callable[..., Study], tmp_path: Path
) -> None:
    noise = _noise_of_a_run(tiny(), tmp_path)

    assert len(noise.shares) == 6
    assert min(_p_value(share, SHARE) for share in noise.shares.values()) > FALSE_ALARM
    # c = 1 of 3: the colluder knows its own share, so h = 2 shares protect the sum
    assert _p_value(noise.unknown_to(1), SHARE * np.sqrt(2)) > FALSE_ALARM


def test_the_same_test_fails_when_the_noise_is_halved(
    tiny: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = optimizer.discrete_gaussian
    monkeypatch.setattr(
        optimizer, "discrete_gaussian", lambda deviation, count, random: drawn(deviation // 2, count, random)
    )

    noise = _noise_of_a_run(tiny(), tmp_path)

    assert max(_p_value(share, SHARE) for share in noise.shares.values()) < FALSE_ALARM
    assert _p_value(noise.unknown_to(1), SHARE * np.sqrt(2)) < FALSE_ALARM


def test_local_noise_is_whole_at_every_site(tiny: Callable[..., Study], tmp_path: Path) -> None:
    noise = _noise_of_a_run(tiny({"privacy.noise": "local"}), tmp_path)

    assert min(_p_value(share, 4096) for share in noise.shares.values()) > FALSE_ALARM


def _of_seven(tiny: Callable[..., Study], before_masked: int, after_masked: int) -> Study:
    """Return a study of seven sites, five survivors or more, two colluders: h = 3, t = 5."""
    return tiny(
        {
            "sites.count": 7,
            "sites.min_survivors": 5,
            "sites.max_colluders": 2,
            "sites.simulate_drop": {"before_masked": before_masked, "after_masked": after_masked},
            "training.rounds": 1,
        }
    )


@pytest.mark.parametrize(("before_masked", "after_masked"), [(0, 0), (1, 1), (2, 0)])
def test_losses_and_colluders_up_to_the_charters_numbers_leave_the_claimed_noise(
    tiny: Callable[..., Study], tmp_path: Path, before_masked: int, after_masked: int
) -> None:
    study = _of_seven(tiny, before_masked, after_masked)
    claim = make_plan(study).epsilon
    event = planned_event(study, make_plan(study).constants)
    assert claim is not None

    noise = _noise_of_a_run(study, tmp_path)

    ((contributors, _),) = noise.sums.values()
    assert len(contributors) == 7 - before_masked  # who is lost after the masked input is still in the sum
    for colluders in range(3):
        honest = len(contributors) - colluders
        assert _p_value(noise.unknown_to(colluders), SHARE * np.sqrt(honest)) > FALSE_ALARM
        assert accountant.epsilon([event], event.delta, WhatIf(shares=honest)) <= claim
    # The control: a third colluder, or a third loss that was allowed, would break the claim.
    assert accountant.epsilon([event], event.delta, WhatIf(shares=2)) > claim


@pytest.mark.parametrize(("before_masked", "after_masked"), [(3, 0), (0, 3)])
def test_with_one_site_fewer_no_mask_is_opened(
    tiny: Callable[..., Study], tmp_path: Path, before_masked: int, after_masked: int
) -> None:
    study = _of_seven(tiny, before_masked, after_masked)
    capture = tmp_path / "capture"

    with _empty_windows() as noise, pytest.raises(StudyStopped):
        simulation.run(study, tmp_path / "run", RunOptions(rehearse=True, capture=capture))

    sent = {read_header(frame.frame).type for frame in read_capture(capture) if frame.direction == "to_coordinator"}
    assert noise.sums == {}
    assert MessageType.R2 in sent  # masked inputs went out
    assert MessageType.R4 not in sent  # and nothing that removes a mask
