"""Sites of this process behind a function that sees each request first, and what they hold when a run is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secure_frl.ckks.policies import keyed_tag
from secure_frl.federation.enrolment import Enrolled, open_all_sites
from secure_frl.federation.held_policy import policy_path, read_secret, read_stored, secret_path
from secure_frl.federation.run_folder import RunFolder
from secure_frl.records.journal import read_journal
from secure_frl.wire.envelope import Header, read_header
from secure_frl.wire.messages import MessageType

Before = Callable[[int, Header], None]  # (site, header of the request); raises ConnectionError for a silent site


class Killed(BaseException):
    """The end of a program at this very place: nothing in it catches this."""


class Interposed:
    """One site."""

    def __init__(self, number: int, site: Any, before: Before) -> None:
        self._number, self._site, self._before = number, site, before

    def handle(self, request: bytes) -> bytes:
        self._before(self._number, read_header(request))
        return self._site.handle(request)

    def shut_down(self, *, export: bool = False) -> None:
        self._site.shut_down(export=export)


def interposed(before: Before) -> Callable[..., dict[Any, Any]]:
    """Return how `simulation.run` opens sites behind `before`."""

    def opened(folder: RunFolder, enrolled: Enrolled, group: Any) -> dict[Any, Any]:
        return {number: Interposed(number, site, before) for number, site in open_all_sites(folder, enrolled).items()}

    return opened


@dataclass
class KilledAt:
    """Ends the program when so many requests of one type have come; of one round, where the type is a round's."""

    kind: MessageType
    after: int = 0
    round: int | None = None
    seen: int = field(default=0, init=False)

    def __call__(self, site: int, header: Header) -> None:
        if header.type != self.kind or self.round not in (None, header.round):
            return
        if self.seen == self.after:
            raise Killed
        self.seen += 1


def silent(sites: set[int], rounds: set[int], kinds: set[MessageType] | None = None) -> Before:
    """Return what keeps some sites from hearing requests of some rounds, of all types unless some are named."""

    def before(site: int, header: Header) -> None:
        if site in sites and header.round in rounds and (kinds is None or header.type in kinds):
            raise ConnectionError

    return before


def held_tags(run: Path, state: Path | None = None) -> dict[str, bytes]:
    """Return the tag of the policy that each site of a blind coordinator holds on its disk, by the site's name."""
    folder = RunFolder(run, state or run / "state")
    session = read_journal(folder.journal).charter_hash
    found = {}
    for home in sorted(folder.sites.glob("site-*")):
        secret, path = read_secret(secret_path(home, session)), policy_path(home, session)
        if secret is not None and path.exists():
            found[home.name] = keyed_tag(secret, session, read_stored(path, session).current.to_bytes())
    return found
