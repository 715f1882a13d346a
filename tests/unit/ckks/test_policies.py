"""The policy's keyed tag and its parcel: who can open one, what it binds, and that a parcel shows nothing."""

from __future__ import annotations

import hashlib
import hmac

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secure_frl.ckks.policies import SealedPolicy, keyed_tag, open_policy, seal_policy
from secure_frl.errors import ModelDoesNotFollow
from secure_frl.randomness import rehearsal_source, system_source
from secure_frl.secure_sum import SiteId
from secure_frl.wire.envelope import TAG_BYTES
from secure_frl.wire.messages import MessageType, PolicyParcel, decode_body, encode_body
from secure_frl.wire.registry import (
    MODEL_BYTES_PER_VALUE,
    MODEL_SLACK_BYTES,
    REGISTRY,
    Sizes,
    greatest_model_bytes,
)

SECRET, SESSION = b"\x71" * 32, b"\x72" * 32
MODEL = bytes(range(256)) * 40
TAG = keyed_tag(SECRET, SESSION, MODEL)


def sealed(*, tag: bytes = TAG, writer: int = 2, step: int = 5, model: bytes = MODEL) -> bytes:
    parts = {"writer": SiteId(writer), "step": step, "tag": tag, "model": model}
    return seal_policy(SECRET, SESSION, **parts, random=system_source())


def prefixed(*fields: bytes) -> bytes:
    """The encoding of docs/protocol.md, section 2, by hand."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def derived(salt: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, prefixed(b"secure_frl/secagg/v1", purpose)).derive(SECRET)


def test_a_site_opens_what_another_sealed() -> None:
    assert open_policy(SECRET, SESSION, sealed(), TAG) == MODEL


def test_tag_and_parcel_are_those_of_the_protocol() -> None:
    """Recomputed with the library's own primitives: another implementation reads these parcels."""
    parcel = decode_body(SealedPolicy, sealed())
    number, writer = (5).to_bytes(8, "big"), (2).to_bytes(8, "big")
    key = derived(hashlib.sha256(prefixed(SESSION, number, writer, parcel.fresh)).digest(), b"model-blob")

    assert hmac.digest(derived(SESSION, b"model-tag"), MODEL, "sha256") == TAG
    assert AESGCM(key).decrypt(bytes(12), parcel.sealed, prefixed(SESSION, number, TAG)) == MODEL


@pytest.mark.parametrize("field", SealedPolicy.__struct_fields__)
def test_a_change_of_any_field_is_refused(field: str) -> None:
    parcel = decode_body(SealedPolicy, sealed())
    held = getattr(parcel, field)
    changed = held ^ 1 if isinstance(held, int) else held[:-1] + bytes((held[-1] ^ 1,))

    with pytest.raises(ModelDoesNotFollow):
        open_policy(SECRET, SESSION, encode_body(msgspec.structs.replace(parcel, **{field: changed})), TAG)


def test_whatever_the_cause_the_refusal_is_the_same() -> None:
    other = keyed_tag(SECRET, SESSION, MODEL[:-1])
    parcel = sealed()
    cases = {
        "another secret": (b"\x74" * 32, SESSION, parcel, TAG),
        "another charter": (SECRET, b"\x74" * 32, parcel, TAG),
        "another tag": (SECRET, SESSION, parcel, other),
        "a model under another's tag": (SECRET, SESSION, sealed(tag=other), other),
        "bytes missing": (SECRET, SESSION, parcel[:-1], TAG),
        "no parcel": (SECRET, SESSION, b"", TAG),
    }
    texts = set()
    for name, arguments in cases.items():
        with pytest.raises(ModelDoesNotFollow) as caught:
            open_policy(*arguments)
        texts.add(str(caught.value))
        assert caught.value.__suppress_context__ or caught.value.__context__ is None, name

    assert len(texts) == 1


def test_tags_tell_models_secrets_and_charters_apart() -> None:
    tags = {TAG, keyed_tag(SECRET, SESSION, MODEL[:-1]), keyed_tag(SESSION, SESSION, MODEL)}

    assert len(tags | {keyed_tag(SECRET, SECRET, MODEL)}) == 4


def test_two_parcels_of_one_policy_share_nothing_that_is_sealed_and_show_nothing_of_it() -> None:
    first, second = (decode_body(SealedPolicy, sealed()) for _ in range(2))

    assert first.fresh != second.fresh
    assert not {first.sealed[at : at + 16] for at in range(0, len(MODEL), 16)} & {
        second.sealed[at : at + 16] for at in range(0, len(MODEL), 16)
    }
    assert MODEL[:16] not in first.sealed
    assert TAG not in sealed()


def test_fresh_bytes_come_from_the_source_that_is_passed() -> None:
    parts = {"writer": SiteId(2), "step": 5, "tag": TAG, "model": MODEL}
    twice = [seal_policy(SECRET, SESSION, **parts, random=rehearsal_source(1, "policy")) for _ in range(2)]

    assert twice[0] == twice[1]


def test_the_longest_model_fits_the_frame_that_carries_its_parcel() -> None:
    length = 1_000
    model = bytes(MODEL_BYTES_PER_VALUE * length + MODEL_SLACK_BYTES - 200)
    longest = sealed(writer=65_534, step=2**63 - 1, model=model, tag=keyed_tag(SECRET, SESSION, model))

    assert len(encode_body(PolicyParcel(bytes(32), longest))) <= REGISTRY[MessageType.R6_REPLY].limit(Sizes(10, length))
    assert len(longest) + TAG_BYTES <= greatest_model_bytes(length)


def test_no_repr_shows_a_model() -> None:
    assert repr(decode_body(SealedPolicy, sealed())) == "<SealedPolicy>"
