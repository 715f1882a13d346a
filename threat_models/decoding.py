"""From captured bytes to vectors, with the production decoders; what every adversary may use."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from secure_frl.ckks.ciphertexts import open_sum
from secure_frl.ckks.worker import Worker, limits_for
from secure_frl.encoding.slots import CHUNK_VALUES, PREFIX_BYTES, SLOTS, plan_chunks
from secure_frl.errors import DecryptionFailed
from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES, read_header
from secure_frl.wire.messages import MessageType
from secure_frl.wire.registry import LANE_WORDS
from threat_models.threat import CapturedView, PublicInfo, Summed, Vector


def centred(words: NDArray[np.uint32 | np.uint64], bits: int) -> NDArray[np.int64]:
    """Return words modulo 2^bits as integers around zero, int64."""
    if bits == 64:
        return words.astype(np.uint64).view(np.int64)
    half = 1 << (bits - 1)
    return (words.astype(np.int64) + half) % (1 << bits) - half


def uploads(view: CapturedView, public: PublicInfo) -> dict[tuple[int, int], Vector]:
    """Return what each site uploaded in each round, float64 [P] in units of the message, by (round, site).

    Under `unsafe-plain` that is the update; under masking it is uniform. The last attempt counts.
    """
    found: dict[tuple[int, int], Vector] = {}
    dtype, edge = ("<u4" if public.modulus_bits <= 32 else "<u8"), LANE_WORDS // 2
    for item in view.frames:
        if item.direction != "to_coordinator":
            continue
        header = read_header(item.frame)
        if header.type != MessageType.R2:
            continue
        words: NDArray[np.uint32 | np.uint64] = np.frombuffer(item.frame[HEADER_BYTES:-TAG_BYTES], dtype=dtype)
        values = centred(words, public.modulus_bits)[edge:-edge]
        found[header.round, header.sender] = values / public.scale
    return found


def ciphertexts(view: CapturedView) -> dict[tuple[int, int], bytes]:
    """Return the ciphertexts that a coordinator unsealed, by (round, site); it has them in its memory."""
    names = (name.split("/") for name in view.secrets if name.startswith("ciphertexts/"))
    return {(int(number), int(site)): view.secrets[f"ciphertexts/{number}/{site}"] for _, number, site in names}


def encrypted_sums(view: CapturedView) -> dict[tuple[int, int], bytes]:
    """Return the ciphertexts that a coordinator passed on as the sum, by (round, site that was given them)."""
    found: dict[tuple[int, int], bytes] = {}
    for item in view.frames:
        header = read_header(item.frame) if item.direction == "to_site" else None
        if header is not None and header.type == MessageType.R5C:
            found[header.round, header.receiver] = item.frame[HEADER_BYTES + header.body_bytes + TAG_BYTES :]
    return found


def decrypted(
    view: CapturedView, bodies: Mapping[tuple[int, int], bytes], contributors: int, public: PublicInfo
) -> dict[tuple[int, int], Vector]:
    """Return what the keys in a view's memory make of ciphertexts, float64 [P] in units of the message.

    contributors: how many vectors are in each of the bodies. What no key opens is left out; without a key, all.
    Under `ckks+masking` what opens is uniform. The worker is a site's own: nothing but integers leaves it.
    """
    plan = plan_chunks(sites=public.sites, length=public.length, modulus_bits=public.modulus_bits)
    found: dict[tuple[int, int], Vector] = {}
    for name, context in view.secrets.items():
        if not name.startswith("key/"):
            continue
        with Worker(limits_for(plan), context) as worker:
            for place, body in bodies.items():
                try:
                    words = open_sum(body, plan, contributors, worker)
                except DecryptionFailed:
                    continue
                edge = LANE_WORDS // 2
                found[place] = centred(words, public.modulus_bits)[edge:-edge] / public.scale
    return found


def unencrypted(body: bytes, public: PublicInfo) -> Vector:
    """Return what a site's ciphertexts say to whoever reads their bytes without a key, float64 [P].

    The first bytes of each chunk are taken for the slots that an encryption is given: bodies that nobody had encrypted
    would be read whole. What is too short for slots is zero.
    """
    plan = plan_chunks(sites=public.sites, length=public.length, modulus_bits=public.modulus_bits)
    words, at, shift = np.zeros(plan.words, np.uint64), 0, 0
    for width in plan.limb_widths:
        for start in range(0, plan.words, CHUNK_VALUES):
            end = at + PREFIX_BYTES + int.from_bytes(body[at : at + PREFIX_BYTES], "big")
            chunk = body[at + PREFIX_BYTES : end][: 8 * SLOTS].ljust(8 * SLOTS, b"\0")
            part, at = words[start : start + CHUNK_VALUES], end
            slots = np.frombuffer(chunk, "<i8")[SLOTS - CHUNK_VALUES :][: part.size].astype(np.uint64)
            limb = (slots + np.uint64(1 << (width - 1))) & np.uint64((1 << width) - 1)
            part |= limb << np.uint64(shift)
        shift += width
    bits, edge = public.modulus_bits, LANE_WORDS // 2
    words = (words - np.uint64(1 << (bits - 1))) & np.uint64((1 << bits) - 1)
    return np.asarray(centred(words, bits)[edge:-edge] / public.scale, dtype=np.float64)


def sums(view: CapturedView, public: PublicInfo) -> dict[int, Vector]:
    """Return the sums that the view may read, float64 [P] in units of the message, by round."""
    return {number: _real(total, public) for number, total in view.sums.items()}


def without_own(view: CapturedView, public: PublicInfo) -> dict[int, Vector]:
    """Return the sums less what the view's own sites put in, float64 [P] in units of the message, by round."""
    found = sums(view, public)
    for (number, site), integers in view.own_updates.items():
        if number in found and site in view.sums[number].contributors:
            found[number] = found[number] - integers / public.scale
    return found


def gradients(vector: Vector, public: PublicInfo) -> dict[str, Vector]:
    """Return a message as the gradients of its parameters, by name and in their own shapes; zero where none is sent."""
    found: dict[str, Vector] = {}
    for part in public.parts:
        flat = found.setdefault(part.parameter, np.zeros(int(np.prod(public.shapes[part.parameter]))))
        flat[part.coordinates] = vector[part.start : part.stop] * part.factor
    return {name: flat.reshape(public.shapes[name]) for name, flat in found.items()}


def _real(total: Summed, public: PublicInfo) -> Vector:
    return np.asarray(total.integers / public.scale, dtype=np.float64)
