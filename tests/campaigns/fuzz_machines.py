"""A coverage-guided fuzz target: both machines in every stage, and the decoders, on arbitrary bytes.

    pip install atheris
    PYTHONPATH=. python tests/campaigns/fuzz_machines.py --write-corpus corpus
    PYTHONPATH=. python tests/campaigns/fuzz_machines.py corpus -max_len=4096 -max_total_time=3600

The first byte chooses the place, the second whether the rest is a frame as it arrives or a plaintext that an insider
seals with valid keys. atheris is no dependency of the package; test_fuzz_target.py runs the same target without it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from fault_bending import ANSWER_TO, next_tag
from fault_insider import Opened, listed_of, opened
from fault_mutations import Bench
from fault_world import FEW_DEVICES, small_graphs
from mutation_judge import Score
from mutation_rules import is_acceptable

from secure_frl.errors import MalformedMessage
from secure_frl.wire.canonical import parse_canonical_object
from secure_frl.wire.messages import decode_body
from secure_frl.wire.records import Confirmation, DealtShares, MemberList, Share, unpack_records
from secure_frl.wire.registry import REGISTRY

STAGES = ("E0", "E1", "E2", "R0", "R1P", "R3A", "R3C", "R5")
DEVICES = (11, FEW_DEVICES, 24, 2)  # the only ones with E2
_PACKED_IN = {"R1": "dealt", "R1P": "members", "R3B": "items", "R3C": "items", "R4": "of_seeds"}  # or the clear list
BODIES = tuple(spec.body for spec in REGISTRY.values() if spec.body is not None)


@dataclass
class Place:
    """A machine that waits for one message of one site, with the genuine message."""

    bench: Bench
    machine: Any
    stage: str
    site: int
    frame: bytes
    letter: Opened
    at_site: bool

    def try_bytes(self, data: bytes, is_plaintext: bool) -> None:
        """Deliver the bytes, raw or sealed by an insider, and judge what comes of them."""
        frame, letter, plain = (self.letter.sealed(data), self.letter, data) if is_plaintext else (data, None, b"")
        bench = self.bench
        if self.at_site and self._gives_an_old_answer(frame):
            return
        acceptable = frame == self.frame
        if letter is not None and not acceptable:
            acceptable = is_acceptable(bench.world, self.machine, self.site, letter, plain)
        if self.at_site:
            bench.deliver_to_site(self.machine, self.stage, self.site, frame, letter, acceptable, plain)
        else:
            stage = ANSWER_TO[self.stage]
            bench.deliver_to_coordinator(self.machine, stage, self.site, frame, letter, acceptable, plain)
        if bench.score.failures:
            raise AssertionError(bench.score.failures.pop())

    def _gives_an_old_answer(self, frame: bytes) -> bool:
        """Whether the site was asked this before; then it says the same, and nothing else happens."""
        protocol = self.bench.world.sites[self.site]
        digest, state = hashlib.sha256(frame).digest(), protocol._state
        sent = next((sent for sent in protocol._sent.values() if sent.request_digest == digest), None)
        if sent is not None and (protocol.handle(frame) != sent.reply or protocol._state is not state):
            raise AssertionError("a request that came again had another answer, or moved the site")
        return sent is not None


def places(seed: int = 5) -> list[Place]:
    """One world for each stage and end, stopped there."""
    return [_stopped(stage, at_site, seed) for stage in STAGES for at_site in (True, False)]


def _stopped(stage: str, at_site: bool, seed: int) -> Place:
    bench = Bench(seed, Score(), per_stage=0, shape=DEVICES if stage == "E2" else None)
    world = bench.world
    machine: Any = world.opening(1, 1)
    for name in (*world.charter.opening_stages, "R0", "R1P", "R3A", "R3C", "R5"):
        if name == "R0":
            world.epoch = machine.outcome()
            machine = world.attempt(1, 0, world.epoch.members, world.hosts[0].model, {})
        if name == "R5":
            machine.publish(next_tag(machine))
        if name == stage:
            break
        bench.stage(machine, name)
    requests = dict(machine.requests())
    if at_site:
        return Place(bench, machine, stage, 0, requests[0], opened(world, machine, 0, requests[0]), True)
    reply = world.sites[0].handle(requests[0])
    return Place(bench, machine, stage, 0, reply, opened(world, machine, 0, reply), False)


class Target:
    """What a fuzzer calls with each input."""

    def __init__(self) -> None:
        with small_graphs():
            self.places = places()

    def __call__(self, data: bytes) -> None:
        if len(data) < 2:
            return
        where, payload = data[0] % (len(self.places) + 1), bytes(data[2:])
        if where == len(self.places):
            decode_everything(payload)
        else:
            with small_graphs():
                self.places[where].try_bytes(payload, data[1] % 2 == 1)

    def corpus(self) -> Iterator[tuple[str, bytes]]:
        """The genuine frame and plaintext of every place, and every body for the decoders."""
        for number, place in enumerate(self.places):
            end = "site" if place.at_site else "coordinator"
            yield f"{place.stage}-{end}-frame", bytes([number, 0]) + place.frame
            yield f"{place.stage}-{end}-plaintext", bytes([number, 1]) + place.letter.plain
            yield f"{place.stage}-{end}-decoders", bytes([len(self.places), 0]) + place.letter.plain
            if place.letter.kind.name in _PACKED_IN:
                yield f"{place.stage}-{end}-records", bytes([len(self.places), 0]) + _packed(place.letter)
        for number, text in enumerate((b'{"a":1}', b"[1]", b'{"a": 1}', b'{"a":' * 99)):
            yield f"json-{number}", bytes([len(self.places), 0]) + text


def _packed(letter: Opened) -> bytes:
    """The packed records of a message."""
    field = _PACKED_IN[letter.kind.name]
    return listed_of(letter.plain)[0] if field == "members" else bytes(getattr(letter.body(), field))


def decode_everything(data: bytes) -> None:
    """Nothing but MalformedMessage leaves a decoder."""
    readers: list[Callable[[], object]] = [lambda body=body: decode_body(body, data) for body in BODIES]  # type: ignore[misc]
    readers += [lambda kind=kind: unpack_records(kind, data) for kind in (DealtShares, Confirmation, Share)]  # type: ignore[misc]
    readers.append(lambda: MemberList.read(data))
    readers.append(lambda: parse_canonical_object(data, what="a file", max_bytes=300))
    for read in readers:
        try:
            read()
        except MalformedMessage:
            continue


def main(arguments: list[str]) -> None:
    """Write the corpus, or fuzz."""
    target = Target()
    if arguments[1:2] == ["--write-corpus"]:
        folder = Path(arguments[2])
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in target.corpus():
            (folder / name).write_bytes(data)
        return
    try:
        import atheris
    except ImportError:
        sys.exit("expected the package atheris, got none. Install it beside the project: pip install atheris")
    atheris.instrument_all()
    atheris.Setup(arguments, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
