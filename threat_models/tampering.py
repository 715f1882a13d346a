"""Wires that are tampered with, around honest parties: false frames come before each true one, both ways.

A site meets them at its `handle`; the coordinator at its machine's `receive`. A false frame puts its sender out of the
coordinator's stage; here it is let back in, so that one round carries many trials. What counts as accepted is what an
honest party did about it: a site answered with anything but a refusal, other than the answer that these same bytes had
before; the coordinator took it into its stage.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from secure_frl.encoding.ring import word_type
from secure_frl.errors import PeerError, RoundAborted
from secure_frl.federation.simulation import RunningSite
from secure_frl.federation.site import StudySite
from secure_frl.masking.coordinator_memory import AskingInputs
from secure_frl.masking.coordinator_states import MaskedSum
from secure_frl.masking.refusals import CODES
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.secure_sum import Addressed, RingVector, RoundContext, SiteId
from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES, Header, cut, mac_frame, read_header
from secure_frl.wire.messages import MessageType, RefusalCode, decode_body
from secure_frl.wire.signatures import SIGNATURE_BYTES
from threat_models.adversaries import wire
from threat_models.adversaries.wire import Bent, FrameBender
from threat_models.lies import Lies, address_of

REPEATED = "answered as before"


@dataclass(slots=True)
class Tally:
    """What became of false frames."""

    tried: Counter[str] = field(default_factory=Counter)  # by family
    accepted: Counter[str] = field(default_factory=Counter)
    answers: dict[str, Counter[str]] = field(default_factory=dict)  # by family: names of errors

    def note(self, family: str, answer: str) -> None:
        """Count one trial. answer: the error's name; empty for a frame that was accepted."""
        self.tried[family] += 1
        self.accepted[family] += not answer
        self.answers.setdefault(family, Counter())[answer or "accepted"] += 1


@dataclass(slots=True, eq=False)
class Tampering:
    """What goes on in one run's wires."""

    bender: FrameBender
    tally: Tally
    lies: Lies | None = None  # of the coordinator; known once there is one
    overflow_in: int = 0  # the round in which one site's vector leaves the range

    def of_site(self, site: SiteId, request: bytes, others: Iterable[int]) -> Iterator[Bent]:
        """Yield what a site is given before a true request."""
        yield from self.bender.bent("to_site", site, request, list(others))
        if self.lies is not None:
            yield from self.lies.about(site, request)


# --- sites -----------------------------------------------------------------------------------------------------------


class TamperedSite:
    """A site behind a wire: false requests reach it before each true one."""

    def __init__(self, site: SiteId, honest: RunningSite, tampering: Tampering, sites: int) -> None:
        self._site, self._honest, self._tampering, self._others = site, honest, tampering, range(sites)
        self._answered: dict[bytes, bytes] = {}  # SHA-256 of a true request -> its answer

    def handle(self, request: bytes) -> bytes:
        """Answer a true request after false ones, then once more."""
        tampering = self._tampering
        for family, frame in tampering.of_site(self._site, request, self._others):
            tampering.tally.note(family, self._refusal(frame))
        reply = self._honest.handle(request)
        self._answered[hashlib.sha256(request).digest()] = reply
        tampering.bender.note("to_site", self._site, request)
        tampering.bender.note("to_coordinator", self._site, reply)
        tampering.tally.note(wire.DUPLICATED, self._refusal(request))
        return reply

    def _refusal(self, frame: bytes) -> str:
        reply = self._honest.handle(frame)
        return REPEATED if reply == self._answered.get(hashlib.sha256(frame).digest()) else refusal_in(reply)

    def shut_down(self, *, export: bool = False) -> None:
        """Close the site's books."""
        self._honest.shut_down(export=export)


def refusal_in(reply: bytes) -> str:
    """Return the name in a refusal; empty for any other answer."""
    header = read_header(reply)
    if header.type != MessageType.REFUSAL:
        return ""
    return CODES[decode_body(RefusalCode, cut(reply, header, SIGNATURE_BYTES)).code]


class Overflowing(StudySite):
    """A site whose vector, in one round, is the greatest that its words can hold."""

    overflow_in = 0  # the round; none

    def contribute(self, context: RoundContext) -> RingVector:
        """Return the site's own vector, or one that leaves the range of any sum."""
        vector = super().contribute(context)
        if context.round == self.overflow_in:
            vector.words[2:-2] = (1 << (vector.modulus_bits - 1)) - 1
        return vector


class ForgetfulSite(StudySite):
    """The control of replays: a site without its durable register of answers."""

    def _machine(self, **given: object) -> SiteProtocol:
        return super()._machine(**{**given, "register": _NoRegister()})


class _NoRegister:
    def last_epoch(self) -> int:
        return 0

    def note_epoch(self, epoch: int) -> None:
        pass

    def last_stage(self) -> tuple[int, int, str] | None:
        return None

    def record(self, round_number: int, attempt: int, stage: str, digest: bytes) -> None:
        pass


# --- the coordinator -------------------------------------------------------------------------------------------------


class TamperedSum(MaskedSum):
    """An honest coordinator's attempt, behind a wire."""

    def behind(self, tampering: Tampering) -> TamperedSum:
        """Bend what comes in from now on."""
        self._tampering = tampering
        return self

    def requests(self) -> Iterator[Addressed]:
        """Yield the stage's frames; lies under seal are told to some sites before them."""
        for site, frame in super().requests():
            if self._tampering.lies is not None:
                self._tampering.lies.prepare_sealed(self._state, site, frame)
            yield site, frame

    def receive(self, site: SiteId, reply: bytes) -> None:
        """Fold a true reply in after false ones, then once more."""
        tally = self._tampering.tally
        for family, frame in self._false(site, reply):
            tally.note(family, self._refusal(site, frame))
        before = self._taken()
        super().receive(site, reply)
        if (after := self._taken()) != before:
            super().receive(site, reply)
            tally.note(wire.DUPLICATED, REPEATED if self._taken() == after else "")

    def close_stage(self) -> None:
        """End the stage; a site's overflow must end the round."""
        was_asking = self.state_name == "AskingShares"
        is_tried = was_asking and self.context.round == self._tampering.overflow_in
        try:
            super().close_stage()
        except RoundAborted as error:
            if is_tried:
                self._tampering.tally.note(wire.OVERFLOW, type(error).__name__)
            raise
        if is_tried:
            self._tampering.tally.note(wire.OVERFLOW, "")

    def _false(self, site: SiteId, reply: bytes) -> Iterator[Bent]:
        yield from self._tampering.bender.bent("to_coordinator", site, reply, self.context.cohort)
        state, header, width = self._state, read_header(reply), self._view.terms.constants.modulus_bits
        if isinstance(state, AskingInputs) and header.type == MessageType.R2 and width not in (32, 64):
            words = np.frombuffer(reply[HEADER_BYTES:-TAG_BYTES], word_type(width)).copy()
            words[len(words) // 2] |= np.array(1 << width, words.dtype)  # beyond the ring, under a tag that fits
            link = self._view.link(site, MessageType.R2, state.ctx2, header.fresh)
            yield wire.GARBAGE, mac_frame(address_of(header), MessageType.R2, words.data.cast("B"), link)

    def _refusal(self, site: SiteId, frame: bytes) -> str:
        was_out, before = site in self.excluded, self._taken()
        try:
            super().receive(site, frame)
        except PeerError as error:
            if not was_out:
                self._letters._excluded.pop(site, None)  # as if this frame had come alone
            return type(error).__name__
        return REPEATED if self._taken() == before else ""

    def _taken(self) -> tuple[int, bytes]:
        """Return what the stage has taken in: how many answers, and which sum of inputs."""
        words = getattr(self._state, "accumulator", None)
        digest = b"" if words is None else hashlib.sha256(words.tobytes()).digest()
        return len(self._letters.answered), digest


def _take_untagged(state: AskingInputs, site: SiteId, header: Header, frame: bytes) -> None:
    words = np.frombuffer(cut(frame, header, TAG_BYTES), word_type(state.view.terms.constants.modulus_bits))
    np.add(state.accumulator, words, out=state.accumulator)
    state.added.add(site)


class UntaggedSum(TamperedSum):
    """The control of flipped vectors: a coordinator that looks at no tag of R2."""

    table: ClassVar = {**MaskedSum.table, (AskingInputs, MessageType.R2): _take_untagged}
