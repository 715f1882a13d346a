"""The charter: a study's canonical bytes, the roster's hash, 16 random bytes and every constant of the sum.

Each site signs it; nothing in it can be chosen by the coordinator alone, and no constant is ever read from a message.
Its hash is the session, so a second run is a second charter. Constants that colluders could beat are refused here
(docs/protocol.md, section 3): 2t > n + c, t > c >= 1, min_survivors >= max(3, t), h = min_survivors - c >= 2.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from secure_frl.consortium.constants import CROSS_DEVICE, check_constants, constants_from_plain
from secure_frl.consortium.identity import Identity
from secure_frl.consortium.roster import Roster
from secure_frl.errors import BadSignature, CharterRefused, MalformedMessage
from secure_frl.secure_sum import SumConstants, SumTerms
from secure_frl.wire.canonical import canonical_json, hex_bytes, parse_canonical_object
from secure_frl.wire.hashing import LABEL, labelled_hash
from secure_frl.wire.signatures import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, check_signature

FORMAT = 1
NONCE_BYTES = 16
MAX_EPOCH_ROUNDS = 64
MAX_FILE_BYTES = 4 << 20
_KEYS = {"constants", "coordinator_public_key", "format", "nonce", "protocol", "roster_hash", "study"}
_SIGNED_KEYS = {"charter", "coordinator_signature", "hash", "site_signatures"}


@dataclass(frozen=True, slots=True)
class Charter:
    """What a study's sites agree to. Made by `make_charter` and `Charter.decode`."""

    data: bytes  # canonical JSON; what is hashed and signed
    constants: SumConstants
    roster_hash: bytes
    nonce: bytes
    coordinator_public_key: bytes

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read canonical bytes strictly. Raises CharterRefused."""
        try:
            return cls._from_plain(data, parse_canonical_object(data, what="a charter", max_bytes=MAX_FILE_BYTES))
        except MalformedMessage as error:
            raise CharterRefused(str(error)) from None
        except (KeyError, TypeError, ValueError):
            raise CharterRefused(
                "expected a charter with the fields of format 1, got others. Ask the consortium for the charter again."
            ) from None

    @classmethod
    def _from_plain(cls, data: bytes, plain: dict[str, object]) -> Self:
        version = plain["format"]
        if type(version) is int and version > FORMAT:
            raise CharterRefused(
                f"the charter has format {version}, this version reads up to {FORMAT}. Use a newer secure_frl."
            )
        if set(plain) != _KEYS or version != FORMAT or plain["protocol"] != LABEL:
            raise ValueError("fields")
        study = plain["study"]
        if not isinstance(study, dict):
            raise TypeError("study")
        constants = constants_from_plain(plain["constants"])
        check_constants(constants)
        _check_agreement(study, constants)
        epoch_rounds(study)
        return cls(
            data,
            constants,
            hex_bytes(plain["roster_hash"], 32, what="a charter's roster hash"),
            hex_bytes(plain["nonce"], NONCE_BYTES, what="a charter's nonce"),
            hex_bytes(plain["coordinator_public_key"], PUBLIC_KEY_BYTES, what="the coordinator's key"),
        )

    @property
    def session(self) -> bytes:
        """H("session", charter bytes): the charter's hash, 32 bytes."""
        return labelled_hash("session", self.data)

    @property
    def study(self) -> dict[str, object]:
        """The study as it was agreed, a fresh plain dict."""
        study: dict[str, object] = json.loads(self.data)["study"]
        return study

    def terms(self, roster: Roster) -> SumTerms:
        """Return the constants with the parties. Raises CharterRefused if the roster is another one."""
        self.check_roster(roster)
        return SumTerms(
            session=self.session,
            constants=self.constants,
            site_public_keys=roster.public_keys,
            coordinator_public_key=self.coordinator_public_key,
            roster_hash=self.roster_hash,
            epoch_rounds=epoch_rounds(self.study),
            site_expiries_s=roster.expiries_s,
        )

    def check_roster(self, roster: Roster) -> None:
        """Check that the roster is the one this charter names. Raises CharterRefused."""
        enrolled, n = len(roster.entries), self.constants.sites
        is_sized = enrolled == n or (self.constants.profile == CROSS_DEVICE and enrolled > n)  # cohorts take turns
        if roster.hash != self.roster_hash or not is_sized:
            raise CharterRefused(
                f"expected the roster {self.roster_hash.hex()[:16]} with {self.constants.sites} sites, got "
                f"{roster.hash.hex()[:16]} with {len(roster.entries)}. Sign a charter for the roster in force."
            )
        if self.coordinator_public_key in (*roster.public_keys, roster.consortium_public_key):
            raise CharterRefused(
                "expected a coordinator with a key of its own, got one of a site or of the consortium. "
                "The coordinator must be in other hands than the consortium's key."
            )


def make_charter(
    study: Mapping[str, object],
    roster: Roster,
    constants: SumConstants,
    coordinator_public_key: bytes,
    nonce: bytes | None = None,
) -> Charter:
    """Write a charter. study: plain, JSON-ready. nonce: 16 random bytes, drawn when None. Raises CharterRefused."""
    plain = {
        "constants": asdict(constants),
        "coordinator_public_key": coordinator_public_key.hex(),
        "format": FORMAT,
        "nonce": (secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce).hex(),
        "protocol": LABEL,
        "roster_hash": roster.hash.hex(),
        "study": dict(study),
    }
    check_constants(constants)  # before encoding: NaN has no canonical form
    charter = Charter.decode(canonical_json(plain))
    charter.check_roster(roster)
    return charter


def sign_charter(identity: Identity, charter: Charter) -> bytes:
    """Return the signature of a site or the coordinator over the charter's bytes."""
    return identity.sign("charter", charter.data)


@dataclass(frozen=True, slots=True)
class SignedCharter:
    """A charter with everybody's signature: `charter.json`."""

    charter: Charter
    site_signatures: tuple[bytes, ...]  # by SiteId
    coordinator_signature: bytes

    def encode(self) -> bytes:
        """Return the bytes of `charter.json`."""
        plain = {
            "charter": json.loads(self.charter.data),
            "coordinator_signature": self.coordinator_signature.hex(),
            "hash": self.charter.session.hex(),
            "site_signatures": [signature.hex() for signature in self.site_signatures],
        }
        return canonical_json(plain) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read `charter.json` strictly; signatures are checked by `check`. Raises CharterRefused."""
        try:
            if not data.endswith(b"\n"):
                raise ValueError("end")
            plain = parse_canonical_object(data[:-1], what="charter.json", max_bytes=MAX_FILE_BYTES)
            listed = plain["site_signatures"]
            if set(plain) != _SIGNED_KEYS or not isinstance(listed, list):
                raise ValueError("fields")
            signatures = tuple(hex_bytes(signature, SIGNATURE_BYTES) for signature in listed)
            coordinator_signature = hex_bytes(plain["coordinator_signature"], SIGNATURE_BYTES)
            charter = Charter.decode(canonical_json(plain["charter"]))
            if plain["hash"] != charter.session.hex():
                raise ValueError("hash")
        except (KeyError, TypeError, ValueError, MalformedMessage):
            raise CharterRefused(
                "expected charter.json exactly as it was signed, got other content. Restore the signed file."
            ) from None
        return cls(charter, signatures, coordinator_signature)

    def check(self, roster: Roster) -> None:
        """Verify roster hash and every signature. Raises CharterRefused, or BadSignature naming the signer."""
        self.charter.check_roster(roster)
        if len(self.site_signatures) != len(roster.entries):
            raise CharterRefused(
                f"expected the signatures of {len(roster.entries)} sites, got {len(self.site_signatures)}. "
                "Every site of the roster signs the charter before a study begins."
            )
        signers = [(entry.name, entry.public_key) for entry in roster.entries]
        signers.append(("the coordinator", self.charter.coordinator_public_key))
        for (name, key), signature in zip(signers, (*self.site_signatures, self.coordinator_signature), strict=True):
            try:
                check_signature(key, signature, "charter", self.charter.data)
            except BadSignature:
                raise BadSignature(
                    f"expected the charter's signature by {name}, got one that does not verify. "
                    f"Ask {name} to sign this charter, or restore the signed file."
                ) from None


def epoch_rounds(study: Mapping[str, object]) -> int:
    """Return `protection.epoch_rounds` of a study. Raises CharterRefused outside 1..64."""
    section = study.get("protection")
    value = section.get("epoch_rounds") if isinstance(section, Mapping) else None
    if type(value) is not int or not 1 <= value <= MAX_EPOCH_ROUNDS:
        raise CharterRefused(
            f"expected protection.epoch_rounds from 1 to {MAX_EPOCH_ROUNDS}, got {value!r}. Set it in the study."
        )
    return value


def _check_agreement(study: Mapping[str, object], constants: SumConstants) -> None:
    """What an officer reads in the study is what the sum does. Raises CharterRefused."""
    pairs: Sequence[tuple[str, str, object]] = (
        ("sites", "count", constants.sites),
        ("sites", "min_survivors", constants.min_survivors),
        ("sites", "max_colluders", constants.max_colluders),
        ("protection", "method", constants.protection),
        ("protection", "profile", constants.profile),
        ("privacy", "noise", constants.noise),
    )
    for section, key, value in pairs:
        table = study.get(section)
        found = table.get(key) if isinstance(table, Mapping) else None
        if found != value or type(found) is not type(value):
            raise CharterRefused(
                f"expected {section}.{key}={value!r} in the study as in the constants, got {found!r}. "
                "Derive the constants from the study that is signed."
            )
