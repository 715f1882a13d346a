"""The circulant against the design's fixed point and against a graph walked edge by edge."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from secure_frl.masking.contexts import epoch_hash, session_id
from secure_frl.masking.graph import graph_of, graph_seed, permutation
from secure_frl.masking.keys import KeyPair


def circulant(make_constants, n, k, **changes):
    constants = replace(make_constants(10), profile="cross_device", sites=n, neighbours=k, **changes)
    return graph_of(constants, b"\x07" * 32, 1, 0, tuple(range(n))), constants


def edges_of(graph):
    return {frozenset((site, other)) for site in graph.circle for other in graph.neighbours(site)}


def pieces(sites, edges):
    """Count connected components by walking."""
    left, count = set(sites), 0
    while left:
        todo, count = [left.pop()], count + 1
        while todo:
            at = todo.pop()
            near = {other for other in left if frozenset((at, other)) in edges}
            left -= near
            todo += near
    return count


def test_seed_and_permutation_are_those_of_the_design():
    # secure_aggregation.md, section 9
    channel = [KeyPair.from_secret(bytes([0x11 + i]) * 32).public for i in range(3)]
    keys = [(i, channel[i], b"") for i in range(3)]
    epoch = epoch_hash(session_id(b"charter"), 1, keys, KeyPair.from_secret(b"\x1f" * 32).public)

    seed = graph_seed(epoch, 1, 0, tuple(range(8)))

    assert seed[:16].hex() == "55a3ad9e1d42c67ba42ff1c2584d380c"
    assert permutation(seed, 8) == [5, 1, 3, 7, 4, 0, 2, 6]


def test_every_site_has_k_neighbours_and_is_its_neighbours_neighbour(make_constants):
    graph, _ = circulant(make_constants, 101, 12)

    near = {site: graph.neighbours(site) for site in range(101)}

    assert {len(others) for others in near.values()} == {12}
    assert all(list(others) == sorted(set(others)) and site not in others for site, others in near.items())
    assert all(site in near[other] for site in near for other in near[site])
    place = {site: at for at, site in enumerate(graph.circle)}
    assert {min((place[a] - place[b]) % 101, (place[b] - place[a]) % 101) for a in near for b in near[a]} == set(
        range(1, 7)
    )


def test_another_epoch_round_attempt_or_cohort_is_another_graph(make_constants):
    graph, constants = circulant(make_constants, 101, 12)
    others = [
        graph_of(constants, b"\x08" * 32, 1, 0, tuple(range(101))),
        graph_of(constants, b"\x07" * 32, 2, 0, tuple(range(101))),
        graph_of(constants, b"\x07" * 32, 1, 1, tuple(range(101))),
        graph_of(constants, b"\x07" * 32, 1, 0, tuple(range(1, 102))),
    ]

    assert len(set(map(frozenset, map(edges_of, (graph, *others))))) == 5


def test_every_order_is_equally_likely():
    # 24 orders of 4, 12,000 seeds: chi-square with 23 degrees of freedom; 75.0 has the tail 2e-7
    counts = Counter(tuple(permutation(bytes([1]) * 28 + number.to_bytes(4, "big"), 4)) for number in range(12_000))

    assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 75.0
    assert len(counts) == 24


def test_a_word_beyond_the_last_whole_multiple_is_skipped(monkeypatch):
    # i = 2, 1: words at or beyond floor(2^32 / 3) * 3 = 4294967295 and floor(2^32 / 2) * 2 = 2^32
    words = [4_294_967_295, 4_294_967_294, 1]
    monkeypatch.setattr("secure_frl.masking.graph._words", lambda seed, about: iter([np.array(words, np.uint64)]))

    assert permutation(bytes(32), 3) == [0, 1, 2]  # j = 4294967294 mod 3 = 2, then j = 1: nothing moves


def test_cross_silo_stays_complete(make_constants):
    graph = graph_of(make_constants(5), b"\x07" * 32, 1, 0, (0, 1, 3, 4))

    assert graph.neighbours(3) == (0, 1, 4)
    assert graph.circle == (0, 1, 3, 4)


@pytest.mark.parametrize("seed", range(60))
def test_faults_are_those_of_a_graph_walked_edge_by_edge(make_constants, seed):
    generator = np.random.default_rng(seed)
    n, k = int(generator.integers(12, 30)), int(generator.choice([2, 4, 6]))
    t = int(generator.integers(1, k + 1))
    graph, constants = circulant(
        make_constants, n, k, threshold=t, min_survivors=3, max_colluders=1, honest_shares=2, noise="distributed"
    )
    members = [site for site in range(n) if generator.random() < 0.9]
    survivors = [site for site in members if generator.random() < 0.8]
    near = {site: set(graph.neighbours(site)) for site in range(n)}

    members_hold = all(len((near[site] | {site}) & set(members)) >= t for site in members)
    holders = {site: len((near[site] | ({site} & set(survivors))) & set(survivors)) for site in members}
    survivors_hold = (
        all(holders[site] >= t for site in survivors)
        and all(holders[site] >= t or holders[site] == 0 for site in set(members) - set(survivors))
        and pieces(survivors, edges_of(graph)) == 1
    )

    assert (graph.members_fault(members, constants) is None) == (len(members) >= 3 and members_hold)
    assert (graph.survivors_fault(survivors, members, constants) is None) == (len(survivors) >= 3 and survivors_hold)


def test_survivors_in_two_groups_are_refused(make_constants):
    graph, constants = circulant(make_constants, 20, 2, threshold=1, min_survivors=3, max_colluders=1, honest_shares=2)
    circle = graph.circle
    ring, arc = sorted(circle), sorted(circle[:5] + circle[6:])
    split = sorted(circle[:5] + circle[6:12])  # a gap of two at place 5, another from 12 to 19

    assert graph.survivors_fault(ring, ring, constants) is None
    assert graph.survivors_fault(arc, arc, constants) is None  # a circle that is cut once is one piece
    assert "two groups" in str(graph.survivors_fault(split, split, constants))


def test_honest_noise_shares_are_counted_though_the_charter_implies_them(make_constants):
    # no charter has h above min_survivors - c; were one to, the graph would still not let the survivors pass
    graph, constants = circulant(
        make_constants, 12, 10, threshold=2, min_survivors=3, max_colluders=1, honest_shares=8, noise="distributed"
    )
    everybody = list(range(12))

    assert graph.survivors_fault(everybody[:9], everybody, constants) is None
    assert "8 honest noise shares" in str(graph.survivors_fault(everybody[:8], everybody, constants))
    assert graph.survivors_fault(everybody[:8], everybody, replace(constants, noise="local")) is None
