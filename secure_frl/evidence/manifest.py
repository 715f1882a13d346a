"""The manifest: SHA-256 and size of every file of a finished run except private keys, signed by the coordinator.

Written last; a folder without one is unfinished. It shows any later change of the folder to whoever trusts the
coordinator. What doesn't rest on that trust (ledgers, charter, roster) carries the signatures of others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from secure_frl.errors import BadSignature, EvidenceRefused, MalformedMessage
from secure_frl.evidence.findings import Notes
from secure_frl.files import write_durably
from secure_frl.wire.canonical import canonical_json, parse_canonical_object
from secure_frl.wire.signatures import SIGNATURE_BYTES, Signer, check_signature

FORMAT = 1
NAME, SIGNATURE_NAME = "manifest.json", "manifest.sig"
KEY_NAME = "identity.key"
SEALING_KEYS = "site-secret-*.key"  # of a charter whose coordinator is blind
PERSONAL_POLICIES = "personal-*.safetensors"  # fitted to raw records: not even a hash of one leaves its site
_HOMES = (("state", "coordinator"), ("state", "consortium"))
_KEYS = {"charter", "code_version", "files", "format", "rehearsal"}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a folder held when its run ended."""

    charter_hash: str  # hex
    code_version: str
    rehearsal: bool
    files: dict[str, tuple[str, int]]  # path with forward slashes -> SHA-256 in hex, size in bytes


def write_manifest(
    directory: Path, signer: Signer, *, charter_hash: bytes, code_version: str, rehearsal: bool = False
) -> None:
    """Hash and sign a run folder; call it last. Raises EvidenceRefused for links and other special files."""
    files = {str(name): {"sha256": digest, "size": size} for name, digest, size in _walk(directory)}
    plain: dict[str, object] = {
        "charter": charter_hash.hex(),
        "code_version": code_version,
        "files": files,
        "format": FORMAT,
        "rehearsal": rehearsal,
    }
    data = canonical_json(plain) + b"\n"
    write_durably(directory / NAME, data)
    write_durably(directory / SIGNATURE_NAME, signer.sign("manifest", data).hex().encode() + b"\n")


def read_manifest(directory: Path, coordinator_public_key: bytes) -> Manifest:
    """Read a manifest strictly and check its signature. Raises EvidenceRefused, OSError."""
    data = (directory / NAME).read_bytes()
    signature = (directory / SIGNATURE_NAME).read_bytes()
    try:
        raw = bytes.fromhex(signature.decode("ascii").removesuffix("\n"))
        if len(raw) != SIGNATURE_BYTES or raw.hex().encode() + b"\n" != signature:
            raise ValueError("signature")
        check_signature(coordinator_public_key, raw, "manifest", data)
        plain = parse_canonical_object(data.removesuffix(b"\n"), what=NAME)
        return _from_plain(plain)
    except (BadSignature, MalformedMessage, ValueError, KeyError, TypeError):
        raise EvidenceRefused(
            f"expected {NAME} with the coordinator's signature in {SIGNATURE_NAME}, got content that it doesn't cover. "
            "Take the folder again from where the run ended."
        ) from None


def check_manifest(directory: Path, manifest: Manifest, notes: Notes) -> None:
    """Compare a folder with its manifest; each added, removed or changed file is a finding."""
    listed = dict(manifest.files)
    try:
        for name, digest, size in _walk(directory):
            known = listed.pop(str(name), None)
            if known is None:
                notes.find(str(name), "added after the run ended: the manifest doesn't list it. Move it elsewhere.")
            elif known != (digest, size):
                notes.find(
                    str(name), f"changed after the run ended ({size} bytes, {known[1]} when it ended). Restore it."
                )
    except EvidenceRefused as error:
        notes.find(NAME, str(error))
    for missing in listed:
        notes.find(missing, "removed after the run ended: the manifest lists it. Restore it.")


def _walk(directory: Path) -> Iterator[tuple[PurePosixPath, str, int]]:
    """Yield (path, SHA-256, size) of every file but the manifest's own and secrets where they belong."""
    for path in sorted(directory.rglob("*")):
        name = PurePosixPath(path.relative_to(directory).as_posix())
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise EvidenceRefused(
                f"expected plain files in a run folder, {name} is none. Remove it, then verify again."
            )
        if path.is_file() and str(name) not in (NAME, SIGNATURE_NAME) and not _is_key(name):
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            yield name, digest, path.stat().st_size


def _is_key(name: PurePosixPath) -> bool:
    """Return whether a file is a site's own secret where it belongs: a key, a charter's secret, a policy of its own."""
    parts = name.parts
    is_at_site = len(parts) == 4 and parts[:2] == ("state", "sites")
    is_secret = is_at_site and (name.match(SEALING_KEYS) or name.match(PERSONAL_POLICIES))
    return is_secret or (name.name == KEY_NAME and (is_at_site or parts[:-1] in _HOMES))


def _from_plain(plain: dict[str, object]) -> Manifest:
    files, charter, version = plain["files"], plain["charter"], plain["code_version"]
    if set(plain) != _KEYS or plain["format"] != FORMAT or type(plain["rehearsal"]) is not bool:
        raise ValueError("fields")
    if not isinstance(files, dict) or not isinstance(charter, str) or not isinstance(version, str):
        raise TypeError("files")
    return Manifest(
        charter,
        version,
        plain["rehearsal"],
        {name: (str(entry["sha256"]), int(entry["size"])) for name, entry in files.items()},
    )
