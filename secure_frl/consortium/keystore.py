"""Long-lived keys on disk: canonical JSON, mode 0600 from the first byte, never overwritten.

Two forms. `simulated`: the secret in plain hex, for the sites of a simulation; a deployed program refuses it.
`hardened`: sealed with ChaCha20-Poly1305 under an Argon2id key (RFC 9106; 64 MiB, 3 passes, about half a second), for
hospitals. The public key is in clear in both, and checked against the secret.
"""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from secure_frl.consortium.identity import Identity
from secure_frl.errors import ConfigError, DecryptionFailed, InvalidParameter, MalformedMessage, PolicyForbids
from secure_frl.files import write_durably
from secure_frl.randomness import system_source
from secure_frl.wire.canonical import canonical_json, hex_bytes, parse_canonical_object
from secure_frl.wire.hashing import LABEL, lp

FORMAT = 1
KEY_MODE = 0o600
MIN_PASSPHRASE_BYTES = 12
_PASSES, _LANES, _MEMORY_KIB = 3, 4, 64 * 1024  # fixed: a file can neither weaken nor exhaust us
_SALT_BYTES = 16
_SEALED_BYTES = 32 + 16  # the secret and its tag
_MAX_FILE_BYTES = 4096


def write_simulated_key(path: Path, identity: Identity) -> None:
    """Write a simulated site's identity, marked so. Raises ConfigError if the file exists."""
    _write(path, {"form": "simulated", "secret": identity.secret_bytes().hex()}, identity)


def write_hardened_key(path: Path, identity: Identity, passphrase: bytes) -> None:
    """Write an identity under a passphrase. Raises InvalidParameter for a short one, ConfigError if the file exists."""
    if len(passphrase) < MIN_PASSPHRASE_BYTES:
        raise InvalidParameter(
            f"expected a passphrase of at least {MIN_PASSPHRASE_BYTES} bytes, got {len(passphrase)}. Take a longer one."
        )
    salt = system_source().take(_SALT_BYTES)
    sealed = _cipher(passphrase, salt).encrypt(bytes(12), identity.secret_bytes(), _context(identity.public_key))
    _write(path, {"form": "hardened", "salt": salt.hex(), "sealed": sealed.hex()}, identity)


def read_key(path: Path, *, allow_simulated: bool, passphrase: bytes | None = None) -> Identity:
    """Read an identity.

    allow_simulated: True in simulations only; a deployed program passes False.
    Raises PolicyForbids for a simulated key where none may be, ConfigError for a damaged file or one that others can
    read, DecryptionFailed for a wrong passphrase or altered content.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(f"expected {path.name} with mode 0600, got {mode:04o}. Run chmod 600, and ask who read it.")
    plain, public_key = _read(path)
    if plain["form"] == "simulated":
        if not allow_simulated:
            raise PolicyForbids(
                f"expected a hardened key, {path.name} is marked simulated. Write one with `write_hardened_key`."
            )
        identity = Identity(_hex(path, plain.get("secret"), 32))
    else:
        if passphrase is None:
            raise ConfigError(f"expected a passphrase for the hardened key {path.name}, got none. Give it.")
        salt, sealed = _hex(path, plain.get("salt"), _SALT_BYTES), _hex(path, plain.get("sealed"), _SEALED_BYTES)
        try:
            identity = Identity(_cipher(passphrase, salt).decrypt(bytes(12), sealed, _context(public_key)))
        except InvalidTag:
            raise DecryptionFailed(
                f"expected to open {path.name}, it stayed closed. Check passphrase and file."
            ) from None
    if identity.public_key != public_key:
        raise _damaged(path)
    return identity


def read_public_key(path: Path) -> bytes:
    """Return the public key of a key file without opening its secret, 32 bytes. Raises ConfigError."""
    return _read(path)[1]


def _write(path: Path, form: dict[str, str], identity: Identity) -> None:
    if path.exists():
        raise ConfigError(f"expected no file {path.name}, found one. Keys are never overwritten: move it away first.")
    plain = form | {"format": FORMAT, "public_key": identity.public_key.hex()}
    write_durably(path, canonical_json(plain) + b"\n", mode=KEY_MODE)


def _read(path: Path) -> tuple[dict[str, object], bytes]:
    data = path.read_bytes()
    try:
        plain = parse_canonical_object(data.removesuffix(b"\n"), what=path.name, max_bytes=_MAX_FILE_BYTES)
    except MalformedMessage:
        raise _damaged(path) from None
    version = plain.get("format")
    if type(version) is int and version > FORMAT:
        raise ConfigError(
            f"{path.name} has format {version}, this version reads up to {FORMAT}. Use a newer secure_frl."
        )
    fields = {"simulated": {"secret"}, "hardened": {"salt", "sealed"}}.get(str(plain.get("form")))
    if fields is None or version != FORMAT or set(plain) != fields | {"form", "format", "public_key"}:
        raise _damaged(path)
    return plain, _hex(path, plain["public_key"], 32)


def _cipher(passphrase: bytes, salt: bytes) -> ChaCha20Poly1305:
    """The key is used once: every file has its own salt, so the nonce may be zero."""
    kdf = Argon2id(salt=salt, length=32, iterations=_PASSES, lanes=_LANES, memory_cost=_MEMORY_KIB)
    return ChaCha20Poly1305(kdf.derive(passphrase))


def _context(public_key: bytes) -> bytes:
    return lp(LABEL, "key-file", FORMAT, public_key)


def _hex(path: Path, value: object, size: int) -> bytes:
    try:
        return hex_bytes(value, size)
    except MalformedMessage:
        raise _damaged(path) from None


def _damaged(path: Path) -> ConfigError:
    return ConfigError(f"expected {path.name} to be a key file as written by secure-frl, it is not. Restore a copy.")
