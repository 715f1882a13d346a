"""Frames: a header of 152 bytes, a body, and the signature or tag that covers both.

The only place where bytes from elsewhere are cut apart. Nothing here decides what a message means; it says whether the
bytes are a frame of the stated type between the stated parties, and whether key or signature fit the bytes received
(never a re-encoding of them). Every AEAD key seals one message in its life, so the nonce is twelve zero bytes.
Source: docs/protocol.md, section 6.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secure_frl.errors import BadSignature, MalformedMessage
from secure_frl.wire.signatures import SIGNATURE_BYTES, check_signature, signed_bytes

MAGIC = b"SFS1"
HEADER_BYTES = 152
TAG_BYTES = 16
NONCE = bytes(12)  # safe only because no key seals twice
EMPTY_32 = bytes(32)

_LAYOUT = struct.Struct(">4sB3s32sQQQQQ32sQ32s")

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Header:
    """What a frame says about itself; all of it is covered by signature or tag."""

    type: int
    session: bytes
    epoch: int
    round: int
    attempt: int
    sender: int
    receiver: int
    fresh: bytes  # 32 random bytes of one side and attempt; a refusal puts SHA-256 of the refused request here
    body_bytes: int
    key_id: bytes = EMPTY_32  # CKKS only

    def encode(self) -> bytes:
        """Return the 152 bytes."""
        return _LAYOUT.pack(
            MAGIC,
            self.type,
            bytes(3),
            self.session,
            self.epoch,
            self.round,
            self.attempt,
            self.sender,
            self.receiver,
            self.fresh,
            self.body_bytes,
            self.key_id,
        )


@dataclass(frozen=True, slots=True)
class Address:
    """Who speaks to whom in which attempt: a header without type and size."""

    session: bytes
    epoch: int
    round: int
    attempt: int
    sender: int
    receiver: int
    fresh: bytes
    key_id: bytes = EMPTY_32

    def header(self, message_type: int, body_bytes: int) -> Header:
        """Return the header of one message."""
        return Header(
            type=message_type,
            session=self.session,
            epoch=self.epoch,
            round=self.round,
            attempt=self.attempt,
            sender=self.sender,
            receiver=self.receiver,
            fresh=self.fresh,
            body_bytes=body_bytes,
            key_id=self.key_id,
        )


def read_header(frame: Buffer) -> Header:
    """Decode the first 152 bytes. Raises MalformedMessage unless they are a header of this version."""
    if len(frame) < HEADER_BYTES:
        raise MalformedMessage(f"expected a frame of at least {HEADER_BYTES} bytes, got {len(frame)}. Drop it.")
    magic, kind, zeros, session, epoch, number, attempt, sender, receiver, fresh, body, key_id = _LAYOUT.unpack_from(
        frame
    )
    if magic != MAGIC or zeros != bytes(3):
        raise MalformedMessage("expected a frame that begins with SFS1 and a type, got other bytes. Drop it.")
    return Header(kind, session, epoch, number, attempt, sender, receiver, fresh, body, key_id)


def cut(frame: Buffer, header: Header, trailer_bytes: int, *, open_ended: bool = False) -> memoryview:
    """Return the body as a view, once the frame's length is what its header says.

    open_ended: bytes after the trailer are allowed (the sealed model behind R0's signature, the list behind R1').
    Raises MalformedMessage otherwise.
    """
    expected = HEADER_BYTES + header.body_bytes + trailer_bytes
    if len(frame) < expected or (len(frame) > expected and not open_ended):
        raise MalformedMessage(f"expected a frame of {expected} bytes, got {len(frame)}. Drop it.")
    return memoryview(frame)[HEADER_BYTES : HEADER_BYTES + header.body_bytes]


# --- signed ----------------------------------------------------------------------------------------------------------


def sign_frame(header: Header, body: bytes, signing_key: Ed25519PrivateKey, body_digest: bytes = b"") -> bytes:
    """Return header, body and the Ed25519 signature over lp(LABEL, "frame", header, SHA-256 of the body).

    body_digest: that SHA-256, where many frames have one body; a list of 10,000 sites has up to 1.4 MB.
    """
    head = header.encode()
    digest = body_digest or hashlib.sha256(body).digest()
    return b"".join((head, body, signing_key.sign(signed_bytes("frame", head, digest))))


def verify_frame(frame: Buffer, body: memoryview, public_key: bytes) -> None:
    """Check a signed frame over the bytes received. Raises BadSignature."""
    start = HEADER_BYTES + len(body)
    signature = bytes(memoryview(frame)[start : start + SIGNATURE_BYTES])
    check_signature(public_key, signature, "frame", bytes(frame[:HEADER_BYTES]), hashlib.sha256(body).digest())


# --- sealed, or MAC'd ------------------------------------------------------------------------------------------------


def seal(key: bytes, plaintext: Buffer, associated: Buffer) -> bytes:
    """Return AES-256-GCM ciphertext and 16-byte tag. key: 32 bytes; a second use would disclose both messages."""
    return AESGCM(key).encrypt(NONCE, plaintext, associated)


def unseal(key: bytes, sealed: Buffer, associated: Buffer) -> bytes:
    """Return the plaintext. Raises BadSignature when key, ciphertext or associated data do not belong together."""
    try:
        return AESGCM(key).decrypt(NONCE, sealed, associated)
    except (InvalidTag, ValueError):
        raise BadSignature("expected a tag of this link's key over these bytes, got another. Drop it.") from None


def seal_frame(
    address: Address, message_type: int, plaintext: bytes, key: bytes, clear: bytes = b"", clear_digest: bytes = b""
) -> bytes:
    """Return a frame whose body is ciphertext under the header as associated data.

    clear: what follows in clear, the same for many sites; its digest is associated data too, so that the tag covers
    it and no site's frame costs more than a copy of it.
    """
    head = address.header(message_type, len(plaintext)).encode()
    return b"".join((head, seal(key, plaintext, _associated(head, clear_digest)), clear))


def unseal_frame(frame: Buffer, key: bytes, clear_bytes: int = 0, clear_digest: bytes = b"") -> bytes:
    """Return the plaintext body of a sealed frame. clear_bytes: how many follow its tag in clear.

    Raises BadSignature.
    """
    view = memoryview(frame)
    associated = _associated(bytes(view[:HEADER_BYTES]), clear_digest)
    return unseal(key, view[HEADER_BYTES : len(view) - clear_bytes], associated)


def _associated(head: bytes, clear_digest: bytes) -> bytes:
    """Return what a sealed frame's tag covers beside its body."""
    return head + clear_digest


def mac_frame(address: Address, message_type: int, body: memoryview, key: bytes) -> bytes:
    """Return header, body in clear and the GCM tag of an empty plaintext with both as associated data."""
    head = address.header(message_type, len(body)).encode()
    return b"".join((head, body, gmac(key, head, body)))


def gmac(key: bytes, *parts: Buffer) -> bytes:
    """Return the tag of an empty AES-256-GCM plaintext with all parts as associated data, without joining them.

    key: 32 bytes; a second use would let tags be made for other vectors.
    """
    cipher = Cipher(algorithms.AES(key), modes.GCM(NONCE)).encryptor()
    for part in parts:
        cipher.authenticate_additional_data(part)
    cipher.finalize()
    return cipher.tag


def mac_digest(frame: Buffer) -> bytes:
    """Return SHA-256 of a MAC'd frame's header and tag: what a site writes down of an answer with a vector.

    The key makes one tag in its life and only the sender and the coordinator hold it, so among the answers of a site
    these 168 bytes name one. They do not bind the coordinator, who could make another body for them; no party relies
    on that: a row keeps its own site from a second answer, and SHA-256 of 4 MB would cost as much as four masks.
    """
    view = memoryview(frame)
    return hashlib.sha256(bytes(view[:HEADER_BYTES]) + bytes(view[-TAG_BYTES:])).digest()


def verify_mac(frame: Buffer, key: bytes) -> None:
    """Check a MAC'd frame over the bytes received. Raises BadSignature."""
    view = memoryview(frame)
    unseal(key, view[-TAG_BYTES:], view[:-TAG_BYTES])
