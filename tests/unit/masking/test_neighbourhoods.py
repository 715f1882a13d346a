"""The coordinator's tables against lists of neighbours walked one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from secure_frl.masking.graph import Graph, graph_of
from secure_frl.masking.neighbourhoods import Neighbourhoods, PairTable
from secure_frl.secure_sum import SiteId

COHORT = tuple(SiteId(3 * site + 5) for site in range(31))


@pytest.fixture(params=[4, 30])
def graph(request: pytest.FixtureRequest, make_constants: Callable[..., Any]) -> Graph:
    """A circulant of 31 sites whose ids have gaps, and the complete graph of the same ones."""
    profile = "cross_device" if request.param == 4 else "cross_silo"
    constants = replace(make_constants(10), profile=profile, sites=31, neighbours=request.param)
    return graph_of(constants, b"\x07" * 32, 1, 0, COHORT)


def test_every_row_is_the_sites_neighbourhood_and_every_column_leads_back(graph: Graph) -> None:
    near = Neighbourhoods.of(graph)

    for site in COHORT:
        assert tuple(near.row(site).tolist()) == graph.neighbours(site)
    for place, site in enumerate(graph.circle):
        for other, column in zip(near.places[place].tolist(), near.columns[place].tolist(), strict=True):
            assert near.sites[other, column] == site


def test_records_come_to_whom_they_are_for_by_their_makers_ids(graph: Graph) -> None:
    near, generator = Neighbourhoods.of(graph), np.random.default_rng(2)
    table, expected = PairTable(near, 2), dict[SiteId, dict[SiteId, bytes]]()
    for maker in generator.permutation(COHORT).tolist():
        others = near.row(maker)
        chosen = generator.random(len(others)) < 0.6
        records = generator.integers(0, 256, (int(chosen.sum()), 2)).astype(np.uint8)
        table.put(maker, records, chosen)
        for other, record in zip(others[chosen].tolist(), records, strict=True):
            expected.setdefault(other, {})[maker] = record.tobytes()

    for site in COHORT:
        found = expected.get(site, {})
        assert table.makers(site).tolist() == sorted(found)
        assert table.of(site) == b"".join(found[maker] for maker in sorted(found))


def test_a_copy_shares_nothing_with_its_table(graph: Graph) -> None:
    near = Neighbourhoods.of(graph)
    table = PairTable(near, 1)
    copied = table.copy()

    table.put(COHORT[0], np.ones((near.sites.shape[1], 1), np.uint8))

    assert table.of(graph.neighbours(COHORT[0])[0]) == b"\x01"
    assert all(copied.of(site) == b"" for site in COHORT)


def test_marked_places_are_found_among_a_sites_neighbours(graph: Graph) -> None:
    near, some = Neighbourhoods.of(graph), COHORT[::3]

    among = near.among(COHORT[1], near.mark(some))

    assert near.row(COHORT[1])[among].tolist() == [other for other in graph.neighbours(COHORT[1]) if other in some]
