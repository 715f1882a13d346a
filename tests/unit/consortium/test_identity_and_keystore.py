"""Identities and their key files."""

from __future__ import annotations

import json
import pickle
import stat
from pathlib import Path

import pytest
from hex_values import misspelt

from secure_frl.consortium.identity import Identity
from secure_frl.consortium.keystore import read_key, read_public_key, write_hardened_key, write_simulated_key
from secure_frl.errors import (
    BadSignature,
    ConfigError,
    DecryptionFailed,
    InvalidParameter,
    PolicyForbids,
    UnexpectedState,
)
from secure_frl.wire.canonical import canonical_json
from secure_frl.wire.signatures import check_signature

# RFC 8032, section 7.1, test 1
RFC_SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC_PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
PASSPHRASE = b"correct horse battery"


def test_the_public_key_is_the_one_of_rfc_8032() -> None:
    assert Identity(RFC_SECRET).public_key == RFC_PUBLIC


def test_a_signature_holds_for_its_purpose_only() -> None:
    identity = Identity(RFC_SECRET)
    signature = identity.sign("charter", b"content")

    check_signature(RFC_PUBLIC, signature, "charter", b"content")
    for purpose, fields in (("roster", [b"content"]), ("charter", [b"conten", b"t"]), ("charter", [b"other"])):
        with pytest.raises(BadSignature):
            check_signature(RFC_PUBLIC, signature, purpose, *fields)


def test_its_secret_is_in_no_repr_and_no_pickle() -> None:
    identity = Identity(RFC_SECRET)

    assert RFC_SECRET.hex() not in repr(identity)
    with pytest.raises(UnexpectedState):
        pickle.dumps(identity)


def test_two_generated_identities_differ() -> None:
    assert Identity.generate().public_key != Identity.generate().public_key


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(InvalidParameter):
        Identity(bytes(size))


def test_a_simulated_key_reads_back_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"

    write_simulated_key(path, Identity(RFC_SECRET))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(path, allow_simulated=True).public_key == RFC_PUBLIC
    assert read_public_key(path) == RFC_PUBLIC
    assert [one.name for one in tmp_path.iterdir()] == ["identity.key"]  # no temporary file with a secret in it


def test_a_deployed_program_refuses_a_simulated_key(tmp_path: Path) -> None:
    write_simulated_key(tmp_path / "identity.key", Identity(RFC_SECRET))

    with pytest.raises(PolicyForbids, match="marked simulated"):
        read_key(tmp_path / "identity.key", allow_simulated=False)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    write_simulated_key(tmp_path / "identity.key", Identity(RFC_SECRET))

    with pytest.raises(ConfigError, match="never overwritten"):
        write_simulated_key(tmp_path / "identity.key", Identity.generate())


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    write_simulated_key(tmp_path / "identity.key", Identity(RFC_SECRET))
    (tmp_path / "identity.key").chmod(0o640)

    with pytest.raises(ConfigError, match="0640"):
        read_key(tmp_path / "identity.key", allow_simulated=True)


def test_a_hardened_key_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    write_hardened_key(path, Identity(RFC_SECRET), PASSPHRASE)

    assert RFC_SECRET.hex().encode() not in path.read_bytes()
    assert read_key(path, allow_simulated=False, passphrase=PASSPHRASE).public_key == RFC_PUBLIC
    with pytest.raises(DecryptionFailed):
        read_key(path, allow_simulated=False, passphrase=PASSPHRASE + b"!")
    with pytest.raises(ConfigError, match="passphrase"):
        read_key(path, allow_simulated=False)


def test_a_hardened_key_is_bound_to_its_public_key(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    write_hardened_key(path, Identity(RFC_SECRET), PASSPHRASE)
    data = path.read_bytes().replace(RFC_PUBLIC.hex().encode(), Identity(bytes(32)).public_key.hex().encode())
    path.write_bytes(data)

    with pytest.raises(DecryptionFailed):
        read_key(path, allow_simulated=False, passphrase=PASSPHRASE)


def test_a_short_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="12 bytes"):
        write_hardened_key(tmp_path / "identity.key", Identity(RFC_SECRET), b"hunter2")


@pytest.mark.parametrize(
    ("old", "new"), [(b'"simulated"', b'"plain"'), (b'"format":1', b'"format":2'), (b"9d61", b"9d62"), (b"{", b"{ ")]
)
def test_a_changed_key_file_is_refused_without_showing_it(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "identity.key"
    write_simulated_key(path, Identity(RFC_SECRET))
    path.write_bytes(path.read_bytes().replace(old, new))

    with pytest.raises(ConfigError) as caught:
        read_key(path, allow_simulated=True)
    assert RFC_SECRET.hex() not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "field"),
    [("simulated", "public_key"), ("simulated", "secret"), ("hardened", "salt"), ("hardened", "sealed")],
)
def test_a_value_in_another_spelling_is_refused_without_showing_it(tmp_path: Path, form: str, field: str) -> None:
    path = tmp_path / "identity.key"
    if form == "hardened":
        write_hardened_key(path, Identity(RFC_SECRET), PASSPHRASE)
    else:
        write_simulated_key(path, Identity(RFC_SECRET))
    plain = json.loads(path.read_bytes())

    for value in misspelt(plain[field]):
        path.write_bytes(canonical_json(plain | {field: value}) + b"\n")
        with pytest.raises(ConfigError, match="Restore a copy") as caught:
            read_key(path, allow_simulated=True, passphrase=PASSPHRASE)
        assert RFC_SECRET.hex() not in str(caught.value).lower()
