"""Degrees and thresholds against the design's whole table, and one rule counted by hand."""

from __future__ import annotations

import math

import pytest

from secure_frl.degrees import fraction_of, is_live, is_private, neighbours_and_threshold

SITES = (100, 200, 500, 1000, 2000, 5000, 10000)
# secure_aggregation.md, section 7: coordinator, corrupt, dropped, s; then k,t for each n
TABLE = """
semi 0.1 0.1 40 | 24,11 34,19 42,24 48,27 50,28 52,30 54,31
semi 0.1 0.1 20 | 22,11 28,14 32,17 36,18 38,20 40,21 42,22
semi 0.2 0.2 40 | 42,21 62,34 88,48 98,54 108,59 118,64 122,67
semi 0.2 0.2 20 | 38,20 52,27 68,35 76,39 84,43 90,46 94,48
semi 0.1 0.3 40 | 42,11 54,21 76,31 88,36 98,40 106,43 108,44
semi 0.3333333333333333 0.1 40 | 44,33 66,47 90,64 102,72 112,79 124,87 126,88
semi 0.33 0.3 40 | 80,34 116,63 192,105 250,136 292,159 336,183 356,193
malicious 0.1 0.1 40 | 32,22 56,39 84,59 100,70 110,77 116,81 122,85
malicious 0.2 0.2 40 | 62,42 118,80 224,153 306,209 378,258 446,304 486,331
malicious 0.3333333333333333 0.1 40 | 56,46 100,80 174,137 224,176 264,207 298,233 316,247
"""
ROWS = [line.split(" | ") for line in TABLE.strip().splitlines()]


@pytest.mark.parametrize(("row", "cells"), ROWS, ids=[row for row, _ in ROWS])
def test_degree_and_threshold_are_those_of_the_design(row: str, cells: str) -> None:
    coordinator, corrupt, dropped, exponent = row.split()

    found = [
        neighbours_and_threshold(
            n,
            fraction_of(n, float(corrupt)),
            fraction_of(n, float(dropped)),
            int(exponent),
            malicious=coordinator == "malicious",
        )
        for n in SITES
    ]

    assert found == [tuple(map(int, cell.split(","))) for cell in cells.split()]


def test_twenty_neighbours_are_too_few_for_a_thousand_sites_at_ten_percent() -> None:
    # secure_aggregation.md, section 7, last line: 36 are needed
    assert not any(is_private(1000, 100, 100, 20, t, 20) and is_live(1000, 100, 20, t) for t in range(1, 21))


def test_the_rules_hold_at_the_answer_and_break_beside_it() -> None:
    # n = 1,000, 10 % + 10 %, s = 40: k = 48, t = 27
    assert is_private(1000, 100, 100, 48, 27, 40)
    assert is_live(1000, 100, 48, 27)
    assert not is_private(1000, 100, 100, 48, 26, 40)
    assert not any(is_private(1000, 100, 100, 46, t, 40) and is_live(1000, 100, 46, t) for t in range(1, 47))


def test_liveness_is_the_hypergeometric_tail() -> None:
    # n = 101, k = 4, t = 4: some neighbour of some site is silent. P(Y > 0) = 1 - binom(99, 4) / binom(100, 4) at F = 1
    tail = 1 - math.comb(99, 4) / math.comb(100, 4)

    assert 101 * tail > 2**-20
    assert not is_live(101, 1, 4, 4)
    assert is_live(101, 1, 4, 3)  # more than one of four silent, when one is in all, cannot be


def test_too_many_corrupt_sites_have_no_graph() -> None:
    assert neighbours_and_threshold(101, 60, 30, 40) is None


def test_a_decimal_fraction_counts_as_people_mean_it() -> None:
    assert fraction_of(1000, 0.29) == 290  # 0.29 * 1000 is 289.99999999999994
    assert fraction_of(101, 0.1) == 10
