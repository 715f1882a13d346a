"""One mutated message of encrypted sums: delivered, judged by ciphertext_rules.py, and forgotten again.

What is refused must be refused by a name of the package and leave the receiver as it was; what a coordinator adds
leaves the others' part of the sum as it was; what a site follows is the sum that plain integers say.
"""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ciphertext_insider import apart, blind_coordinator_lie, blind_peer_lie
from ciphertext_rules import ANSWERED, FOLLOWED, KEPT, REFUSED, allowed, followed_values, inner_of
from ciphertext_world import BlindWorld, cipher_at, kept_host
from fault_insider import Opened, altered
from fault_lies import coordinator_lie, peer_lie
from mutation_judge import Judge, Score, changed_bytes, changed_header, channels_of, complaint_of, copied
from mutation_rules import whom_to_blame

from secure_frl.ckks.encrypted_sum import EncryptedSum
from secure_frl.ckks.epoch_cipher import SiteWorkers
from secure_frl.ckks.worker import Worker
from secure_frl.errors import BadShare, DecryptionFailed, HolderCheated, PeerError, RoundAborted
from secure_frl.masking.coordinator_epoch import EpochOpening
from secure_frl.masking.neighbourhoods import PairTable
from secure_frl.masking.refusals import CODES
from secure_frl.masking.site_memory import SharesSent
from secure_frl.wire.messages import MessageType
from secure_frl.wire.registry import REGISTRY

T = MessageType
NEW_KINDS = frozenset({T.E3, T.E3_REPLY, T.PACKAGE, T.PACKAGE_REPLY, T.R2C, T.R5C, T.R5C_REPLY, T.R6, T.R6_REPLY})
NOISE = frozenset({REFUSED})
_HARMLESS = ("_excluded", "_refusals", "_sent")  # what a refusal may leave behind


@dataclass
class BlindScore(Score):
    """The counts of masking's campaigns, and what is of ciphertexts only."""

    kept: int = 0  # sums that a site answered and did not follow
    added: int = 0  # ciphertexts of an insider's choice that a coordinator added
    worker_bytes: int = 0  # the greatest address space of a worker
    worker_share: float = 0.0  # the same, as a share of its limit
    peak_share: float = 0.0  # the greatest peak, in greatest frames of its charter

    def report(self) -> str:
        return (
            f"{super().report()}; {self.kept} sums answered and not followed, {self.added} chosen ciphertexts added; "
            f"a message's peak at most {self.peak_share:.1f} of its charter's greatest frames; a worker's address "
            f"space at most {self.worker_bytes >> 20} MiB, {self.worker_share:.0%} of its limit"
        )


class Deliveries(Judge):
    """What a bench does with one message, whatever stage it is of."""

    world: BlindWorld
    score: BlindScore

    def __init__(self, world: BlindWorld, score: BlindScore, seed: int) -> None:
        super().__init__(world, score, seed)
        self.donors: dict[str, list[bytes]] = {}  # plaintexts met so far, by type
        self.may_abort = False  # a worker that was taken over, or hangs, may cost its round

    # --- one mutation

    def changed(self, machine: Any, site: int, frame: bytes, letter: Opened) -> tuple[bytes, Opened | None, bytes]:
        """(frame, letter, plaintext); no letter when bytes were changed after sealing."""
        r, kind = self.r, letter.kind
        if r.random() < 0.5:
            self.score.kinds[f"{kind.name} bytes"] += 1
            return changed_bytes(r, frame), None, b""
        self.score.before_sealing += 1
        self.score.kinds[f"{kind.name} plaintext"] += 1
        if r.random() < (0.6 if kind in NEW_KINDS else 0.25):
            lie = self._lie(machine, site, letter)
            if lie is not None:
                return lie[0].sealed(lie[1]), *lie
        if r.random() < 0.2:
            name_key = r.random() < 0.3
            head = replace(letter.header, key_id=r.randbytes(32)) if name_key else changed_header(r, letter.header)
            return letter.seal(head, letter.plain), replace(letter, header=head), letter.plain
        plain = altered(r, kind, letter.plain, self.donors.get(kind.name, []))
        return letter.sealed(plain), letter, plain

    def _lie(self, machine: Any, site: int, letter: Opened) -> tuple[Opened, bytes] | None:
        to_site, inner = REGISTRY[letter.kind].to_site, inner_of(machine)
        if letter.kind in NEW_KINDS:
            lie = blind_coordinator_lie if to_site else blind_peer_lie
            plain = lie(self.world, machine, site, letter, self.r)
            return None if plain is None else (letter, plain)
        try:
            if to_site:
                return letter, coordinator_lie(self.world, inner, site, letter, self.r)
            return peer_lie(self.world, inner, site, letter, self.r)
        except (IndexError, ValueError):  # a lie without its precondition here
            return None

    # --- to a site

    def try_site(self, machine: Any, site: int, request: bytes, letter: Opened) -> None:
        frame, used, plain = self.changed(machine, site, request, letter)
        if frame == request:
            used, plain = letter, letter.plain
        may = NOISE if used is None else allowed(self.world, machine, site, used, letter, plain)
        values = followed_values(self.world, plain) if FOLLOWED in may else None
        self.deliver_to_site(machine, letter.kind.name, site, frame, used, may, plain, values)

    def deliver_to_site(
        self,
        machine: Any,
        stage: str,
        site: int,
        frame: bytes,
        letter: Opened | None,
        may: frozenset[str],
        plain: bytes,
        values: list[int] | None = None,
    ) -> None:
        """Let a site answer, judge its answer, and put its memory back.

        letter: None for bytes of no insider. values: of the sum that it must follow, if it follows.
        """
        protocol, world = self.world.sites[site], self.world
        register, host, log, party = world.registers[site], world.host(site), world.logs[site], protocol._party
        kept = (protocol._state, dict(protocol._sent), register.epoch, list(register.rows))
        memory, cipher, channels = kept_host(host), cipher_at(protocol), channels_of(protocol._state)
        words = protocol._state.words.copy() if isinstance(protocol._state, SharesSent) else None  # masked in place
        ratchet = (channels.at_round, channels._keys) if channels is not None else None
        failures = cipher.failures if cipher is not None else 0
        due = whom_to_blame(world, inner_of(machine), site, letter, plain) if _is_mail(letter) else set()
        own = SiteWorkers(world.limits)  # a key that is taken by mistake, or on trial, does not end the others' worker
        if stage in ("E3", "PACKAGE"):
            protocol._party = replace(party, workers=own)
        log.clear()
        host.outcomes = []
        reply = self.measured(lambda: protocol.handle(frame))
        self.weigh(own._worker)
        own.close()
        seen = REFUSED if reply[4] in (T.REFUSAL, T.BAD_SHARE) else ANSWERED
        if stage == "R5C" and seen == ANSWERED:
            seen = FOLLOWED if host.outcomes[-1:] == ["summed"] else KEPT
            self.score.kept += seen == KEPT
            self.judge_following(seen, host.model, memory["model"], values, cipher, failures)
        if reply[4] == T.REFUSAL:
            self.named(log[-1][0], f"{stage} at a site: {log[-1]}")
            if log[-1][0] not in CODES:
                self.fail(f"{stage}: {log[-1]}")
            if letter is None and protocol._state is not kept[0]:
                self.fail(f"{stage}: noise moved a site to {protocol.state_name}")
        blamed = set(complaint_of(protocol, reply, plain)) if reply[4] == T.BAD_SHARE else set()
        self.judge_blame(blamed, due, plain)
        self.judge(seen, may, f"{stage} to site {site}", plain)
        log.clear()
        protocol._party = party
        protocol._state, protocol._sent, register.epoch, register.rows = kept
        vars(host).update(memory)
        if cipher is not None:
            cipher.failures = failures
        if words is not None:
            protocol._state.words[:] = words
        if ratchet is not None:
            channels.at_round, channels._keys = ratchet

    def judge_following(
        self, seen: str, model: bytes, before: bytes, values: list[int] | None, cipher: Any, failures: int
    ) -> None:
        if seen == KEPT and (model != before or cipher.failures != failures + 1):
            self.fail("R5C: a sum that was not followed changed the policy, or was not counted")
        if seen == FOLLOWED and values is not None:
            after = hashlib.sha256(before + np.array(values, np.int64).tobytes()).digest()
            if model != after:
                self.fail("R5C: a site followed another sum than the integers say")

    def judge_sum(self, machine: Any, site: int, reply: bytes, before: bytes) -> None:
        """What a site follows is the plain sum of the contributors' own values; no contributor refuses it."""
        hosts, survivors = self.world.hosts, machine._state.summed.survivors
        total = np.sum([hosts[one].values for one in survivors], axis=0, dtype=np.int64)
        is_told = site in survivors or reply[4] != T.REFUSAL
        if is_told and hosts[site].model != hashlib.sha256(before + total.tobytes()).digest():
            self.fail(f"R5C: site {site} did not follow the sum of what {survivors} hold")

    # --- to the coordinator

    def try_coordinator(self, machine: Any, site: int, reply: bytes, letter: Opened) -> None:
        own = self.world.sites[site]._state
        commitment = getattr(own, "seed_commitment", None)
        if self.r.random() < 0.03:
            self.score.before_sealing += 1
            self.score.kinds["refusal"] += 1
            self.deliver_to_coordinator(machine, "refusal", site, self.refusal(site, letter), None, NOISE, b"")
            return
        frame, used, plain = self.changed(machine, site, reply, letter)
        if commitment is not None:  # a lie about the seed changes its teller's memory
            object.__setattr__(own, "seed_commitment", commitment)
        if frame == reply:
            used, plain = letter, letter.plain
        may = NOISE if used is None else allowed(self.world, machine, site, used, letter, plain)
        self.deliver_to_coordinator(machine, letter.kind.name, site, frame, used, may, plain)

    def deliver_to_coordinator(
        self,
        machine: Any,
        stage: str,
        site: int,
        frame: bytes,
        letter: Opened | None,
        may: frozenset[str],
        plain: bytes,
    ) -> None:
        """Let the coordinator take an answer, judge what it made of it, and put its memory back. letter: as above."""
        kept, out = Kept(machine), set(getattr(machine, "excluded", ()))
        due = whom_to_blame(self.world, inner_of(machine), site, letter, plain) if _is_mail(letter) else set()
        seen, may_change = ANSWERED, True
        try:
            self.measured(lambda: machine.receive(site, frame))
        except PeerError as error:
            seen = REFUSED
            may_change = isinstance(error, HolderCheated | BadShare)  # these keep a site's good shares, its complaint
            self.named(type(error).__name__, f"{stage} at the coordinator: {error!r}")
        except RoundAborted as error:
            seen = REFUSED
            self.named(type(error).__name__, f"{stage} at the coordinator: {error!r}")
            if not self.may_abort:
                self.fail(f"{stage}: one site ended the stage with {error!r}")
        except Exception as error:
            seen = REFUSED
            self.fail(f"{stage}: crash {error!r}")
        is_again = stage == "replay" and frame[4] != T.R6_REPLY  # R6 is bound to epoch and tag: an old answer is sound
        if (is_again or (seen == REFUSED and not may_change)) and kept.is_changed():
            self.fail(f"{stage}: an answer that is refused, or in already, changed the stage")
        if set(getattr(machine, "excluded", ())) - out - {site}:
            self.fail(f"{stage}: an answer of site {site} put another site out")
        if letter is not None and letter.kind is T.R2C and seen == ANSWERED:
            self.judge_addition(kept, machine, plain)
        if _is_mail(letter):
            self.judge_blame(set(getattr(machine._state, "complaints", {}).get(site, ())), due, plain)
        self.judge(seen, may, f"{stage} of site {site}", plain)
        kept.put_back()
        if letter is not None and letter.kind is T.R2C:
            self.world.adder.holds = None

    def judge_addition(self, kept: Kept, machine: Any, body: bytes) -> None:
        """What was added is a vector that a key holder made, or what no site can open; the others' part stays."""
        world, self.score.added = self.world, self.score.added + 1
        before, after = kept.chunks, machine._view.encrypted._chunks
        for number, chunk in enumerate(apart(body)):
            slots = world.slots_of(chunk)
            if slots is None or int(np.abs(slots).max()) >= 1 << 32:  # beyond it coefficients wrap
                continue
            if slots.tobytes() not in world.known:
                self.fail("R2C: a vector that nobody made was added")
            others = world.slots_of(before[number]) if before else np.zeros_like(slots)
            total = world.slots_of(after[number])
            if others is not None and (total is None or (total - slots != others).any()):
                if not (self.may_abort and self._is_kept(machine._view.encrypted)):
                    self.fail("R2C: an addition changed the part of the others")
                return

    def _is_kept(self, total: EncryptedSum) -> bool:
        """Whether sites keep their policy over a sum that a worker made up which was taken over."""
        self.score.kinds["a sum of a worker that is taken over"] += 1
        try:
            self.world.cipher().open_sum(total.body, len(total.contributors))
        except DecryptionFailed:
            return True
        return False

    # --- judging

    def measured(self, act: Callable[[], Any]) -> Any:
        self.score.messages += 1
        if not tracemalloc.is_tracing():
            return act()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            return act()
        finally:
            peak = tracemalloc.get_traced_memory()[1] - before
            self.score.peak_bytes = max(self.score.peak_bytes, peak)
            self.score.peak_share = max(self.score.peak_share, peak / self.world.greatest_frame)

    def weigh(self, worker: Worker | None) -> None:
        """Note the greatest address space that a living worker has had."""
        if worker is None or worker.process_id is None:
            return
        status = Path(f"/proc/{worker.process_id}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        peak = max((1024 * int(line.split()[1]) for line in lines if line.startswith("VmPeak")), default=0)
        self.score.worker_bytes = max(self.score.worker_bytes, peak)
        self.score.worker_share = max(self.score.worker_share, peak / worker._limits.address_bytes)

    def judge(self, seen: str, may: frozenset[str], where: str, plain: bytes) -> None:
        self.score.accepted += seen != REFUSED
        if seen not in may:
            self.fail(f"{where}: {seen}, not {sorted(may)}: {plain[:80].hex()}")


def _is_mail(letter: Opened | None) -> bool:
    return letter is not None and letter.kind in (T.R1P, T.BAD_SHARE)


# --- a coordinator's memory, kept and put back -----------------------------------------------------------------------


class Kept:
    """What a coordinator's machine remembers of its stage, with its letters and its sum."""

    def __init__(self, machine: Any) -> None:
        inner = inner_of(machine)
        state = getattr(inner, "_state", None)
        letters = inner._letters if isinstance(inner, EpochOpening) else machine._letters
        letters = getattr(letters, "_letters", letters)
        view = getattr(state, "view", None)
        encrypted, packed = getattr(view, "encrypted", None), getattr(state, "packed", None)
        self.chunks = list(encrypted._chunks) if encrypted is not None else []
        holders = [inner, state, letters, view, encrypted, packed]
        self._kept = [(one, name, value, copied(value)) for one in holders for name, value in _parts(one)]

    def is_changed(self) -> bool:
        return any(
            name not in _HARMLESS and (getattr(one, name) is not value or _shown(value) != _shown(copied))
            for one, name, value, copied in self._kept
        )

    def put_back(self) -> None:
        for one, name, value, before in self._kept:
            if isinstance(value, dict | set):  # others hold the same object
                value.clear()
                value.update(before)
            elif isinstance(value, list):
                value[:] = before
            else:
                value = before
            object.__setattr__(one, name, value)


_MUTABLE = ("_state", "_chunks", "_contributors", "_accepted", "_excluded", "_refusals", "_earlier", "_sent")
_OF_FETCHING = ("parcel", "giver", "_holders")


def _parts(one: Any) -> list[tuple[str, Any]]:
    """The fields of a holder that may change: of a state all, of a machine or its letters those named above."""
    if is_dataclass(one):
        return [(part.name, getattr(one, part.name)) for part in fields(one) if part.init]
    return [(name, getattr(one, name)) for name in (*_MUTABLE, *_OF_FETCHING) if hasattr(one, name)]


def _shown(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, PairTable):
        return value._records.tobytes(), value._present.tobytes()
    if isinstance(value, dict):
        return [(key, _shown(inner) if isinstance(inner, dict) else id(inner)) for key, inner in value.items()]
    if isinstance(value, set):
        return sorted(map(repr, value))
    return list(map(id, value)) if isinstance(value, list) else id(value)
