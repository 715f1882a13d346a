"""The faults that a schedule plans, and the way of every frame through them.

A frame is bent by the carrier, or by the coordinator or a peer with valid keys; sites restart, hosts fail, the clock
runs out. In which order the stages of a round follow, and what is demanded of them: fault_runner.py.
"""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from fault_bending import ANSWER_TO, CELLS, Bent, Fault, bent_by_carrier, bent_plaintext, library
from fault_insider import Opened, opened, word_type
from fault_lies import coordinator_lie, peer_lie
from fault_oracle import Oracle
from fault_tally import Tally, Violation
from fault_world import ENROLMENT_S, FEW_DEVICES, NOW, World, charter_of
from seal_watch import SealWatch

from secure_frl import errors
from secure_frl.errors import BudgetExhausted, DataRefused, PeerError, RoundAborted
from secure_frl.masking.coordinator_epoch import EpochOpening
from secure_frl.masking.refusals import CODES
from secure_frl.wire.messages import MessageType

T = MessageType
Shape = tuple[int, int, int, int]
_SHAPES: tuple[Shape, ...] = (  # (n, index into thresholds(n), w, length): few, for each is set up once a process
    *((3, 0, bits, length) for bits, length in ((16, 2), (24, 1), (32, 5))),
    *((4, index, bits, length) for index, bits, length in ((0, 24, 2), (0, 16, 4), (1, 32, 1), (0, 40, 3), (0, 32, 2))),
    *((5, index, bits, length) for index, bits, length in ((0, 24, 2), (1, 32, 3), (3, 16, 1), (0, 16, 4))),
    (6, 0, 24, 3),
    (7, 4, 32, 2),
    (10, 2, 24, 1),
    (11, FEW_DEVICES, 24, 2),
)
_SHAPE_WEIGHTS = (3, 3, 3, *(5,) * 5, *(2.5,) * 4, 0.8, 0.4, 0.3, 3)
_STAGE_WEIGHTS = {"R5": 2.0, "R5_REPLY": 2.2, "R3C": 1.5, "R4": 1.5, "R3A": 1.2, "R3B": 1.3, "E2": 0, "E2_REPLY": 0}
_CELL_WEIGHTS = [_STAGE_WEIGHTS.get(stage, 1.0) for _, stage, _ in CELLS]
_OF_DEVICES = [cell for cell in CELLS if cell[1] in ("E2", "E2_REPLY")]  # stages of cross_device only
_AT_BOUNDARIES = frozenset({"restart", "failing", "exhausted", "expired"})
_FAULT_COUNTS = (0, 1, 1, 1, 2, 2, 2, 3, 4, 6)
_DEVICE_FAULT_COUNTS = (0, 1, 2, 4, 8, 12)  # in E2 of a schedule of eleven, beside the others
_ASKED_BY = {up: down for down, up in ANSWER_TO.items()}


class Deliveries(Oracle):
    """One schedule's plan of faults, from its seed, and what becomes of each frame, request and answer."""

    def __init__(self, seed: int, tally: Tally, watch: SealWatch, shape: Shape | None = None) -> None:
        r = self.r = Random(seed)
        shape = shape or r.choices(_SHAPES, _SHAPE_WEIGHTS)[0]
        super().__init__(tally, World(charter_of(*shape), seed))
        self.seed, self.watch, self.library = seed, watch, library(*shape)
        self.corrupt = r.sample(range(self.n), r.randint(1, self.charter.constants.max_colluders))
        self.rounds = r.choice((1, 1, 1, 1, 2, 3))
        self.plan: dict[tuple[int, str], list[Fault]] = {}
        self.turnovers: set[int] = set()
        for _ in range(r.choice(_FAULT_COUNTS)):
            self._add(*r.choices(CELLS, _CELL_WEIGHTS)[0])
        if "E2" in self.charter.opening_stages:
            for _ in range(r.choice(_DEVICE_FAULT_COUNTS) if shape[1] == FEW_DEVICES else r.random() < 0.2):
                self._add(*r.choice(_OF_DEVICES))
        watch.sealed.clear()
        self.in_epoch = set(range(self.n))  # sites whose process has joined the epoch in force
        self.past: dict[tuple[str, int], list[bytes]] = {}
        for place, frame in enumerate(self.world.frames):
            self.past.setdefault(("up" if place % 2 else "down", place // 2 % self.n), []).append(frame)
        self.late: list[tuple[str, str, int, bytes]] = []
        self.model, self.holders = self.world.hosts[0].model, set(range(self.n))
        self.epoch_number, self.expiry_s = 1, NOW + 3600
        self.failing: set[int] = set()  # sites whose host fails in this round

    def _add(self, kind: str, stage: str, role: str) -> None:
        first = 1
        if (kind, role) == ("replay", "carrier") and stage.startswith("R"):  # there is nothing older in round 1
            first, self.rounds = 2, max(2, self.rounds)
        number = self.r.randint(first, self.rounds)
        site = self.r.choice(self.corrupt) if role == "peer" else self.r.randrange(self.n)
        self.plan.setdefault((number, stage), []).append(Fault(kind, stage, role, site))
        if stage.startswith("E"):
            self.turnovers.add(number)
        if role == "roster":
            self.world.end_enrolment(site)

    # --- one stage

    def stage(self, machine: Any, number: int, stage: str, able: set[int]) -> set[int]:
        """Deliver one stage with its faults. Returns the sites of `able` whose answer must have been counted."""
        down, up = self.plan.pop((number, stage), []), self.plan.pop((number, ANSWER_TO[stage]), [])
        whole_down: set[int] = set()
        whole_up: set[int] = set()
        late, self.late = self.late, []
        after = [entry for entry in late if self.r.random() < 0.5]
        self.deliver_late(machine, [entry for entry in late if entry not in after])
        with self.watch.listening():
            requests = list(machine.requests())
        if self.shuffled(down):
            self.r.shuffle(requests)
        replies: list[tuple[int, bytes, bool]] = []
        for site, request in requests:
            bent = self.bend(machine, "down", site, request, down)
            for frame in bent.now:
                reply = self.handle(site, frame, number)
                replies.append((site, reply, frame == request))
            if bent.is_intact:
                whole_down.add(site)
        if self.shuffled(up):
            self.r.shuffle(replies)
        for fault in [fault for fault in up if fault.role == "clock"]:
            up.remove(fault)
            self.tally.cells[fault.cell] += 1
            self.world.now = self.expiry_s + 1
            able = set()
        met: set[int] = set()
        for site, reply, is_answer in replies:
            if is_answer and site in met and site not in whole_up:
                continue  # the second copy shares the fate of the first
            bent = self.bend(machine, "up", site, reply, up if is_answer else [])
            for frame in bent.now:
                self.receive(machine, site, frame)
            if is_answer:
                met.add(site)
                if bent.is_intact:
                    whole_up.add(site)
        self.deliver_late(machine, after)
        return able & whole_down & whole_up

    def shuffled(self, faults: list[Fault]) -> bool:
        found = [fault for fault in faults if fault.kind == "reorder" and fault.role == "carrier"]
        self.tally.cells.update(fault.cell for fault in found)
        return bool(found)

    def deliver_late(self, machine: Any, entries: list[tuple[str, str, int, bytes]]) -> None:
        for when, direction, site, frame in entries:
            if when == "attempt" and type(machine._state).__name__ != "AskingKeys":
                self.late.append((when, direction, site, frame))
            elif direction == "up":
                self.receive(machine, site, frame)
            else:
                self.receive(machine, site, self.handle(site, frame, 0))

    def bend(self, machine: Any, direction: str, site: int, frame: bytes, faults: list[Fault]) -> Bent:
        """What becomes of one frame; the planned fault is used up when it has happened."""
        own = self.past.setdefault((direction, site), [])
        bent = Bent((frame,), (), True)
        fault = next((f for f in faults if f.site == site and (f.role, f.kind) != ("carrier", "reorder")), None)
        if fault is not None and not (direction == "up" and frame[4] in (T.REFUSAL, T.BAD_SHARE)):
            found = self.bent(machine, direction, fault, site, frame, own)
            if found is not None:
                bent = found
                faults.remove(fault)
                self.tally.cells[fault.cell] += 1
        when = self.r.choice(("stage", "attempt"))
        self.late += [(when, direction, site, old) for old in bent.later]
        own.append(frame)
        return bent

    def bent(
        self, machine: Any, direction: str, fault: Fault, site: int, frame: bytes, own: list[bytes]
    ) -> Bent | None:
        r = self.r
        if fault.role == "carrier":
            back = self.past.get(("up" if direction == "down" else "down", site), [frame])
            foreign = self.library.foreign.get(T(frame[4]).name, back[-1])
            return bent_by_carrier(fault.kind, frame, own, back, foreign, r)
        if fault.kind == "delay":
            self.note_lie(machine)
            return Bent((), (frame,))
        letter = opened(self.world, machine, site, frame)
        if fault.kind == "lie":
            plain = letter.plain
            if direction == "down":
                plain = coordinator_lie(self.world, machine, site, letter, r)
            else:
                letter, plain = peer_lie(self.world, machine, site, letter, r)
        else:
            donors = self.library.plaintexts[letter.kind.name]
            back_kind = ANSWER_TO[letter.kind.name] if direction == "down" else _ASKED_BY[letter.kind.name]
            plain = bent_plaintext(fault.kind, letter, donors, self.library.plaintexts[back_kind][0], r)
        bent = letter.sealed(plain)
        if bent == frame:
            return None
        self.note_lie(machine)
        if letter.kind is T.R2 and len(plain) == len(letter.plain):
            self.note_difference(site, letter, plain)
        return Bent((bent,))

    def note_lie(self, machine: Any) -> None:
        """Foretell nothing more of this round; after a lie in an epoch's opening, of no round of that epoch."""
        self.has_insider = True
        self.is_epoch_false |= isinstance(machine, EpochOpening)

    def note_difference(self, site: int, letter: Opened, plain: bytes) -> None:
        kind = word_type(self.charter.constants.modulus_bits)
        self.sent[site] = np.frombuffer(plain, kind).astype(np.int64) - np.frombuffer(letter.plain, kind).astype(
            np.int64
        )

    def crash(self, number: int, stage: str, machine: Any) -> bool:
        """Restarts, failing hosts and time at this boundary. True when the coordinator forgot: the attempt is over."""
        is_over = False
        for fault in [f for f in self.plan.get((number, stage), []) if f.kind in _AT_BOUNDARIES]:
            self.plan[number, stage].remove(fault)
            if fault.role == "roster" and fault.site in self.world.ended:
                continue  # since an earlier epoch expired
            self.tally.cells[fault.cell] += 1
            if fault.role == "clock":
                self.world.now = self.expiry_s + 1
            elif fault.role == "roster":
                self.world.now = max(self.world.now, ENROLMENT_S)
            elif fault.role == "host":
                host = self.world.hosts[fault.site]
                if fault.kind == "failing":
                    host.failure = self.r.choice((DataRefused("patient"), "short", "wide"))
                else:
                    host.failure = BudgetExhausted("no budget")
                self.failing.add(fault.site)
            elif fault.role == "site":
                self.world.restart(fault.site)
                self.in_epoch.discard(fault.site)
            else:
                self.world.epoch, is_over = None, True
        if is_over:
            self.tally.aborts["coordinator restarted"] += 1
        return is_over

    # --- deliveries, each with its checks

    def handle(self, site: int, frame: bytes, number: int) -> bytes:
        protocol, log = self.world.sites[site], self.world.logs[site]
        before, lines = protocol._state, len(log)
        with self.watch.listening():
            reply = protocol.handle(frame)
        kind = reply[4]
        if kind == T.REFUSAL:
            name = log[-1][0]
            is_ours = name in CODES or (name in ("DataRefused", "LocalProtocolError") and site in self.failing)
            if len(log) == lines or not is_ours or not hasattr(errors, name):
                raise Violation(f"site {site} failed in {type(before).__name__}: {log[-1:]}")
            self.tally.refusals[name] += 1
        elif kind in (T.R3B, T.R4):
            self.check_answer(site, before, reply, T(kind))
        return reply

    def receive(self, machine: Any, site: int, frame: bytes) -> None:
        try:
            machine.receive(site, frame)
        except PeerError as error:
            self.tally.excluded[type(error).__name__] += 1

    def close(self, machine: Any) -> str:
        if self.r.random() < 0.1 and type(machine._state).__name__ != "Publishing":
            self.probe(machine)
        try:
            machine.close_stage()
        except RoundAborted as error:
            name = type(error).__name__
            if not hasattr(errors, name) or type(error) is RoundAborted:
                raise Violation(f"an abort without a cause: {error!r}") from error
            self.tally.aborts[name] += 1
            return name
        return ""
