"""A site's half of protocol v1: bytes in, bytes out, one table of (state, message) -> handler.

Speaks as a site. No clock, socket, file or random source in here: all are passed in. A frame passes length, header,
state, signature or tag, then decoding, in this order, before a handler sees it; one that fails leaves the state as it
was, so that noise on the wire ends nothing. What an authenticated message gets wrong ends the attempt and drops its
secrets. Every refusal leaves as a signed code of one size; its text stays in the site's log.
Source: docs/protocol.md, sections 5 and 11 to 13.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secure_frl.errors import AlreadyAnswered, BadSignature, InvalidParameter, MalformedMessage, UnexpectedMessage
from secure_frl.masking.contexts import check_constants, config_hash, is_enrolled, members_hash, sizes_of
from secure_frl.masking.prg import mask_adder
from secure_frl.masking.refusals import refusal_name, refuse
from secure_frl.masking.site_attempt import (
    confirm_set,
    deal_update,
    join_attempt,
    masked_frame,
    return_shares,
    send_input,
)
from secure_frl.masking.site_epoch import open_epoch, take_list, take_nonces
from secure_frl.masking.site_memory import (
    Answer,
    Departed,
    EpochOpen,
    InputSent,
    KeysAdvertised,
    NonceShown,
    SetConfirmed,
    SharesSent,
    SiteParty,
    SiteState,
    SumAwaited,
    WithoutEpoch,
    left,
)
from secure_frl.masking.site_sum import take_sum
from secure_frl.secure_sum import COORDINATOR_ID, RandomSource, RoundHost, SiteId, StageRegister, SumTerms
from secure_frl.wire.envelope import EMPTY_32, HEADER_BYTES, Header, cut, read_header, unseal_frame, verify_frame
from secure_frl.wire.messages import KEYED, MessageType, decode_body
from secure_frl.wire.registry import REGISTRY, check_length

Log = Callable[[str, str], None]  # (error's name, its text); stays at this site

T = MessageType
_Handler = Callable[..., Answer]  # (party, state, header, body) for the state's own type; R0 and R1' also what follows

ATTEMPTS = (SharesSent, InputSent, SetConfirmed, SumAwaited, Departed)
TABLE: dict[tuple[type[Any], MessageType], _Handler] = {  # Any: one handler's state type differs from another's
    **{(state, T.E0): open_epoch for state in (WithoutEpoch, KeysAdvertised, NonceShown, EpochOpen, *ATTEMPTS)},
    (KeysAdvertised, T.E1): take_list,
    (NonceShown, T.E2): take_nonces,
    **{(state, T.R0): partial(join_attempt, begin=deal_update) for state in (EpochOpen, *ATTEMPTS)},
    (SharesSent, T.R1P): partial(send_input, frame_of=masked_frame),
    (InputSent, T.R3A): confirm_set,
    (SetConfirmed, T.R3C): return_shares,
    **{(state, T.R5): take_sum for state in ATTEMPTS},
}
_ANSWERED: dict[type[Any], frozenset[MessageType]] = {  # stages of the open attempt that have had their one answer
    InputSent: frozenset({T.R1P}),
    SetConfirmed: frozenset({T.R1P, T.R3A}),
    SumAwaited: frozenset({T.R1P, T.R3A, T.R3C}),
    Departed: frozenset({T.R1P, T.R3A, T.R3C}),
}
_OUTSIDE_ROUNDS = (T.E0, T.E1, T.E2, T.E3, T.PACKAGE, T.R6)
_INSIDE_ATTEMPTS = frozenset({T.R1P, T.R3A, T.R3C, T.R5, T.R5C})
_PUBLICATIONS = (T.R5, T.R5C)


@dataclass(frozen=True, slots=True)
class _Sent:
    """The one answer to a request, repeated for identical bytes while it is in memory."""

    request_digest: bytes
    reply: bytes


class SiteProtocol:
    """One site under one charter. Not for use by two threads at once."""

    table: ClassVar[Mapping[tuple[type[Any], MessageType], _Handler]] = TABLE

    def __init__(
        self,
        terms: SumTerms,
        me: SiteId,
        signing_key: Ed25519PrivateKey,
        register: StageRegister,
        random: RandomSource,
        clock: Callable[[], float],
        host: RoundHost,
        log: Log = lambda name, text: None,
    ) -> None:
        """clock: Unix seconds. Raises CharterRefused, BitBudget, or InvalidParameter for a key that is not `me`'s."""
        check_constants(terms.constants)
        if not is_enrolled(terms) or not 0 <= me < len(terms.site_public_keys):
            raise InvalidParameter(
                f"expected {terms.constants.sites} sites with {me} among them. Read the charter again."
            )
        if signing_key.public_key().public_bytes_raw() != terms.site_public_keys[me]:
            raise InvalidParameter(
                f"expected the signing key enrolled for site {me}, got another. Load that site's key."
            )
        self._party = SiteParty(
            terms,
            me,
            signing_key,
            register,
            random,
            clock,
            host,
            mask_adder(terms.constants),
            config_hash(terms.constants),
        )
        self._sizes, self._requests = sizes_of(terms), frozenset(kind for _, kind in self.table)
        self._state: SiteState = WithoutEpoch()
        self._sent: dict[MessageType, _Sent] = {}
        self._log = log

    def __repr__(self) -> str:
        return f"SiteProtocol(site={self._party.me}, state={self.state_name})"

    @property
    def state_name(self) -> str:
        """Return the name of the present state."""
        return type(self._state).__name__

    def handle(self, frame: bytes) -> bytes:
        """Answer one frame with a reply or a signed refusal. Raises nothing."""
        try:
            answer = self._answer(frame)
        except Exception as error:  # the edge of the site: whatever failed, only a fixed code may leave
            answer = error
        if isinstance(answer, bytes):
            return answer
        name = refusal_name(answer)
        try:
            self._log(type(answer).__name__, str(answer))
        finally:
            # The error's traceback holds this frame and the state that failed, with its secrets: as a local of this
            # frame it would be a cycle, and they would live until the cycle collector happens to run.
            del answer
        return refuse(frame, name, self._party.terms.session, self._party.me, self._party.signing_key)

    def _answer(self, frame: bytes) -> bytes | Exception:
        state = self._state
        header = read_header(frame)
        check_length(header.type, len(frame), self._sizes)
        message_type = MessageType(header.type)
        digest = hashlib.sha256(frame).digest()
        sent = self._sent.get(message_type)
        if sent is not None and sent.request_digest == digest:
            return sent.reply
        self._check_header(header)
        handler = self.table.get((type(state), message_type))
        if handler is None:
            raise self._unexpected(message_type, header)
        body, rest = self._open(message_type, header, frame)
        try:
            self._state, answer = handler(self._party, state, header, body, *rest)
        except Exception:  # whatever failed is raised again; only the attempt must end first
            self._after_failure(state, message_type)
            raise
        if self._state is not state:
            self._forget_replies(message_type)
        if isinstance(answer, bytes):
            self._sent[message_type] = _Sent(digest, answer)
        return answer

    def _check_header(self, header: Header) -> None:
        """Check who speaks to whom, and inside an attempt which one. Raises MalformedMessage or UnexpectedMessage."""
        expected = (self._party.terms.session, COORDINATOR_ID, self._party.me)
        is_sound = header.key_id == EMPTY_32 or header.type in KEYED  # which key, the handler of its type looks
        is_request = header.type in self._requests
        if (header.session, header.sender, header.receiver) != expected or not is_sound or not is_request:
            raise UnexpectedMessage("expected a request of this session's coordinator to this site. Drop it.")
        state = self._state
        if header.type in _INSIDE_ATTEMPTS and isinstance(state, ATTEMPTS):
            context, attempt = state.attempt.context, state.attempt
            fresh = attempt.fresh_coordinator if header.type in _PUBLICATIONS else attempt.fresh_site
            named = (context.epoch, context.round, context.attempt, fresh)
            if (header.epoch, header.round, header.attempt, header.fresh) != named:
                raise self._unexpected(MessageType(header.type), header)

    def _unexpected(self, message_type: MessageType, header: Header) -> Exception:
        """Return AlreadyAnswered for what has had its answer, also before a restart, else UnexpectedMessage."""
        state, last = self._state, self._party.register.last_stage()
        if isinstance(state, ATTEMPTS):
            context = state.attempt.context
            pair = (context.round, context.attempt)
            is_past = (header.round, header.attempt) < pair or (
                (header.round, header.attempt) == pair and message_type in _ANSWERED.get(type(state), frozenset())
            )
        elif message_type in _OUTSIDE_ROUNDS:
            is_past = header.epoch <= self._party.register.last_epoch()
        else:
            is_past = last is not None and (header.round, header.attempt) <= last[:2]
        if is_past:
            return AlreadyAnswered(
                f"expected a stage that this site has not answered, got {message_type.name} of round {header.round}, "
                f"attempt {header.attempt}. Begin a later round; after a restart, a new epoch."
            )
        return UnexpectedMessage(
            f"expected another message in state {self.state_name}, got {message_type.name}. Drop it."
        )

    def _open(self, message_type: MessageType, header: Header, frame: bytes) -> tuple[Any, tuple[bytes, ...]]:
        """Return the body, authenticated over the bytes received, with what follows it. Any: the type's own body."""
        spec = REGISTRY[message_type]
        body_type = spec.body
        if body_type is None:  # only sites send raw vectors
            raise UnexpectedMessage(f"expected a request, got {message_type.name}. Drop it.")
        body = cut(frame, header, spec.trailer_bytes, open_ended=spec.is_open_ended)
        if len(body) > spec.limit(self._sizes):
            raise MalformedMessage(f"expected a smaller body for {spec.name}, got {len(body)} bytes. Drop it.")
        rest = frame[HEADER_BYTES + len(body) + spec.trailer_bytes :]
        if len(rest) > spec.rest(self._sizes):
            raise MalformedMessage(f"expected less behind {spec.name}, got {len(rest)} bytes. Drop it.")
        if spec.protection.startswith("signed"):
            verify_frame(frame, body, self._party.terms.coordinator_public_key)
            return decode_body(body_type, body), (rest,) if spec.is_open_ended else ()
        if not spec.is_open_ended:
            return decode_body(body_type, unseal_frame(frame, self._link(message_type))), ()
        # the tag covers it, so nothing of what follows is read before
        digest = members_hash(rest) if message_type is T.R1P else hashlib.sha256(rest).digest()
        plain = unseal_frame(frame, self._link(message_type), len(rest), digest)
        return decode_body(body_type, plain), (rest, digest)

    def _link(self, message_type: MessageType) -> bytes:
        """Return the key of a sealed request in the present state."""
        state = self._state
        if isinstance(state, InputSent | SetConfirmed) and message_type not in _PUBLICATIONS:
            return state.attempt.link(message_type, state.ctx2)
        if isinstance(state, ATTEMPTS):
            return state.attempt.link(message_type, state.attempt.ctx1)
        raise BadSignature("expected a message of an open attempt, got one without a key. Drop it.")

    def _after_failure(self, state: SiteState, message_type: MessageType) -> None:
        """End what a refused, authenticated message ends: nothing before R1, the attempt from R1' on."""
        if message_type in (*_OUTSIDE_ROUNDS, T.R0):
            return
        self._state, outcome = left(state)  # first, so that nothing the host does can keep the attempt alive
        if message_type in _PUBLICATIONS and isinstance(state, ATTEMPTS):
            self._state = EpochOpen(state.attempt.view)
            outcome = outcome or "unknown"  # R4 has left: what others made of the sum is not known here
        self._sent.clear()
        if outcome:
            self._party.host.close(outcome)

    def _forget_replies(self, message_type: MessageType) -> None:
        """Drop the answers of an older epoch or attempt when a new one begins, or when this one is left."""
        if message_type is T.E0 or isinstance(self._state, Departed):
            self._sent.clear()
        elif message_type is T.R0:
            self._sent = {kind: sent for kind, sent in self._sent.items() if kind in _OUTSIDE_ROUNDS}
