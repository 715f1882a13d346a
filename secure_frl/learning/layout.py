"""Which coordinates of which parameters enter the message, in which order, in which block.

Only coordinates that can change are sent: each one that is sent carries noise, bytes and a share of the rounding
bound. The layout is a function of public tables and the study, so every party computes the same one. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.secure_sum import AUXILIARY_BLOCKS, PAIR_COUNTS, RETURNS, Block

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
    """Segments in the order of the message, then one value for each auxiliary figure; together [0, length)."""

    segments: tuple[Segment, ...]
    auxiliary: tuple[str, ...] = ()

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
        if self.auxiliary != tuple(name for name in AUXILIARY_BLOCKS if name in self.auxiliary):
            raise InvalidParameter(
                f"auxiliary figures are {AUXILIARY_BLOCKS} in this order, not {self.auxiliary}. Sort them."
            )

    @property
    def length(self) -> int:
        """Return P, the number of values of the message."""
        return sum(segment.coordinates.size for segment in self.segments) + len(self.auxiliary)

    def segments_of(self, block: str) -> tuple[Segment, ...]:
        """Return the segments of a block, in order."""
        return tuple(segment for segment in self.segments if segment.block == block)

    def slice_of(self, parameter: str) -> slice:
        """Return where a parameter's values stand in the message. Raises InvalidParameter for an unknown name."""
        start = 0
        for segment in self.segments:
            stop = start + segment.coordinates.size
            if segment.parameter == parameter:
                return slice(start, stop)
            start = stop
        raise InvalidParameter(f"no segment holds {parameter!r}. Ask for a parameter of this layout.")

    def blocks(
        self,
        clip_norm: float,
        critic_clip_norm: float,
        critic_noise_share: float,
        auxiliary: Mapping[str, tuple[float, float]] | None = None,
    ) -> tuple[Block, ...]:
        """Return the blocks of the message with their public bounds; noise shares add to 1, the policy has the rest.

        clip_norm, critic_clip_norm: L2, > 0. critic_noise_share: in (0, 1); ignored when there is no critic block.
        auxiliary: for each auxiliary figure, and each block of a value start, its clip and its noise share.
        """
        sizes = {
            name: sum(segment.coordinates.size for segment in group)
            for name, group in groupby(self.segments, key=lambda segment: segment.block)
        } | dict.fromkeys(self.auxiliary, 1)
        others = [name for name in sizes if name not in (POLICY_BLOCK, CRITIC_BLOCK)]
        settings = {name: (auxiliary or {}).get(name, (0.0, 0.0)) for name in others}
        if CRITIC_BLOCK in sizes:
            settings[CRITIC_BLOCK] = (critic_clip_norm, critic_noise_share)
        rest = 1.0 - sum(share for _, share in settings.values())
        if not 0 < rest <= 1 or any(not 0 < share < 1 for _, share in settings.values()):
            shares = {name: share for name, (_, share) in settings.items()}
            raise InvalidParameter(
                f"noise shares must lie between 0 and 1 and leave the policy some, not {shares}. "
                "Set privacy.critic_noise_share, for instance to 0.15, and the other shares of the study."
            )
        settings[POLICY_BLOCK] = (clip_norm, rest)
        blocks: list[Block] = []
        start = 0
        for name, size in sizes.items():
            blocks.append(Block(name, start, start + size, *settings[name]))
            start += size
        return tuple(blocks)


def value_layout(admissible: NDArray[np.bool_]) -> Layout:
    """Return the layout of fitted value iteration on a table: sums of errors a pair, counts a pair, returns a state.

    admissible: bool [live states, actions], the public table without its terminal rows; a pair is admissible.
    """
    pairs = np.flatnonzero(admissible)
    states = np.arange(admissible.shape[0], dtype=np.int64)
    return Layout(
        (
            Segment(POLICY_BLOCK, LOGITS, pairs),
            Segment(PAIR_COUNTS, PAIR_COUNTS, pairs),  # a block and its one parameter of the same name
            Segment(RETURNS, RETURNS, states),
        )
    )


def table_layout(
    admissible: NDArray[np.bool_], critic: str, auxiliary: tuple[str, ...] = (), *, are_values: bool = False
) -> Layout:
    """Return the layout of a table policy.

    admissible: bool [live states, actions], the public table without its terminal rows.
    critic: "private" (residual sum and visit count a state, in a block of their own) or "none".
    Logits of a state with one admissible action never change, so they are left out, unless they are values of actions.
    """
    rows = met_rows(admissible, looks_further=are_values)
    segments = [Segment(POLICY_BLOCK, LOGITS, np.flatnonzero(rows[:, None] & admissible))]
    return Layout((*segments, *_critic_segments(admissible.shape[0], critic)), auxiliary)


def network_layout(
    shapes: Mapping[str, tuple[int, ...]],
    is_met: Mapping[str, NDArray[np.bool_]],
    live_states: int,
    critic: str,
    auxiliary: tuple[str, ...] = (),
    *,
    critic_weights: int = 0,
) -> Layout:
    """Return the layout of networks: one policy block of every parameter that can change.

    shapes: by name, as `networks.Network.shapes`, a value network's behind. is_met: bool [live states] for each
    embedding, the rows that can change. live_states, critic: of `table_layout`. critic_weights: in place of live
    states, of a "private" critic that is linear in features; it sends the residuals' gradient alone.
    """
    segments = []
    for name, shape in shapes.items():
        coordinates = np.arange(math.prod(shape), dtype=np.int64)
        if name in is_met:
            coordinates = np.flatnonzero(np.repeat(is_met[name], shape[1]))
        segments.append(Segment(POLICY_BLOCK, name, coordinates))
    return Layout((*segments, *_critic_segments(live_states, critic, critic_weights)), auxiliary)


def met_rows(admissible: NDArray[np.bool_], looks_further: bool) -> NDArray[np.bool_]:
    """Return which rows of an embedding can change, bool [live states]: where the episode is and has a choice.

    looks_further: also without one, for a memory serves later choices, and values are of every state.
    """
    return np.ones(admissible.shape[0], dtype=np.bool_) if looks_further else _has_choice(admissible)


def _has_choice(admissible: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(admissible.sum(axis=1) > 1)


def _critic_segments(live_states: int, critic: str, weights: int = 0) -> tuple[Segment, ...]:
    if critic not in ("private", "network", "none"):
        raise InvalidParameter(f"critic must be private, network or none, not {critic!r}. Correct policy.critic.")
    if critic != "private":
        return ()
    if weights:
        return (Segment(CRITIC_BLOCK, RESIDUAL, np.arange(weights, dtype=np.int64)),)
    if not live_states:
        raise InvalidParameter("a private critic is a table of states, and features number none. Use critic = network.")
    states = np.arange(live_states, dtype=np.int64)
    return Segment(CRITIC_BLOCK, RESIDUAL, states), Segment(CRITIC_BLOCK, VISITS, states)
