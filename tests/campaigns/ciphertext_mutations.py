"""Schedules of encrypted sums whose messages are tried in many changed forms, and the campaign over them.

Half of the mutations change the bytes of a sealed or signed frame; none of these may be accepted. The other half change
the plaintext before it is sealed or signed, by a coordinator, a steward or a peer with its valid keys.
"""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
from ciphertext_deliveries import NOISE, BlindScore, Deliveries
from ciphertext_insider import apart, blind_opened, resigned, together
from ciphertext_rules import ANSWERED, FOLLOWED, KEPT, REFUSED, followed_values, has_trusted_key
from ciphertext_workers import end, hanging, refuse, taken_over
from ciphertext_world import SHAPES, BlindWorld
from fault_insider import Opened, listed_of
from fault_world import remembered_signatures

from secure_frl.errors import PeerError, RoundAborted, StewardMissing, TooFewSurvivors, UnexpectedState
from secure_frl.masking.contexts import config_hash
from secure_frl.masking.coordinator_requests import announcements
from secure_frl.secure_sum import COORDINATOR_ID, SiteId
from secure_frl.wire.envelope import EMPTY_32, Address, sign_frame
from secure_frl.wire.messages import Announcement, MessageType, decode_body, encode_body
from secure_frl.wire.registry import REGISTRY

T = MessageType
PER_STAGE = 100  # mutations of each message of a world
_MEASURED_WORLDS = 6  # memory is measured in one world of so many, for measuring is slow
STAGES = {"ckks": ("R0",), "ckks+masking": ("R0", "R1P", "R3A", "R3C")}
STARTING_WORKERS = (T.E3, T.PACKAGE)  # a third of a second each where they are accepted
ENDINGS = ("", "", "no steward", "silent", "bad packages", "late")  # of an opening
ROUNDS = ("", "lost", "behind", "broken", "dead worker", "taken over")
_HINDERING = ("spoilt", "broken")  # the site that it befalls keeps its policy
_FULL = OSError(28, "No space left on device", "round")
BROKEN: tuple[tuple[Exception, ...], ...] = ((_FULL,), (ValueError("values"),), (_FULL, _FULL), (OSError("disk"),))
Bend = Callable[[int, Opened], bytes | None]  # a site and its genuine letter -> the frame in its place, if any


class BlindBench(Deliveries):
    """One world of two epochs, or as many as are asked for."""

    def __init__(self, seed: int, score: BlindScore, per_stage: int = PER_STAGE, epochs: int = 2) -> None:
        super().__init__(BlindWorld(SHAPES[seed % len(SHAPES)], seed), score, seed)
        self.per_stage, self.epochs, self.constants = per_stage, epochs, self.world.terms.constants
        self.n, self.number = self.constants.sites, 0  # number: of the round
        self.replies: list[tuple[int, bytes]] = []
        self.kind, self.victim = "", -1  # of the round, and whom it befalls

    def run(self) -> None:
        try:
            number = 0
            for _ in range(self.epochs):
                number += 1
                if not self.open(number, self.r.choice(ENDINGS)):
                    number += 1
                    self.open(number, "")
                for kind in (self.r.choice(("", "spoilt")), self.r.choice(ROUNDS)):
                    self.round(kind)
                self.fetch()
                self.out_of_turn()
                if self.r.random() < 0.4:
                    self.suspect()
                self.weigh(self.world.adder)
                self.weigh(self.world.cipher().worker)
        finally:
            self.world.close()

    # --- an epoch

    def open(self, number: int, ending: str) -> bool:
        """Open an epoch, or let it fail in one of its ways; return whether there is one."""
        world, everyone = self.world, range(self.n)
        if number > 1 and self.r.random() < 0.5:
            world.host(0).settled = None  # its key files are lost: it must not be the steward of a study begun
        opening = world.blind_opening(number, self.number + 1)
        try:
            self.hasty(opening.outcome)
            for _ in range(2):
                self.stage(opening)
            self.too_early(opening)
            asked = 0
            while type(opening._state).__name__ == "_AskingSteward":
                silent = everyone if ending == "no steward" or (ending == "late" and asked == 0) else ()
                self.stage(opening, lost=silent, answer=self.garbage if ending == "bad packages" else None)
                asked += 1
            self.stage(opening, lost=everyone if ending == "silent" else ())
        except (TooFewSurvivors, StewardMissing) as error:
            self.score.names[type(error).__name__] += 1
            self.hasty(opening.close_stage, opening.outcome)
            self.replay(opening)
            return False
        world.blind = opening.outcome()
        world.epoch = world.blind.epoch
        self.hasty(opening.close_stage)
        self.replay(opening)
        self.out_of_turn()
        return True

    def hasty(self, *calls: Callable[[], object]) -> None:
        """A driver that asks too early or too late is refused by name."""
        for call in calls:
            try:
                call()
                self.fail(f"{call} was answered out of turn")
            except UnexpectedState as error:
                self.named(type(error).__name__, repr(error))

    def too_early(self, opening: Any) -> None:
        """R0 of a coordinator that did not wait for the epoch's key."""
        world, epoch = self.world, opening._state.epoch
        for site in epoch.members:
            fresh, tag, config = self.r.randbytes(32), bytes(32), config_hash(self.constants)
            plain = encode_body(Announcement(epoch.members, fresh, config, tag, hashlib.sha256(b"").digest()))
            address = Address(world.terms.session, epoch.epoch, self.number + 1, 0, COORDINATOR_ID, site, fresh)
            frame = sign_frame(address.header(T.R0, len(plain)), plain, world.charter.coordinator_key)
            self.score.before_sealing += 1
            self.score.kinds["R0 too early"] += 1
            self.deliver_to_site(None, "R0", site, frame, None, NOISE, b"")

    def garbage(self, site: int, letter: Opened) -> bytes | None:
        """A steward's answer whose packages nobody can open."""
        if letter.kind is not T.E3_REPLY:
            return None
        packages = tuple(self.r.randbytes(len(one)) for one in letter.body().packages)
        return letter.sealed(encode_body(msgspec.structs.replace(letter.body(), packages=packages)))

    def out_of_turn(self) -> None:
        """Requests about keys to sites that have theirs, and one of another epoch: each is refused."""
        world = self.world
        assert world.blind is not None
        for site in range(self.n):
            for kind in (T.E3, T.PACKAGE, T.R6):
                known = self.donors.get(kind.name, [])
                if not known or (kind is T.PACKAGE and decode_body(REGISTRY[kind].body, known[-1]).steward == site):
                    continue
                number, plain = world.blind.epoch.epoch + (kind is T.R6), self.r.choice(known)
                address = Address(world.terms.session, number, 1, 0, COORDINATOR_ID, SiteId(site), EMPTY_32)
                frame = sign_frame(address.header(kind, len(plain)), plain, world.charter.coordinator_key)
                self.score.before_sealing += 1
                self.score.kinds["out of turn"] += 1
                self.deliver_to_site(None, kind.name, site, frame, None, NOISE, b"")

    # --- a round

    def round(self, kind: str, trials: int | None = None, target: int | None = None) -> None:
        """One round, with what its kind says happening in it."""
        world, r = self.world, self.r
        assert world.blind is not None
        self.number += 1
        members = world.blind.epoch.members
        self.kind, self.victim = kind, r.choice(members) if target is None else target
        if kind == "behind":
            world.host(r.choice(members[1:])).model = b"a policy that nobody else has"
        tag = world.host(members[0]).held_tag()
        lacking = [site for site in members if world.host(site).held_tag() != tag]
        given = [site for site in lacking if kind != "behind" or r.random() < 0.7]
        machine = world.begin(self.number, {site: world.host(members[0]).parcel() for site in given})
        world.bodies.clear()
        self.try_parcels(machine, given)
        self.hasty(machine.outcome, machine.publish)
        late = "R0" if self.constants.protection == "ckks" else "R1P"
        try:
            for stage in STAGES[self.constants.protection]:
                self.stage(machine, lost=(self.victim,) if (kind, stage) == ("lost", late) else (), trials=trials)
        except RoundAborted as error:
            self.score.names[type(error).__name__] += 1
            if kind != "lost" and not machine.refusals:
                self.fail(f"a round ({kind or 'nothing in it'}) of sites that all answered was given up: {error!r}")
            self.replay(machine)
            self.level()
            return
        if list(machine.requests()):
            self.fail("a sum that nobody has published was sent")
        machine.publish()
        self.stage(machine, trials=trials)
        if kind == "taken over":
            refuse(world.adder, machine._view.encrypted, r)  # the next round begins with it
        host = world.host(self.victim)
        host.broken, host.has_full_log = (), False
        self.level()

    def level(self) -> None:
        """All sites hold one policy again, as after the parcel of the next R0; now and then one still lacks it."""
        for host in self.world.hosts:
            if self.r.random() < 0.8:
                host.model = self.world.hosts[0].model

    def spoilt(self, machine: Any, site: int, letter: Opened) -> bytes:
        """R5C whose ciphertexts decrypt to no sum of so many sites."""
        clear, encoded = listed_of(letter.plain)
        body = decode_body(REGISTRY[T.R5C].body, encoded)
        chunks = apart(clear)
        slots = self.world.slots_of(chunks[0])
        assert slots is not None
        slots = slots.copy()
        slots[0] += 1
        clear = together([self.world.chunk_of(slots), *chunks[1:]])
        return letter.sealed(resigned(self.world, machine, site, body, clear, body.correction, list(body.survivors)))

    def try_parcels(self, machine: Any, lacking: Iterable[int]) -> None:
        """R0 with the sealed policy changed: by the coordinator who carries it, or by a site that seals another."""
        world, view, r = self.world, machine._view, self.r
        for site in lacking:
            genuine, writer = view.models[site], world.host(0)
            sound = frozenset({ANSWERED}) if has_trusted_key(world, site) else NOISE
            for _ in range(max(1, self.per_stage // 3)):
                choice, may = r.randrange(6), NOISE
                if choice == 0:
                    at = r.randrange(len(genuine))
                    parcel = genuine[:at] + bytes([genuine[at] ^ 1 << r.randrange(8)]) + genuine[at + 1 :]
                elif choice == 1:
                    parcel = r.choice((genuine[:-1], genuine + b"\x00", r.randbytes(200), b"\x94" + bytes(50)))
                elif choice == 2:
                    parcel = writer.parcel(model=b"another")  # under the tag that is wanted
                elif choice == 3:
                    parcel = writer.parcel(secret=r.randbytes(32))
                elif choice == 4:
                    parcel = writer.parcel(session=r.randbytes(32))
                else:
                    parcel, may = writer.parcel(step=r.randrange(9)), sound
                frame = dict(announcements(replace(view, models={site: parcel}), [SiteId(site)]))[SiteId(site)]
                self.score.before_sealing += 1
                self.score.kinds["R0 parcel"] += 1
                self.deliver_to_site(machine, "R0", site, frame, None, may, b"")

    def suspect(self) -> None:
        """Three sums that cannot be followed: then a site refuses R0 until the next epoch."""
        world = self.world
        assert world.blind is not None
        site = world.blind.epoch.members[-1]
        for _ in range(3):
            self.round("spoilt", trials=0, target=site)
        self.number += 1
        machine = world.begin(self.number, {})
        frame = dict(machine.requests())[site]
        self.score.before_sealing += 1
        self.score.kinds["R0 under a suspect key"] += 1
        self.deliver_to_site(machine, "R0", site, frame, None, NOISE, b"")

    def fetch(self) -> None:
        """R6, of each site in turn until one hands the policy over."""
        world = self.world
        assert world.blind is not None
        members = list(world.blind.epoch.members)
        for lost in ((), (members[0],), members):
            fetching = world.fetching(world.host(members[0]).held_tag(), members)
            while any(True for _ in fetching.requests()):
                self.stage(fetching, lost=lost, trials=self.per_stage // 2)

    # --- a stage

    def stage(
        self,
        machine: Any,
        lost: Iterable[int] = (),
        trials: int | None = None,
        answer: Bend | None = None,
    ) -> None:
        """Exchange a stage's messages, some sites' in many forms. answer: what is sent in place of a site's."""
        world, count = self.world, self.per_stage if trials is None else trials
        requests = list(machine.requests())
        target = self.r.choice(requests)[0] if requests else -1
        self.replay(machine)
        for site, request in requests:
            letter = blind_opened(world, machine, site, request)
            self._remember(letter)
            slowly = count // 2 if letter.kind in STARTING_WORKERS else count
            for _ in range(slowly if site == target else 0):
                self.try_site(machine, site, request, letter)
            self.request = request
            if letter.kind is T.R5C and site == self.victim:
                self.befall_site(machine, request, letter)
            before = world.host(site).model
            reply = world.sites[site].handle(self.request)
            if letter.kind is T.R5C and (site != self.victim or self.kind not in _HINDERING):
                self.judge_sum(machine, site, reply, before)
            if reply[4] == T.REFUSAL:
                with suppress(PeerError):
                    machine.receive(site, reply)
                continue
            back = blind_opened(world, machine, site, reply)
            self._remember(back)
            if back.kind is T.R2C:
                world.note(site, back.plain)
            self.replies.append((site, reply))
            if site in lost:
                continue
            for _ in range(count if site == target else 0):
                self.try_coordinator(machine, site, reply, back)
            if back.kind is T.R2C:
                self.befall_coordinator(machine, site, reply, back)
            sent = (answer(site, back) if answer is not None else None) or reply
            try:
                machine.receive(site, sent)
            except PeerError as error:
                self.fail(f"{back.kind.name}: site {site}, which answered as it should, is out: {error!r}")
                continue
            self.deliver_again(machine, site, sent, frozenset({ANSWERED}))
        if not set(getattr(machine, "excluded", ())) <= set(range(self.n)):
            self.fail("a site that does not exist is out")
        machine.close_stage()

    # --- what befalls workers

    def befall_site(self, machine: Any, request: bytes, letter: Opened) -> None:
        """What the round's kind does to the site that it befalls, before it is sent the sum."""
        worker = self.world.cipher().worker
        host, site = self.world.host(self.victim), self.victim
        for broken in BROKEN if self.kind == "broken" else ():
            host.broken, host.has_full_log = broken, self.r.random() < 0.5
            self.score.kinds["R5C at a site whose disk fails"] += 1
            self.deliver_to_site(machine, "R5C", site, request, letter, frozenset({KEPT}), letter.plain)
        values = followed_values(self.world, letter.plain)
        may = frozenset({KEPT, FOLLOWED})  # if the first answer gives it away, an honest one is in its place
        for _ in range(8 if self.kind == "taken over" else 0):
            self.score.kinds["R5C at a site whose worker is taken over"] += 1
            with taken_over(worker, self.r.randrange(2**32)):
                self.deliver_to_site(machine, "R5C", site, request, letter, may, letter.plain, values)

        if self.kind == "spoilt":
            self.request = self.spoilt(machine, site, letter)
        if self.kind == "dead worker":
            end(worker)

    def befall_coordinator(self, machine: Any, site: int, reply: bytes, letter: Opened) -> None:
        """The same at the coordinator, before it adds a site's ciphertexts."""
        adder, total = self.world.adder, machine._view.encrypted
        if self.kind == "dead worker":
            end(adder)  # with the sum that it holds, or idle before a round's first ciphertexts
        for trial in range(6 if self.kind == "taken over" and site == self.victim else 0):
            self.score.kinds["R2C at a worker that is taken over or hangs"] += 1
            # one that hangs is replaced; one that was taken over may cost the round
            may, self.may_abort = frozenset({ANSWERED, REFUSED} if trial else {ANSWERED}), trial > 0
            with taken_over(adder, self.r.randrange(2**32)) if trial else hanging(adder):
                adder.holds = total if self.r.random() < 0.7 else None
                self.deliver_to_coordinator(machine, "R2C", site, reply, letter, may, letter.plain)
        self.may_abort = False
        if self.kind == "taken over" and self.r.random() < 0.5:
            refuse(adder, total, self.r)

    def _remember(self, letter: Opened) -> None:
        known = self.donors.setdefault(letter.kind.name, [])
        known.append(letter.plain)
        del known[:-8]

    def replay(self, machine: Any) -> None:
        """The last answers once more, in whatever stage the machine is: none may be taken for this stage's."""
        for site, reply in self.replies[-8:]:
            self.deliver_again(machine, site, reply, frozenset({REFUSED, ANSWERED}))

    def deliver_again(self, machine: Any, site: int, reply: bytes, may: frozenset[str]) -> None:
        """The very bytes of an answer that is in already: no mutation, and nothing changes."""
        self.score.kinds["replay"] += 1
        self.score.messages -= 1
        self.deliver_to_coordinator(machine, "replay", site, reply, None, may, b"")


def run_blind_mutations(first_seed: int, messages: int, per_stage: int = PER_STAGE, epochs: int = 2) -> BlindScore:
    """Try at least this many mutated messages, in worlds with seeds from first_seed on."""
    score, seed = BlindScore(), first_seed
    with remembered_signatures():
        while score.messages < messages:
            is_measured = (seed - first_seed) % _MEASURED_WORLDS == 1  # tables are filled by the first one
            if is_measured:
                tracemalloc.start(1)
            try:
                BlindBench(seed, score, per_stage, epochs).run()
            finally:
                tracemalloc.stop()
            seed += 1
    return score


__all__ = ["BlindBench", "BlindScore", "run_blind_mutations"]
