"""What the invariants draw, and what a round must make of the losses among it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from small_federation import Federation

from secure_frl.errors import RoundAborted

STAGES = ("R0", "R1p", "R3a", "R3c")  # whose replies may be lost
SITE = st.integers(0, 4)


def examples(count: int) -> settings:
    """Settings without shrinking: an example is a federation, and a failing one would be run for minutes."""
    phases = (Phase.explicit, Phase.generate)
    return settings(max_examples=count, deadline=None, phases=phases, suppress_health_check=list(HealthCheck))


def flipped(frame: bytes, bit: int) -> bytes:
    return frame[: bit // 8] + bytes([frame[bit // 8] ^ 1 << bit % 8]) + frame[bit // 8 + 1 :]


def losses(places: int, least: int, most: int) -> st.SearchStrategy[dict[int, str]]:
    """Which of so many sites are lost, and at which stage: a lost one is asked no more."""
    return st.dictionaries(st.integers(0, places - 1), st.sampled_from(STAGES), min_size=least, max_size=most)


def check_losses(parties: Federation, machine: Any, among: Sequence[int], drawn: Mapping[int, str]) -> None:
    """Drive a round of all n sites without what is lost. drawn: of `losses`, by places in `among`.

    It must give the exact sum if min_survivors send inputs and t in the neighbourhood of each member answer to the end,
    in that of a lost one without itself; otherwise it must abort. Whatever the graph.
    """
    lost = {stage: {among[place] for place, at in drawn.items() if at == stage} for stage in STAGES}
    constants, sites = parties.constants, range(parties.n)
    t, near = constants.threshold, {site: {*machine._view.graph.neighbours(site)} for site in sites}
    members = set(sites) - lost["R0"]
    survivors = members - lost["R1p"]
    confirming = survivors - lost["R3a"]
    answering = {site for site in confirming - lost["R3c"] if len((near[site] | {site}) & confirming) >= t}
    can_rebuild = all(len((near[site] | {site}) & answering) >= t for site in survivors)
    can_rebuild &= all(len(near[site] & answering) >= t for site in members - survivors)
    must_complete = len(survivors) >= constants.min_survivors and can_rebuild

    try:
        total = parties.drive(machine, lost)
    except RoundAborted:
        assert not must_complete
    else:
        assert must_complete
        assert total.integers.tolist() == parties.plain_sum(survivors).tolist()
