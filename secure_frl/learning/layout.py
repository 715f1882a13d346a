"""Which coordinates of which parameters enter the message, in which order, in which block.

Only coordinates that can change are sent: each one that is sent carries noise, bytes and a share of the rounding
bound. The layout is a function of public tables and the study, so every party computes the same one. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.secure_sum import Block

POLICY_BLOCK = "policy"
CRITIC_BLOCK = "critic"
LOGITS = "logits.weight"  # names of the parameters of policies.TablePolicy
RESIDUAL = "residual.weight"
VISITS = "visits.weight"
VISIT_WEIGHT = 0.1  # a visit's length in the critic's vector beside a residual's; fixed, since the clip is joint


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Consecutive values of the message, taken from one parameter."""

    block: str
    parameter: str  # as in `named_parameters()` of the policy
    coordinates: NDArray[np.int64]  # flat indices into that parameter, ascending


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Segments in the order of the message; together they cover [0, length)."""

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if not self.segments:
            raise InvalidParameter("a layout needs at least one segment, but came with none. Name what is trained.")
        for segment in self.segments:
            if segment.coordinates.dtype != np.int64 or segment.coordinates.ndim != 1 or not segment.coordinates.size:
                raise InvalidParameter(
                    f"coordinates of {segment.parameter} must be a non-empty int64 vector. Use np.flatnonzero."
                )
            if segment.coordinates[0] < 0 or (np.diff(segment.coordinates) <= 0).any():
                raise InvalidParameter(f"coordinates of {segment.parameter} must ascend from 0. Sort them once.")
        names = [name for name, _ in groupby(segment.block for segment in self.segments)]
        if len(set(names)) != len(names):
            raise InvalidParameter(f"a block must be consecutive, but the order is {names}. Reorder the segments.")

    @property
    def length(self) -> int:
        """Return P, the number of values of the message."""
        return sum(segment.coordinates.size for segment in self.segments)

    def slice_of(self, parameter: str) -> slice:
        """Return where a parameter's values stand in the message. Raises InvalidParameter for an unknown name."""
        start = 0
        for segment in self.segments:
            stop = start + segment.coordinates.size
            if segment.parameter == parameter:
                return slice(start, stop)
            start = stop
        raise InvalidParameter(f"no segment holds {parameter!r}. Ask for a parameter of this layout.")

    def blocks(self, clip_norm: float, critic_clip_norm: float, critic_noise_share: float) -> tuple[Block, ...]:
        """Return the blocks of the message with their public bounds; the noise shares add to 1.

        clip_norm, critic_clip_norm: L2, > 0. critic_noise_share: in (0, 1); ignored when there is no critic block.
        """
        sizes = [
            (name, sum(segment.coordinates.size for segment in group))
            for name, group in groupby(self.segments, key=lambda segment: segment.block)
        ]
        if len(sizes) == 1:
            return (Block(sizes[0][0], 0, sizes[0][1], clip_norm, 1.0),)
        if not 0 < critic_noise_share < 1:
            raise InvalidParameter(
                f"critic_noise_share must lie between 0 and 1, not {critic_noise_share}. "
                "Set privacy.critic_noise_share, for instance to 0.15."
            )
        settings = {
            POLICY_BLOCK: (clip_norm, 1.0 - critic_noise_share),
            CRITIC_BLOCK: (critic_clip_norm, critic_noise_share),
        }
        blocks: list[Block] = []
        start = 0
        for name, size in sizes:
            blocks.append(Block(name, start, start + size, *settings[name]))
            start += size
        return tuple(blocks)


def table_layout(admissible: NDArray[np.bool_], critic: str) -> Layout:
    """Return the layout of a table policy.

    admissible: bool [live states, actions], the public table without its terminal rows.
    critic: "private" (residual sum and visit count a state, in a block of their own) or "none".
    Logits of a state with one admissible action never change, so they are left out.
    """
    if critic not in ("private", "none"):
        raise InvalidParameter(f"critic must be private or none, not {critic!r}. Correct policy.critic.")
    free = admissible & (admissible.sum(axis=1) > 1)[:, None]
    segments = [Segment(POLICY_BLOCK, LOGITS, np.flatnonzero(free).astype(np.int64))]
    if critic == "private":
        states = np.arange(admissible.shape[0], dtype=np.int64)
        segments += [Segment(CRITIC_BLOCK, RESIDUAL, states), Segment(CRITIC_BLOCK, VISITS, states)]
    return Layout(tuple(segments))
