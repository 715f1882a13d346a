"""What an adversary is: where it stands, what it is given, and what it says in the end. Types only.

An adversary sees a `CapturedView` and `PublicInfo`, nothing else: no truth, no other party's memory. `prepare(public,
rng)` is what it computes before it has a view, where there is such a thing; `run(view)` returns a `Guess`, which a
scorer holds against the truth that only scorers open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secure_frl import Study
from secure_frl.learning.trajectories import Trajectories
from secure_frl.wire.capture import Captured

Vector = NDArray[np.float64]
People = Trajectories  # simulated, or those whom an attacker is said to know
Guess = Mapping[str, NDArray[Any]]  # arrays by name, each adversary's own names; Any: scores, states, coins


class View(StrEnum):
    """Where an adversary stands."""

    NETWORK = "network observer"
    COORDINATOR = "coordinator"
    SITE = "one site"
    COALITION = "coordinator with sites"
    POLICY_USER = "user of the released policy"


@dataclass(frozen=True, slots=True)
class Threat:
    """What is attacked, by whom, and under which names others know it."""

    id: str  # our own, stable: SFRL-A3
    name: str  # as --attack takes it
    title: str
    views: frozenset[View]
    given: str  # what the attacker is given beside its view: a codebook, returns, shadow data
    stronger: str  # the next stronger attacker, which was not simulated
    sources: tuple[str, ...]  # paper and section
    stride: str
    linddun: str
    atlas: str  # nearest MITRE ATLAS technique; "" where there is none
    nist: str  # NIST AI 100-2e2025


@dataclass(frozen=True, slots=True)
class Summed:
    """A sum as whoever may read it has it: centred integers, and who is in it."""

    integers: NDArray[np.int64]  # [P]
    contributors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CapturedView:
    """What one role has when a run is over: its frames, and what is in its own memory."""

    role: View
    controlled: tuple[int, ...]  # sites that the role is, or pools with
    frames: tuple[Captured, ...]  # of its own wires, in order
    sums: Mapping[int, Summed]  # by round; empty for a role that may not read them
    policies: Mapping[int, Vector]  # by round: parameters [P of the policy block] that the round's people met
    own_updates: Mapping[tuple[int, int], NDArray[np.int64]]  # by (round, controlled site): integers [P] before masks
    secrets: Mapping[str, bytes]  # keys in its memory that the wire does not show, by name; mostly empty
    asked_again: Mapping[int, Summed] = field(default_factory=dict)  # second sums; of a coordinator that cheats


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the message: which parameter it is the gradient of, and how it was scaled."""

    parameter: str
    start: int
    stop: int
    coordinates: NDArray[np.int64]  # flat indices into the parameter
    factor: float  # a value of the message times this is a clipped gradient: clip / root of the noise share


class PublicInfo(Protocol):
    """What everybody knows: the study, its charter's constants, the code, and the public simulator."""

    @property
    def study(self) -> Study:
        """Return the study under attack."""
        ...

    @property
    def sites(self) -> int:
        """Return n."""
        ...

    @property
    def length(self) -> int:
        """Return P, the values of a message."""
        ...

    @property
    def scale(self) -> float:
        """Return how many steps of the grid make one unit of the message."""
        ...

    @property
    def modulus_bits(self) -> int:
        """Return w, the bits of the ring."""
        ...

    @property
    def parts(self) -> tuple[Part, ...]:
        """Return the stretches of the message, in order."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Return the shape of every parameter."""
        ...

    @property
    def noise_deviation(self) -> float:
        """Return the deviation of the noise in a sum of all sites, in units of the message; 0 without noise."""
        ...

    @property
    def first_policy(self) -> Vector:
        """Return the parameters before the first round."""
        ...

    def arrays(self, policy: Vector) -> Mapping[str, Vector]:
        """Return a policy's parameters by name, in their own shapes."""
        ...

    def codebook(self) -> NDArray[np.float32]:
        """Return the public features of every live state, float32 [states, D]. Raises InvalidParameter without one."""
        ...

    def admissible(self) -> NDArray[np.bool_]:
        """Return which actions each live state allows, bool [states, A]. Raises InvalidParameter without a table."""
        ...

    def people(self, policy: Vector, count: int, seed: int) -> Trajectories:
        """Return simulated people whom a policy treated; anybody can make them."""
        ...

    def messages(self, policy: Vector, people: Trajectories) -> Vector:
        """Return each one's clipped message before rounding, float64 [people, P], under the first critic."""
        ...

    def log_likelihoods(self, policy: Vector, people: Trajectories) -> Vector:
        """Return how likely a policy takes each one's actions where he was, in nats, float64 [people]."""
        ...

    def trained(self, people: Trajectories, rounds: int, seed: int) -> Vector:
        """Return the policy after rounds with the same people at all sites: anybody can train a shadow federation."""
        ...
