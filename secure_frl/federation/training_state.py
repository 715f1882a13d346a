"""What is trained between two rounds, with its bytes: the model that the protocol tags and hands over.

The bytes are a canonical JSON manifest of names, dtypes and shapes after its length, then the arrays as raw
little-endian numbers. A fifth array of one value, the clip in force, stands there only when clipping adapts, and one
of second moments, last, only with Adam.
Decoding is strict: one manifest for one state, exact length, finite values, a size limit. No pickle, and no other
encoding of the same state, since sites compare hashes of these bytes.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter, MalformedMessage

FORMAT = "secure_frl/model/v1"
MAX_VALUES = 4_000_000  # a state of one array; keeps a peer from making us allocate more than 32 MB for it
MAX_MANIFEST_BYTES = 1024
FIRST_PREDECESSOR = bytes(32)
# `logits` is this format's name of the parameters, whatever the policy: bytes that sites have hashed stay the same.
_ARRAYS = {"logits": "parameters", "momentum": "momentum", "critic": "critic", "visits": "visits"}
_CLIP = "clip_norm"
_SECOND = "second_moment"
_HEADER = struct.Struct(">I")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TrainingState:
    """Policy, optimiser and critic after a round. Every value comes from released sums and charter constants."""

    parameters: NDArray[np.float64]  # [parameters that are sent], in the order of the policy's block
    momentum: NDArray[np.float64]  # [parameters that are sent]; of values, the released count of each pair
    critic: NDArray[np.float64]  # [live states], public values
    visits: NDArray[np.float64]  # [live states], decayed sum of released visit counts
    round: int  # the round that made it; 0 before the first
    predecessor: bytes  # SHA-256 of the bytes of the state before; zeros before the first
    clip_norm: float | None = None  # of the policy's block in the next round, when it adapts; else the charter's
    second_moment: NDArray[np.float64] | None = None  # [parameters that are sent], with Adam; else there is none

    def __post_init__(self) -> None:
        for name in (*_ARRAYS.values(), *(() if self.second_moment is None else (_SECOND,))):
            value = getattr(self, name)
            if value.dtype != np.float64 or value.ndim != 1 or not np.isfinite(value).all():
                raise InvalidParameter(f"{name} must be a finite float64 vector. A sum out of range was let through.")
        moments = (self.momentum, self.momentum if self.second_moment is None else self.second_moment)
        if any(one.shape != self.parameters.shape for one in moments) or self.critic.shape != self.visits.shape:
            raise InvalidParameter(
                "parameters and moments, and critic and visits, must have equal shapes. Use one layout."
            )
        if self.clip_norm is not None and not 0 < self.clip_norm < float("inf"):
            raise InvalidParameter(f"clip_norm must be finite and positive, not {self.clip_norm}. Use the step's.")
        if self.round < 0 or len(self.predecessor) != 32:
            raise InvalidParameter("round must be at least 0 and predecessor 32 bytes. Use the state before.")

    def to_bytes(self) -> bytes:
        """Return the canonical bytes of this state."""
        more = _more(self.parameters.size, self.clip_norm is not None, self.second_moment is not None)
        manifest = _manifest(self.round, self.predecessor, self.parameters.size, self.critic.size, more)
        arrays = [getattr(self, name).astype("<f8").tobytes() for name in _ARRAYS.values()]
        if self.clip_norm is not None:
            arrays.append(struct.pack("<d", self.clip_norm))
        if self.second_moment is not None:
            arrays.append(self.second_moment.astype("<f8").tobytes())
        return b"".join([_HEADER.pack(len(manifest)), manifest, *arrays])

    @staticmethod
    def from_bytes(content: bytes) -> TrainingState:
        """Return the state that `to_bytes` wrote. Raises MalformedMessage for any other bytes."""
        manifest, fields = _read_manifest(content)
        sizes = [fields["logits"], fields["logits"], fields["critic"], fields["critic"]]
        names = list(_ARRAYS.values())
        sizes, names = [*sizes, *fields["more"].values()], [*names, *fields["more"]]
        start = _HEADER.size + len(manifest)
        if len(content) != start + 8 * sum(sizes):
            raise MalformedMessage(
                f"a model of {start + 8 * sum(sizes)} bytes was announced, but {len(content)} came. Ask for it again."
            )
        arrays: dict[str, NDArray[np.float64]] = {}
        for name, size in zip(names, sizes, strict=True):
            arrays[name] = np.frombuffer(content, dtype="<f8", count=size, offset=start).astype(np.float64)
            start += 8 * size
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise MalformedMessage("every value of a model must be finite, but one is not. Refuse its sender.")
        clip = arrays.pop(_CLIP, None)
        if clip is not None and not clip[0] > 0:
            raise MalformedMessage("the clip of a model must be positive, but is not. Refuse its sender.")
        return TrainingState(
            **arrays,
            round=fields["round"],
            predecessor=bytes.fromhex(fields["predecessor"]),
            clip_norm=None if clip is None else float(clip[0]),
        )


def _more(parameters: int, has_clip: bool, has_second_moment: bool) -> dict[str, int]:
    """Return the arrays that not every state has, in their order, with their sizes."""
    return ({_CLIP: 1} if has_clip else {}) | ({_SECOND: parameters} if has_second_moment else {})


def _manifest(round_number: int, predecessor: bytes, parameters: int, critic: int, more: dict[str, int]) -> bytes:
    shapes = dict(zip(_ARRAYS, (parameters, parameters, critic, critic), strict=True)) | more
    fields = {
        "arrays": [{"dtype": "<f8", "name": name, "shape": [size]} for name, size in shapes.items()],
        "format": FORMAT,
        "predecessor": predecessor.hex(),
        "round": round_number,
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")


def _read_manifest(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the manifest's bytes and its free values. Any: they are checked one by one below."""
    if len(content) < _HEADER.size:
        raise MalformedMessage("a model begins with the length of its manifest, but ended before it. Ask again.")
    (size,) = _HEADER.unpack_from(content)
    manifest = content[_HEADER.size : _HEADER.size + size]
    if size > MAX_MANIFEST_BYTES or len(manifest) != size:
        raise MalformedMessage(f"a manifest has at most {MAX_MANIFEST_BYTES} bytes, not {size}. Refuse its sender.")
    try:
        raw = json.loads(manifest.decode("ascii"))
        shapes = [entry["shape"][0] for entry in raw["arrays"]]
        fields = {"logits": shapes[0], "critic": shapes[2], "round": raw["round"], "predecessor": raw["predecessor"]}
        numbers = (fields["logits"], fields["critic"], fields["round"])
        plain = all(type(number) is int and 0 <= number <= MAX_VALUES for number in numbers)
        predecessor = bytes.fromhex(fields["predecessor"])
        found = {entry["name"] for entry in raw["arrays"]}
        fields["more"] = _more(fields["logits"], _CLIP in found, _SECOND in found)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as wrong:
        raise MalformedMessage(
            "a model's manifest names arrays, format, predecessor and round; this is not one."
        ) from wrong
    # Only the one canonical spelling is accepted: two byte strings for one state would have two tags.
    if (
        not plain
        or len(predecessor) != 32
        or manifest != _manifest(fields["round"], predecessor, fields["logits"], fields["critic"], fields["more"])
    ):
        raise MalformedMessage("a model's manifest is not in its canonical form. Refuse its sender.")
    return manifest, fields
