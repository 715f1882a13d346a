"""Who is enrolled: id, name, public key and expiry of each site, signed by the consortium's key.

The consortium's key can add members, so it and the coordinator must be in different hands. The file is TOML that
people can read, with exactly one valid form: reading emits it again and compares. A name is also a folder's name, so
nothing that could leave its folder is one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from secure_frl.consortium.identity import Identity
from secure_frl.errors import ConfigError, InvalidParameter, MalformedMessage
from secure_frl.secure_sum import SiteId
from secure_frl.wire.canonical import hex_bytes
from secure_frl.wire.hashing import labelled_hash, lp
from secure_frl.wire.signatures import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, check_signature

FORMAT = 1
FILE = "roster.toml"
MAX_SITES = 65_535  # ids are 16 bits in the protocol
MAX_FILE_BYTES = 32 << 20
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_RESERVED = ("coordinator", "consortium")  # folders and ledgers of the other two parties


@dataclass(frozen=True, slots=True)
class RosterEntry:
    """One enrolled site; its id is its position in the roster."""

    name: str  # lower-case letters, digits and hyphens
    public_key: bytes  # Ed25519, raw
    expires: date  # valid through the end of this day, UTC

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in _RESERVED:
            raise InvalidParameter(
                f"expected a name of lower-case letters, digits and hyphens, none of {', '.join(_RESERVED)}, got "
                f"{self.name[:70]!r}. Choose another."
            )
        if len(self.public_key) != PUBLIC_KEY_BYTES or type(self.expires) is not date:
            raise InvalidParameter(
                f"expected a public key of {PUBLIC_KEY_BYTES} bytes and a date of expiry for {self.name}, got others. "
                "Ask the site for the public key in its key file."
            )


@dataclass(frozen=True, slots=True)
class Roster:
    """The signed list. Made by `sign_roster` and `decode_roster`."""

    entries: tuple[RosterEntry, ...]  # by SiteId
    consortium_public_key: bytes
    signature: bytes

    def canonical(self) -> bytes:
        """Return the bytes that are signed and hashed."""
        return _canonical(self.entries, self.consortium_public_key)

    @property
    def hash(self) -> bytes:
        """H("roster", canonical bytes), 32 bytes."""
        return labelled_hash("roster", self.canonical())

    @property
    def names(self) -> tuple[str, ...]:
        """The sites' names by id."""
        return tuple(entry.name for entry in self.entries)

    @property
    def public_keys(self) -> tuple[bytes, ...]:
        """The sites' raw public keys by id."""
        return tuple(entry.public_key for entry in self.entries)

    @property
    def expiries_s(self) -> tuple[float, ...]:
        """The moments at which the sites' enrolments end, Unix seconds, by id: midnight UTC after the last day."""
        ends = [datetime.combine(entry.expires, time.min, UTC) + timedelta(days=1) for entry in self.entries]
        return tuple(end.timestamp() for end in ends)

    def id_of(self, name: str) -> SiteId:
        """Return a site's id. Raises InvalidParameter for a stranger."""
        if name not in self.names:
            raise InvalidParameter(f"expected the name of an enrolled site, got {name[:70]!r}. See the roster.")
        return SiteId(self.names.index(name))

    def expired(self, now: datetime) -> tuple[str, ...]:
        """Return the names of sites whose enrolment has ended. now: aware, UTC."""
        return tuple(entry.name for entry in self.entries if now.date() > entry.expires)

    def check(self) -> None:
        """Verify the consortium's signature. Raises BadSignature."""
        check_signature(self.consortium_public_key, self.signature, "roster", self.canonical())

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        head = [
            f"format = {FORMAT}",
            f'consortium_public_key = "{self.consortium_public_key.hex()}"',
            f'signature = "{self.signature.hex()}"',
        ]
        sites = [
            f'\n[[site]]\nid = {number}\nname = "{entry.name}"\npublic_key = "{entry.public_key.hex()}"\n'
            f"expires = {entry.expires.isoformat()}"
            for number, entry in enumerate(self.entries)
        ]
        return ("\n".join(head + sites) + "\n").encode("ascii")


def sign_roster(consortium: Identity, entries: Sequence[RosterEntry]) -> Roster:
    """Enrol sites. Raises InvalidParameter for equal names or keys, or for none."""
    kept = tuple(entries)
    _check_distinct(kept, consortium.public_key)
    return Roster(kept, consortium.public_key, consortium.sign("roster", _canonical(kept, consortium.public_key)))


def decode_roster(data: bytes) -> Roster:
    """Read a roster strictly and verify its signature. Raises ConfigError, BadSignature."""
    if len(data) > MAX_FILE_BYTES:
        raise _refused()
    try:
        plain = tomllib.loads(data.decode("ascii"))
    except (ValueError, RecursionError):
        raise _refused() from None
    version = plain.get("format")
    if type(version) is int and version > FORMAT:
        raise ConfigError(f"{FILE} has format {version}, this version reads up to {FORMAT}. Use a newer secure_frl.")
    try:
        entries = tuple(_entry(site) for site in plain["site"])
        consortium = hex_bytes(plain["consortium_public_key"], PUBLIC_KEY_BYTES)
        roster = Roster(entries, consortium, hex_bytes(plain["signature"], SIGNATURE_BYTES))
        _check_distinct(entries, roster.consortium_public_key)
        same = roster.encode() == data
    except (KeyError, TypeError, ValueError, AttributeError, MalformedMessage):
        same = False
    if not same:
        raise _refused()
    roster.check()
    return roster


def _canonical(entries: tuple[RosterEntry, ...], consortium_public_key: bytes) -> bytes:
    listed = [(number, entry.name, entry.public_key, entry.expires.isoformat()) for number, entry in enumerate(entries)]
    return lp(FORMAT, consortium_public_key, listed)


def _check_distinct(entries: tuple[RosterEntry, ...], consortium_public_key: bytes) -> None:
    names = {entry.name for entry in entries}
    keys = {entry.public_key for entry in entries} | {consortium_public_key}
    if not 1 <= len(entries) <= MAX_SITES or len(names) != len(entries) or len(keys) != len(entries) + 1:
        raise InvalidParameter(
            f"expected 1 to {MAX_SITES} sites with distinct names and keys, none of them the consortium's, got "
            f"{len(entries)} sites, {len(names)} names, {len(keys) - 1} keys. Enrol each site once, with its own key."
        )


def _entry(site: Mapping[str, object]) -> RosterEntry:
    expires = site["expires"]
    if not isinstance(expires, date):
        raise TypeError("expires")
    return RosterEntry(str(site["name"]), hex_bytes(site["public_key"], PUBLIC_KEY_BYTES), expires)


def _refused() -> ConfigError:
    return ConfigError(
        f"expected {FILE} exactly as the consortium signed it, got other content. "
        "Take the signed file again from the consortium; it can't be edited by hand."
    )
