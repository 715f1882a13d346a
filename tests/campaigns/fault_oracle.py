"""What must hold of a schedule, whatever its faults: the oracle's demands, and its foretelling of every stage.

It keeps its own books and never asks a machine what should be. The rules of a stage are written from section 5 over
any graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from fault_tally import Tally, Violation
from fault_world import STAGES, World

from secure_frl.encoding.lanes import attach
from secure_frl.errors import UnexpectedState
from secure_frl.masking.site_memory import SetConfirmed
from secure_frl.wire.envelope import read_header, unseal_frame
from secure_frl.wire.messages import MessageType, ReturnedShares, decode_body
from secure_frl.wire.records import Share, unpack_records

T = MessageType


class Oracle:
    """The books of one schedule, with what they must never contain."""

    def __init__(self, tally: Tally, world: World) -> None:
        self.tally, self.world = tally, world
        self.n, self.charter = len(world.sites), world.charter
        self.has_insider = False  # somebody with valid keys has lied in this round
        self.is_epoch_false = False  # or in the opening of the epoch in force
        self.sent: dict[int, np.ndarray] = {}  # what each site's accepted input differs by from its own
        self.kinds: dict[tuple[int, int, int], str] = {}  # (round, holder, owner) -> kind of share given
        self.answers: dict[tuple[int, int, str], bytes] = {}  # (round, site, R3b or R4) -> the one answer
        self.unmasked: dict[int, tuple[bytes, tuple[int, ...]]] = {}

    def foretell(self, must_complete: bool, abort: str) -> None:
        if self.has_insider:
            return
        self.tally.foretold += 1
        if must_complete == bool(abort):
            raise Violation(
                f"a stage that {'must go on' if must_complete else 'must end'}, but {abort or 'it went on'}"
            )

    def check_answer(self, site: int, before: Any, reply: bytes, kind: MessageType) -> None:
        number = read_header(reply).round
        if self.answers.setdefault((number, site, kind.name), reply) != reply:
            raise Violation(f"site {site} gave two {kind.name} in round {number}")
        if kind is T.R3B or not isinstance(before, SetConfirmed):  # a repeated answer comes out of memory
            return
        context = before.attempt.context
        if self.unmasked.setdefault(context.round, (before.ctx2, before.survivors)) != (before.ctx2, before.survivors):
            raise Violation(f"sites unmasked two sets in round {context.round}")
        shares = decode_body(ReturnedShares, unseal_frame(reply, before.attempt.link(T.R4, before.ctx2)))
        for name, given in (("seed", shares.of_seeds), ("key", shares.of_keys)):
            for share in unpack_records(Share, given):
                if name == "key" and share.site == site:
                    raise Violation(f"site {site} gave a share of its own key")
                if self.kinds.setdefault((context.round, site, share.site), name) != name:
                    raise Violation(f"site {site} gave both shares of site {share.site}")

    def check_sum(self, machine: Any, sent: set[int]) -> None:
        constants, survivors = self.charter.constants, machine.survivors
        if not self.has_insider and set(survivors) != sent:
            raise Violation(f"a sum over {survivors}, not {sent}")
        total = np.zeros(constants.length + 4, np.int64)
        for site in survivors:
            total += attach(self.world.hosts[site].values.astype(np.int64), constants.weight)
            total += self.sent.get(site, 0)
        half, size = 1 << (constants.modulus_bits - 1), 1 << constants.modulus_bits
        expected = (total + half) % size - half
        if expected[[0, 1, -2, -1]].tolist() != [len(survivors), 0, len(survivors), 0]:
            raise Violation("a sum whose lanes cannot hold")
        if machine.outcome().integers.tolist() != expected[2:-2].tolist():
            raise Violation("a wrong sum")
        self.tally.sums += 1

    def check_registers(self) -> None:
        for register in self.world.registers:
            rows = [(number, attempt, STAGES.index(stage)) for number, attempt, stage in register.rows]
            if rows != sorted(set(rows)):
                raise Violation("a register that does not grow")

    def probe(self, machine: Any) -> None:
        """Ask at the wrong time: there is no sum before its end, and no second publication."""
        asks = [machine.outcome]
        if hasattr(machine, "publish"):
            asks += [lambda: machine.publish(bytes(32)), lambda: machine.transcript_hash]
            if machine.followers or machine.next_cohort is not None:
                raise Violation("followers of no sum, or an attempt beside one in progress")
        for ask in asks:
            try:
                ask()
            except UnexpectedState:
                continue
            raise Violation("an answer before there is a sum")

    def probe_opened(self, opening: Any) -> None:
        """Ask an epoch's opening after its end."""
        try:
            opening.close_stage()
        except UnexpectedState:
            if list(opening.requests()):
                raise Violation("requests after an epoch is open") from None
            return
        raise Violation("a stage after an epoch is open")

    def probe_end(self, machine: Any) -> None:
        """Ask after the end: nothing is left to close or to publish, and the survivors are known."""
        for ask in (machine.close_stage, lambda: machine.publish(bytes(32))):
            try:
                ask()
            except UnexpectedState:
                continue
            raise Violation("a stage after the last one")
        if list(machine.requests()) or set(machine.survivors) - set(range(self.n)) or machine.next_cohort is not None:
            raise Violation("requests after the end")


def can_go_on(
    stage: str, counted: set[int], members: set[int], survivors: set[int], beside: dict[int, set[int]], constants: Any
) -> bool:
    """Whether a stage that these sites have answered goes on: section 5, over any graph.

    members: U2; survivors: U3, from R3a on. beside: N(i).
    """
    t = constants.threshold
    if stage == "R0":
        is_held = all(1 + len(beside[site] & counted) >= t for site in counted)
        return len(counted) >= constants.min_survivors and is_held
    if stage == "R1P":
        lost = [len(beside[site] & counted) for site in members - counted]
        is_held = all(1 + len(beside[site] & counted) >= t for site in counted)
        enough = len(counted) >= constants.min_survivors and all(holders == 0 or holders >= t for holders in lost)
        return enough and is_held and is_connected(counted, beside)
    if stage == "R3A":
        return len(counted) >= t
    answering = {site for site in counted if 1 + len(beside[site] & counted) >= t}
    return all(len((beside[site] | {site}) & answering) >= t for site in survivors) and all(
        len(beside[site] & answering) >= t for site in members - survivors if beside[site] & survivors
    )


def is_connected(sites: set[int], beside: dict[int, set[int]]) -> bool:
    """Whether these sites reach each other through each other."""
    reached, waiting = set(), {min(sites)}
    while waiting:
        reached |= waiting
        waiting = {other for site in waiting for other in beside[site] & sites} - reached
    return reached == sites
