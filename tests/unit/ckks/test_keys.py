"""The steward's packages: who can open one, what it binds, and that nothing of it is where a coordinator looks."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import tenseal

from secure_frl.ckks.ciphertexts import encrypt, open_sum
from secure_frl.ckks.keys import (
    MAX_CONTEXT_BYTES,
    Addressee,
    EpochKey,
    Package,
    draw_site_secret,
    make_key,
    open_package,
    seal_package,
)
from secure_frl.ckks.requests import Op
from secure_frl.ckks.worker import Limits, Worker
from secure_frl.consortium.identity import Identity
from secure_frl.errors import DecryptionFailed, KeyRefused
from secure_frl.masking.keys import KeyPair, channel_key, derive
from secure_frl.randomness import rehearsal_source, system_source
from secure_frl.secure_sum import SiteId
from secure_frl.wire.envelope import seal
from secure_frl.wire.messages import MAX_PACKAGE_BYTES, encode_body

ROOMY = Limits(address_bytes=1 << 30)
SESSION, EPOCH = b"\x01" * 32, b"\x02" * 32
STEWARD, OTHER = Identity(b"\x11" * 32), Identity(b"\x12" * 32)
STEWARD_PAIR, SITE_PAIR = KeyPair.from_secret(b"\x21" * 32), KeyPair.from_secret(b"\x22" * 32)
TO = Addressee(SESSION, EPOCH, SiteId(2))


def channel(epoch: bytes = EPOCH) -> bytes:
    """What site 2 derives; the steward is site 0."""
    return channel_key(SITE_PAIR, STEWARD_PAIR.public, epoch, 2, 0)


@pytest.fixture(scope="module")
def sealed(key: EpochKey) -> bytes:
    stewards = channel_key(STEWARD_PAIR, SITE_PAIR.public, EPOCH, 0, 2)
    return seal_package(key, TO, stewards, STEWARD.private_key, system_source())


def windows(data: bytes, size: int = 16) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data) - size, size)]


def test_a_site_opens_the_package_that_is_for_it(key: EpochKey, sealed: bytes) -> None:
    opened = open_package(sealed, TO, channel(), STEWARD.public_key, None)

    assert (opened.key_id, opened.context, opened.site_secret) == (key.key_id, key.context, key.site_secret)
    assert opened.key_id == hashlib.sha256(key.context).digest()
    again = open_package(sealed, TO, channel(), STEWARD.public_key, key.site_secret)
    assert again.key_id == key.key_id


def test_the_longest_package_fits_the_message_that_carries_it(key: EpochKey) -> None:
    longest = replace(key, context=bytes(MAX_CONTEXT_BYTES))

    assert len(seal_package(longest, TO, channel(), STEWARD.private_key, system_source())) <= MAX_PACKAGE_BYTES


@pytest.mark.parametrize(
    ("name", "to", "link", "steward", "held"),
    [
        ("another site", replace(TO, site=SiteId(1)), channel(), STEWARD, None),
        ("another epoch", replace(TO, epoch_hash=b"\x03" * 32), channel(b"\x03" * 32), STEWARD, None),
        ("another charter", replace(TO, session=b"\x04" * 32), channel(), STEWARD, None),
        ("another channel", TO, bytes(32), STEWARD, None),
        ("signed by another site", TO, channel(), OTHER, None),
        ("another site secret than the one held", TO, channel(), STEWARD, b"\x08" * 32),
    ],
)
def test_a_package_is_for_one_site_epoch_charter_and_steward(
    name: str, to: Addressee, link: bytes, steward: Identity, held: bytes | None, sealed: bytes
) -> None:
    with pytest.raises(KeyRefused):
        open_package(sealed, to, link, steward.public_key, held)


def test_a_changed_byte_anywhere_is_refused(sealed: bytes) -> None:
    for at in (0, 31, 32, 100, len(sealed) // 2, len(sealed) - 1):
        changed = sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :]
        with pytest.raises(KeyRefused):
            open_package(changed, TO, channel(), STEWARD.public_key, None)
    for size in (0, 48, MAX_PACKAGE_BYTES + 1):
        with pytest.raises(KeyRefused):
            open_package(bytes(size), TO, channel(), STEWARD.public_key, None)


@pytest.mark.parametrize("changed", ["key_id", "context", "site_secret", "epoch_hash", "signature"])
def test_an_insider_on_the_channel_cannot_change_a_field(changed: str, key: EpochKey) -> None:
    """Whoever has the channel key but not the steward's identity: the signature or the id gives it away."""
    signature = STEWARD.sign("package", SESSION, EPOCH, 2, key.key_id, hashlib.sha256(key.site_secret).digest())
    fields = {
        "key_id": key.key_id,
        "context": key.context,
        "site_secret": key.site_secret,
        "epoch_hash": EPOCH,
        "signature": signature,
    }
    fresh = b"\x05" * 32

    def package(change: dict[str, bytes]) -> bytes:
        return fresh + seal(derive(channel(), EPOCH, "package", 2, fresh), encode_body(Package(**fields | change)), b"")

    assert open_package(package({}), TO, channel(), STEWARD.public_key, None).key_id == key.key_id
    other = fields[changed][:-1] + bytes((fields[changed][-1] ^ 1,))
    with pytest.raises(KeyRefused):
        open_package(package({changed: other}), TO, channel(), STEWARD.public_key, None)


def test_two_packages_of_one_key_share_no_bytes_and_show_none_of_it(key: EpochKey, sealed: bytes) -> None:
    second = seal_package(key, TO, channel(), STEWARD.private_key, system_source())
    plaintext = encode_body(Package(key.key_id, key.context, key.site_secret, EPOCH, bytes(64)))

    assert not set(windows(sealed)) & set(windows(second))
    for secret in (*windows(key.context), key.site_secret, key.key_id):
        assert secret not in sealed
    assert key.site_secret in plaintext  # the same search finds them before sealing
    assert key.context in plaintext


def test_no_repr_shows_a_secret(key: EpochKey) -> None:
    package = Package(key.key_id, key.context, key.site_secret, EPOCH, bytes(64))

    for shown in (repr(key), repr(package)):
        assert key.site_secret.hex() not in shown
        assert repr(key.site_secret)[2:-1] not in shown
        assert repr(key.context)[2:40] not in shown


def test_each_epoch_has_a_key_that_opens_no_other_epochs_sum(key, site_worker, small, vector) -> None:
    secret = draw_site_secret(rehearsal_source(1, "steward"))
    with Worker(ROOMY) as steward:
        second = make_key(steward, secret)
    assert second.key_id != key.key_id
    words = vector(small, 1)

    with Worker(ROOMY, second.context) as next_epoch:
        body = encrypt(words, small, next_epoch)
        assert open_sum(body, small, 1, next_epoch).tolist() == words.tolist()
    with pytest.raises(DecryptionFailed):
        open_sum(body, small, 1, site_worker)


def test_a_key_of_other_parameters_or_none_is_refused_by_the_worker(key: EpochKey) -> None:
    symmetric = tenseal.ENCRYPTION_TYPE.SYMMETRIC
    longer = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40], encryption_type=symmetric
    )
    longer.global_scale = 2.0**40
    without = tenseal.context_from(key.context)
    other_scale = tenseal.context_from(key.context)
    other_scale.global_scale = 2.0**30
    for context in (
        longer.serialize(save_public_key=False, save_secret_key=True),
        without.serialize(save_public_key=False, save_secret_key=False),
        other_scale.serialize(save_public_key=False, save_secret_key=True),
        key.context[:-100],
        b"\x00",
    ):
        with Worker(ROOMY, context) as worker, pytest.raises(KeyRefused):
            worker.ask(Op.ENCRYPT, bytes(16384))
