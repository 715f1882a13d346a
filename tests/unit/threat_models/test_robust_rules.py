"""Robust rules against frozen outputs of ByzFL 0.0.11, whose version and hashes the file names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter
from threat_models import robust_rules

FROZEN = json.loads((Path(__file__).parent / "byzfl_0_0_11.json").read_text(encoding="ascii"))
CASES = FROZEN["cases"].values()

pytestmark = pytest.mark.threats


@pytest.mark.parametrize("case", CASES, ids=FROZEN["cases"])
def test_every_rule_says_what_the_published_implementation_says(case: dict[str, list[float]]) -> None:
    rows = np.array(case["rows"])
    found = {
        "mean": robust_rules.mean(rows),
        "median": robust_rules.median(rows),
        "trimmed_mean, f = 2": robust_rules.trimmed_mean(rows, 2),
        "geometric_median, nu = 1e-6, T = 500": robust_rules.geometric_median(rows),
        "multi_krum, f = 2": robust_rules.multi_krum(rows, 2),
        "centred_clipping, L = 3, tau = 1": robust_rules.centred_clipping(rows, 1.0, np.zeros(7), passes=3),
    }
    away = {name: float(np.abs(one - np.array(case[name])).max()) for name, one in found.items()}
    assert away.pop("geometric_median, nu = 1e-6, T = 500") <= 3e-4
    assert away.pop("multi_krum, f = 2") <= 3e-16  # a mean in another order
    assert away.pop("centred_clipping, L = 3, tau = 1") <= 1e-15
    assert set(away.values()) == {0.0}


def test_a_rule_refuses_rows_among_which_the_bad_ones_are_half() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(InvalidParameter, match="more than 4 rows where 2 may be anything, got 4"):
        robust_rules.trimmed_mean(rows, 2)
    with pytest.raises(InvalidParameter):
        robust_rules.multi_krum(rows, 2)


def test_two_far_rows_of_seven_move_the_mean_and_no_robust_rule() -> None:
    rows = np.random.default_rng(1).normal(size=(7, 5))
    rows[5:] = 1e6
    honest = rows[:5]
    last = honest.mean(axis=0)
    for name, rule in robust_rules.RULES.items():
        far = np.linalg.norm(rule(rows, 2, last) - last)
        assert (far > 1e5) == (name == "mean"), name
