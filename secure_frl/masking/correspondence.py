"""The coordinator's letters of one stage: who was asked, who has answered, who is out, and why.

A site can end its own part, never the stage: its error excludes that site and the others go on. One accepted answer a
site and stage; the same bytes again are harmless, also after their stage; other bytes are refused by name and change
nothing. A frame of an earlier attempt, round or epoch is dropped and excludes nobody: it was true once, and who
delivers it late would otherwise choose who is in the sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from types import MappingProxyType

from secure_frl.errors import LateMessage, PeerError, Refused, UnexpectedMessage
from secure_frl.masking.contexts import sizes_of
from secure_frl.masking.refusals import read_refusal
from secure_frl.secure_sum import COORDINATOR_ID, SiteId, SumTerms
from secure_frl.wire.envelope import EMPTY_32, HEADER_BYTES, TAG_BYTES, Header, mac_digest, read_header
from secure_frl.wire.messages import KEYED, MessageType
from secure_frl.wire.registry import check_length

_INPUTS = frozenset({MessageType.R2, MessageType.R2C})
_TYPE_AT = 4  # of a header, behind the magic


class Correspondence:
    """Requests and replies of the stage in progress."""

    def __init__(self, terms: SumTerms, numbers: tuple[int, int, int], again: Callable[[SiteId], bytes]) -> None:
        """numbers: epoch, round and attempt that every reply must repeat.

        again: makes a site's request of this stage once more, the same bytes. A refusal is bound to their SHA-256;
        refusals are rare, so no request is hashed before one comes: U2 alone has 0.8 MB at 10,000 sites.
        """
        self._terms = terms
        self._sizes = sizes_of(terms)
        self._numbers = numbers
        self._asked: frozenset[SiteId] = frozenset()
        self._again = again
        self._sent: set[SiteId] = set()
        self._accepted: dict[SiteId, bytes] = {}  # SHA-256 of what was accepted
        self._earlier: set[tuple[SiteId, bytes]] = set()  # the same of the stages before
        self._is_open_to_excluded = False
        self._excluded: dict[SiteId, str] = {}
        self._refusals: dict[SiteId, str] = {}
        self.excluded = MappingProxyType(self._excluded)
        self.refusals = MappingProxyType(self._refusals)

    def begin_stage(self, asked: Iterable[SiteId]) -> None:
        """Start over with the sites that this stage asks."""
        self._asked = frozenset(asked)
        self._sent.clear()
        self._earlier.update(self._accepted.items())
        self._accepted.clear()

    def begin_publication(self, asked: Iterable[SiteId]) -> None:
        """Ask also sites that are out: they may learn the sum, and what they answer changes nothing."""
        self.begin_stage(asked)
        self._is_open_to_excluded = True

    @property
    def awaiting(self) -> tuple[SiteId, ...]:
        """Return the sites that were asked, have not answered and are not out, ascending."""
        return tuple(site for site in sorted(self._asked) if self._is_awaited(site))

    @property
    def answered(self) -> frozenset[SiteId]:
        """Return the sites whose answer of this stage is in, and which are not out."""
        return frozenset(self._accepted) - frozenset(self._excluded)

    def _is_awaited(self, site: SiteId) -> bool:
        return (
            site in self._asked
            and site not in self._accepted
            and (self._is_open_to_excluded or site not in self._excluded)
        )

    def sent(self, site: SiteId, frame: bytes) -> bytes:
        """Note a request and return it."""
        self._sent.add(site)
        return frame

    def is_repetition(self, site: SiteId, frame: bytes) -> bool:
        """Return whether this answer is in already. Raises UnexpectedMessage for another one, or from nobody asked.

        An input that repeats header and tag is one only if its tag fits: that is for the caller, who has the key.
        """
        digest = _digest(frame)
        if self._accepted.get(site) == digest or (site, digest) in self._earlier:
            return True
        if not self._is_awaited(site):
            raise UnexpectedMessage(f"expected one answer of each site asked, got another from site {site}. Drop it.")
        return False

    def accept(self, site: SiteId, frame: bytes) -> None:
        """Note that this answer is in."""
        self._accepted[site] = _digest(frame)

    def exclude(self, site: SiteId, error: PeerError) -> None:
        """Note that a site is out, under its first error's name; a refusal under the name of its code.

        A late message leaves its sender in.
        """
        if isinstance(error, LateMessage):
            return
        self._excluded.setdefault(site, error.code if isinstance(error, Refused) else type(error).__name__)

    def check_header(self, site: SiteId, frame: bytes) -> Header:
        """Return the header of a reply by `site` of a size that its type may have.

        Raises MalformedMessage, UnexpectedMessage or LateMessage, and Refused when the reply is a valid refusal of
        our request.
        """
        header = read_header(frame)
        check_length(header.type, len(frame), self._sizes)
        is_sound = header.key_id == EMPTY_32 or header.type in KEYED  # which key, the handler of its type looks
        parties = (header.session, header.sender, header.receiver)
        if parties != (self._terms.session, site, COORDINATOR_ID) or not is_sound:
            raise UnexpectedMessage(f"expected a frame of this session by site {site}, got another. Drop it.")
        numbers = (header.epoch, header.round, header.attempt)
        if numbers != self._numbers:
            kind = LateMessage if numbers < self._numbers else UnexpectedMessage
            raise kind(f"expected (epoch, round, attempt) {self._numbers} of site {site}, got {numbers}. Drop it.")
        if header.type == MessageType.REFUSAL:
            request = hashlib.sha256(self._again(site)).digest() if site in self._sent else b""
            code = read_refusal(frame, self._terms.site_public_keys[site], request)
            self._refusals[site] = code
            raise Refused(code)
        return header


def _digest(frame: bytes) -> bytes:
    """Return what names an answer: of an input, whose 4 MB or more would take 2 ms, header and tag alone."""
    is_input = len(frame) > HEADER_BYTES + TAG_BYTES and frame[_TYPE_AT] in _INPUTS
    return mac_digest(frame) if is_input else hashlib.sha256(frame).digest()
