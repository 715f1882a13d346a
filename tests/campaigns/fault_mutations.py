"""Mutated messages against both machines, with a written-out expectation of which of them may be accepted.

Half of the mutations change the bytes of a sealed or signed frame: none of these may be accepted. The other half
change the plaintext before it is sealed or signed, by a coordinator or a peer with its valid keys: a list of rules,
written from section 5 and not from the code, says for each whether the receiver may accept it. What is refused must be
refused by a name of the package and leave the receiver as it was.
"""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import numpy as np
from fault_bending import ANSWER_TO, DOWN, library, next_tag
from fault_insider import Opened, altered, opened
from fault_lies import coordinator_lie, peer_lie
from fault_world import FEW_DEVICES, FIRST_MODEL, World, charter_of, remembered_signatures, small_graphs
from mutation_judge import Judge, Score, changed_bytes, changed_header, channels_of, complaint_of, copied
from mutation_rules import is_acceptable, whom_to_blame

from secure_frl.errors import BadShare, HolderCheated, PeerError, Refused, RoundAborted
from secure_frl.masking.neighbourhoods import PairTable
from secure_frl.masking.refusals import CODES
from secure_frl.masking.site_memory import SharesSent
from secure_frl.wire.messages import MessageType

T = MessageType
_SHAPES = ((3, 0, 24, 2), (4, 0, 24, 2), (5, 0, 16, 3), (4, 0, 40, 1))
_DEVICES, _DEVICES_IN = (
    (11, FEW_DEVICES, 24, 2),
    20,
)  # the only ones with E2, in one world of so many, for they are slow
_PER_STAGE = 40  # mutations of each message of a world
_MEASURED_WORLDS = 25  # memory is measured in one world of so many, for measuring is slow


class Bench(Judge):
    """One world whose round advances stage by stage; before each step its messages are tried in many changed forms."""

    def __init__(self, seed: int, score: Score, per_stage: int = _PER_STAGE, shape: Any = None) -> None:
        shape = shape or (_SHAPES[seed % len(_SHAPES)] if seed % _DEVICES_IN else _DEVICES)
        super().__init__(World(charter_of(*shape), seed, template=False), score, seed)
        self.library, self.per_stage = library(*shape), per_stage
        self.n = shape[0]
        self.fooled: set[int] = set()  # sites that must refuse even the coordinator's own R0

    def run(self) -> None:
        world = self.world
        opening = world.opening(1, 1)
        for stage in world.charter.opening_stages:
            self.stage(opening, stage)
        world.epoch = opening.outcome()
        model = world.hosts[0].model
        lost = self.r.random() < 0.5 and self.n - 1 >= world.charter.constants.min_survivors
        models = {1: model} if self.r.random() < 0.3 else {}
        if not lost and self.n - 1 >= world.charter.constants.min_survivors and self.r.random() < 0.3:
            models = {2: b"another model under the announced tag"}  # the site refuses it, the others go on
            self.fooled.add(2)
        machine = world.attempt(1, 0, world.epoch.members, model, models)
        for stage in ("R0", "R1P", "R3A", "R3C"):
            self.stage(machine, stage, self.n - 1 if lost and stage == "R1P" else None)
        machine.publish(next_tag(machine, FIRST_MODEL))
        self.stage(machine, "R5")

    def stage(self, machine: Any, name: str, lost: int | None = None) -> None:
        target = self.r.randrange(self.n)
        for site, request in list(machine.requests()):
            letter = opened(self.world, machine, site, request)
            if site == target:
                for _ in range(self.per_stage):
                    self.try_site(machine, name, site, request, letter)
            reply = self.world.sites[site].handle(request)
            if site == lost:
                continue
            if site == target and reply[4] != T.REFUSAL:
                self.request = request
                back = opened(self.world, machine, site, reply)
                for _ in range(self.per_stage):
                    self.try_coordinator(machine, ANSWER_TO[name], site, reply, back)
            if reply[4] == T.REFUSAL and name == "R0":  # of another model
                with suppress(Refused):
                    machine.receive(site, reply)
                self.world.hosts[site].model = FIRST_MODEL
                continue
            machine.receive(site, reply)
        machine.close_stage()

    # --- one mutated message

    def changed(self, machine: Any, site: int, frame: bytes, letter: Opened) -> tuple[bytes, Opened | None, bytes]:
        """(frame, letter, plaintext); no letter when bytes were changed after sealing."""
        r = self.r
        if r.random() < 0.5:
            self.score.kinds[f"{letter.kind.name} bytes"] += 1
            return changed_bytes(r, frame), None, b""
        self.score.before_sealing += 1
        self.score.kinds[f"{letter.kind.name} plaintext"] += 1
        donors = self.library.plaintexts[letter.kind.name]
        plain = letter.plain
        if r.random() < 0.2:
            lie = coordinator_lie if letter.kind.name in DOWN else peer_lie
            with suppress(IndexError, ValueError):  # a lie without its precondition here
                found = lie(self.world, machine, site, letter, r)
                letter, plain = (letter, found) if isinstance(found, bytes) else found
        elif r.random() < 0.1:
            head = changed_header(r, letter.header)
            return letter.seal(head, plain), replace(letter, header=head), plain
        else:
            plain = altered(r, letter.kind, plain, donors)
        return letter.sealed(plain), letter, plain

    def try_site(self, machine: Any, stage: str, site: int, request: bytes, letter: Opened) -> None:
        frame, used, plain = self.changed(machine, site, request, letter)
        acceptable = used is not None and is_acceptable(self.world, machine, site, used, plain)
        is_sound = frame == request and not (stage == "R0" and site in self.fooled)
        self.deliver_to_site(machine, stage, site, frame, used, acceptable or is_sound, plain)

    def deliver_to_site(
        self, machine: Any, stage: str, site: int, frame: bytes, letter: Opened | None, acceptable: bool, plain: bytes
    ) -> None:
        """Let a site answer, judge its answer, and put its memory back. letter: None for bytes of no insider."""
        protocol, world = self.world.sites[site], self.world
        register, host, log = world.registers[site], world.hosts[site], world.logs[site]
        kept = (protocol._state, dict(protocol._sent), register.epoch, list(register.rows), host.model)
        words = protocol._state.words.copy() if isinstance(protocol._state, SharesSent) else None  # masked in place
        channels = channels_of(protocol._state)
        ratchet = (channels.at_round, channels._keys) if channels is not None else None
        reply = self._measured(lambda: protocol.handle(frame))
        self.score.messages += 1
        is_accepted = reply[4] not in (T.REFUSAL, T.BAD_SHARE)
        if reply[4] == T.REFUSAL:
            self.named(log[-1][0], f"{stage} at a site: {log[-1]}")
            if log[-1][0] not in CODES:
                self.fail(f"{stage}: {log[-1]}")
            if letter is None and protocol._state is not kept[0]:
                self.fail(f"{stage}: noise moved a site to {protocol.state_name}")
        blamed = set(complaint_of(protocol, reply, plain)) if reply[4] == T.BAD_SHARE else set()
        self.judge_blame(blamed, self.due(machine, site, letter, plain), plain)
        self.judge(is_accepted, acceptable, f"{stage} to site {site}", plain)
        log.clear()
        host.outcomes.clear()
        host.asked.clear()
        protocol._state, protocol._sent, register.epoch, register.rows, host.model = kept
        if words is not None:
            protocol._state.words[:] = words
        if ratchet is not None:
            channels.at_round, channels._keys = ratchet

    def try_coordinator(self, machine: Any, stage: str, site: int, reply: bytes, letter: Opened) -> None:
        own = self.world.sites[site]._state
        commitment = getattr(own, "seed_commitment", None)
        if self.r.random() < 0.03:
            self.score.before_sealing += 1
            self.score.kinds["refusal"] += 1
            self.deliver_to_coordinator(machine, stage, site, self.refusal(site, letter), None, False, b"")
            return
        frame, used, plain = self.changed(machine, site, reply, letter)
        if commitment is not None:  # a lie about the seed changes its teller's memory
            object.__setattr__(own, "seed_commitment", commitment)
        acceptable = used is not None and is_acceptable(self.world, machine, site, used, plain)
        self.deliver_to_coordinator(machine, stage, site, frame, used, acceptable or frame == reply, plain)

    def deliver_to_coordinator(
        self, machine: Any, stage: str, site: int, frame: bytes, letter: Opened | None, acceptable: bool, plain: bytes
    ) -> None:
        """Let the coordinator take an answer, judge what it made of it, and put its memory back. letter: as above."""
        kept, before = _kept(machine), _fingerprint(machine)
        is_accepted, may_change = True, True
        try:
            self._measured(lambda: machine.receive(site, frame))
        except PeerError as error:
            is_accepted = False
            may_change = isinstance(error, HolderCheated | BadShare)  # these keep a site's good shares, its complaint
            self.named(type(error).__name__, f"{stage} at the coordinator: {error!r}")
        except RoundAborted as error:
            self.fail(f"{stage}: one site ended the stage with {error!r}")
        except Exception as error:
            self.fail(f"{stage}: crash {error!r}")
        self.score.messages += 1
        if not is_accepted and not may_change and _fingerprint(machine) != before:
            self.fail(f"{stage}: a refused answer changed the stage")
        blamed = set(getattr(machine._state, "complaints", {}).get(site, ()))
        self.judge_blame(blamed, self.due(machine, site, letter, plain), plain)
        self.judge(is_accepted, acceptable, f"{stage} of site {site}", plain)
        _put_back(machine, kept)

    def _measured(self, act: Any) -> Any:
        if not tracemalloc.is_tracing():
            return act()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        found = act()
        self.score.peak_bytes = max(self.score.peak_bytes, tracemalloc.get_traced_memory()[1] - before)
        return found

    def judge(self, is_accepted: bool, acceptable: bool, where: str, plain: bytes) -> None:
        self.score.accepted += is_accepted
        if is_accepted and not acceptable:
            self.fail(f"{where} accepted: {plain[:80].hex()}")
        elif acceptable and not is_accepted:
            self.fail(f"{where} refused although acceptable: {plain[:80].hex()}")

    def due(self, machine: Any, site: int, letter: Opened | None, plain: bytes) -> set[int]:
        return whom_to_blame(self.world, machine, site, letter, plain) if letter is not None else set()


# --- a coordinator's memory, kept and put back -----------------------------------------------------------------------


def _kept(machine: Any) -> tuple[Any, ...]:
    state, letters = machine._state, machine._letters
    inner = {part.name: copied(getattr(state, part.name)) for part in fields(state)}
    view = getattr(state, "view", None)
    noted = [copied(memory) for memory in (letters._accepted, letters._excluded, letters._refusals)]
    return state, inner, dict(view.fresh_of) if view is not None else None, noted


def _put_back(machine: Any, kept: tuple[Any, ...]) -> None:
    state, inner, fresh_of, noted = kept
    machine._state = state
    for name, value in inner.items():
        object.__setattr__(state, name, value)
    if fresh_of is not None:
        state.view.fresh_of.clear()
        state.view.fresh_of.update(fresh_of)
    letters = machine._letters
    for memory, old in zip((letters._accepted, letters._excluded, letters._refusals), noted, strict=True):
        memory.clear()
        memory.update(old)


def _fingerprint(machine: Any) -> Any:
    state = machine._state
    found = []
    for part in fields(state):
        value = getattr(state, part.name)
        if isinstance(value, np.ndarray):
            found.append(value.tobytes())
        elif isinstance(value, dict):
            found.append(
                [(key, len(inner) if isinstance(inner, list | dict) else id(inner)) for key, inner in value.items()]
            )
        elif isinstance(value, PairTable):
            found.append((value._records.tobytes(), value._present.tobytes()))
        elif isinstance(value, set):
            found.append(sorted(value))
    return type(state).__name__, found


def run_mutations(first_seed: int, messages: int) -> Score:
    """Try at least this many mutated messages, in worlds with seeds from first_seed on."""
    score, seed = Score(), first_seed
    with remembered_signatures(), small_graphs():
        while score.messages < messages:
            is_measured = (seed - first_seed) % _MEASURED_WORLDS == 1  # tables are filled by the first one
            if is_measured:
                tracemalloc.start(1)
            try:
                Bench(seed, score).run()
            finally:
                tracemalloc.stop()
            seed += 1
    return score


def run_campaign(first_seed: int, messages: int, jobs: int) -> Score:
    """The same over processes, in pieces whose seeds do not meet."""
    piece = max(1, min(20_000, messages // jobs))
    count = -(-messages // piece)
    total = Score()
    with ProcessPoolExecutor(jobs) as pool:
        for score in pool.map(run_mutations, [first_seed + 1_000_000 * i for i in range(count)], [piece] * count):
            total.add(score)
    return total
