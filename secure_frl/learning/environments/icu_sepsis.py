"""ICU-Sepsis, the home benchmark: treatment of sepsis as a Markov decision process with published tables.

States 0..712 are live, 713 is death, 714 survival, 715 the absorbing state that nothing here visits. An action is
one of five fluid levels times one of five vasopressor levels. The reward is 1 on survival and the discount 1. An
action that is not admissible in a state has the mean row of the admissible ones. Only non-zeros of admissible rows
are stored; see data/README.md for where they come from.

Training may use `admissible_actions` and sampled episodes. The tables themselves are for the environment and for
evaluation: a learner that read them would need no patients.

Source: Choudhary, Gupta and Thomas 2024, ICU-Sepsis: A Benchmark MDP Built from Real Medical Data.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import EvidenceRefused, InvalidParameter, UnexpectedState

STATES = 716
ACTIONS = 25
LIVE_STATES = 713
SURVIVAL = 714
SAMPLERS_KEPT = 16  # 27 MB each; sites with tables of their own beyond these build theirs again, .1 s each
TABLES_SHA256 = "ca1a105a434d05d3c135398c6190f7f4896204150a6df828b01cd548153e58bf"  # printed by build_tables.py


@dataclass(frozen=True, slots=True, eq=False)
class IcuSepsisTables:
    """The published tables; every array is read-only. Pairs are admissible (state, action), live states only."""

    admissible: NDArray[np.bool_]  # [716, 25]
    row_starts: NDArray[np.int64]  # [pairs + 1]: row i of the non-zeros is [row_starts[i], row_starts[i + 1])
    next_states: NDArray[np.int64]  # [non-zeros]
    probabilities: NDArray[np.float64]  # [non-zeros]
    initial: NDArray[np.float64]  # [716]
    expert: NDArray[np.float64]  # [716, 25], the clinicians' policy
    sofa: NDArray[np.float64]  # [716], severity score
    features: NDArray[np.float32]  # [716, 47], the clusters' centres as published; 0 in terminal states


@cache
def load_tables() -> IcuSepsisTables:
    """Read the tables of this package once. Raises EvidenceRefused when their bytes are not the published ones."""
    content = resources.files(__package__).joinpath("data/icu_sepsis.npz").read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != TABLES_SHA256:
        raise EvidenceRefused(
            f"the ICU-Sepsis tables must have sha256 {TABLES_SHA256[:12]}..., not {found[:12]}.... "
            "Install the package again, or rebuild them with examples/icu_sepsis/build_tables.py."
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        tables = IcuSepsisTables(
            admissible=stored["admissible"],
            row_starts=stored["row_starts"].astype(np.int64),
            next_states=stored["next_states"].astype(np.int64),
            probabilities=stored["probabilities"].astype(np.float64),
            initial=stored["initial"].astype(np.float64),
            expert=stored["expert"].astype(np.float64),
            sofa=stored["sofa"].astype(np.float64),
            features=stored["features"].astype(np.float32),
        )
    for name in IcuSepsisTables.__slots__:
        getattr(tables, name).setflags(write=False)
    return tables


def admissible_actions() -> NDArray[np.bool_]:
    """Return the public table of admissible actions, bool [716, 25], read-only."""
    return load_tables().admissible


GUIDES = 512  # parts of a row's interval, a power of two: most of them lie in one state's and need no search


@dataclass(frozen=True, slots=True, eq=False)
class Sampler:
    """Inverse CDF over all rows at once: row i occupies the interval (i, i + 1] of one ascending array.

    The guide says of each part of an interval which state is drawn there, if it is one. It changes no draw.
    Source: Chen and Asau 1974, On generating random variates from an empirical distribution (guide tables).
    """

    row_of: NDArray[np.int64]  # [716 * 25]: an admissible pair's own row, else the state's mean row
    edges: NDArray[np.float64]  # i + cumulative probability; the last edge of a row is exactly i + 1
    targets: NDArray[np.int64]
    guide: NDArray[np.int16]  # [rows * GUIDES]: the state, or -1 where an edge lies inside the part
    initial_edges: NDArray[np.float64]
    initial_states: NDArray[np.int64]


@lru_cache(maxsize=SAMPLERS_KEPT)
def sampler_of(tables: IcuSepsisTables) -> Sampler:
    """Return what draws from tables: the published ones, or those of a site that differs."""
    live = tables.admissible[:LIVE_STATES]
    pairs = tables.row_starts.size - 1
    pair_of_value = np.repeat(np.arange(pairs), np.diff(tables.row_starts))
    dense = np.zeros((pairs + LIVE_STATES, STATES))
    dense[pair_of_value, tables.next_states] = tables.probabilities
    first_pair = np.concatenate(([0], np.cumsum(live.sum(axis=1))))[:-1]
    dense[pairs:] = np.add.reduceat(dense[:pairs], first_pair, axis=0) / live.sum(axis=1)[:, None]
    row_of = np.zeros((STATES, ACTIONS), dtype=np.int64)
    row_of[:LIVE_STATES] = (pairs + np.arange(LIVE_STATES))[:, None]
    row_of[:LIVE_STATES][live] = np.arange(pairs)
    rows, targets = np.nonzero(dense)
    cumulative = np.cumsum(dense, axis=1)
    edges = rows + (cumulative / cumulative[:, -1:])[rows, targets]
    edges[np.flatnonzero(np.diff(rows, append=rows[-1] + 1))] = np.arange(dense.shape[0]) + 1.0
    initial_states = np.flatnonzero(tables.initial)
    initial_edges = np.cumsum(tables.initial[initial_states])
    initial_edges /= initial_edges[-1]
    return Sampler(row_of.ravel(), edges, targets, _guide(edges, rows, targets), initial_edges, initial_states)


def _guide(edges: NDArray[np.float64], rows: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.int16]:
    """Return what `Sampler.guide` holds. rows: int64, of each edge, ascending."""
    parts = (int(rows[-1]) + 1) * GUIDES
    scaled = (edges - rows) * GUIDES  # exact: a difference within a factor of two or from 0, then a power of two
    inside = rows * GUIDES + scaled.astype(np.int64)
    # Draws of part b lie above edges at or below its lower end, and in the state of the first edge beyond them.
    first_beyond = rows * GUIDES + np.ceil(scaled).astype(np.int64)
    below = np.cumsum(np.bincount(first_beyond, minlength=parts + 1))[:parts]
    guide = targets[below].astype(np.int16)
    guide[inside[scaled != np.floor(scaled)]] = -1
    guide.setflags(write=False)
    return guide


def draw(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Draw (k + 1/2) / 2**32: never 0 or 1, and exact after a row number is added, so no row can spill over."""
    uniform = generator.integers(0, 2**32, size=count, dtype=np.uint32).astype(np.float64)
    uniform += 0.5
    uniform *= 2.0**-32
    return uniform


def admit(uniform: NDArray[np.float64], sampler: Sampler | None = None) -> NDArray[np.int64]:
    """Return the first states of patients, int64 [n]. uniform: float64 [n] from `draw`.

    sampler: of a site that differs; None: of the published tables.
    """
    sampler = sampler or sampler_of(load_tables())
    return sampler.initial_states[np.searchsorted(sampler.initial_edges, uniform)]


def treat(
    states: NDArray[np.int64],
    actions: NDArray[np.int64],
    uniform: NDArray[np.float64],
    sampler: Sampler | None = None,
) -> NDArray[np.int64]:
    """Return the next states of live patients, int64 [n].

    states: int64 [n] below 713. actions: int64 [n] in 0..24. uniform: float64 [n] from `draw`. sampler: as in `admit`.
    """
    sampler = sampler or sampler_of(load_tables())
    row = sampler.row_of[states * ACTIONS + actions]
    landed: NDArray[np.int64] = sampler.guide[row * GUIDES + (uniform * GUIDES).astype(np.int64)].astype(np.int64)
    open_ = np.flatnonzero(landed < 0)
    landed[open_] = sampler.targets[np.searchsorted(sampler.edges, row[open_] + uniform[open_])]
    return landed


class IcuSepsis:
    """`count` patients side by side; an Environment.

    Every copy draws `count` numbers at each step, also when some episodes are over, so an episode depends on the
    generator and its own actions only.
    """

    def __init__(self, count: int, max_steps: int = 48, tables: IcuSepsisTables | None = None) -> None:
        """Raise InvalidParameter unless count >= 0 and max_steps >= 1. tables: of a site; None: the published ones."""
        if count < 0 or max_steps < 1:
            raise InvalidParameter(
                f"count must be at least 0 and max_steps at least 1, not {count} and {max_steps}. Correct the call."
            )
        self._sampler = sampler_of(tables or load_tables())
        self._count = count
        self._max_steps = max_steps
        self._generator: np.random.Generator | None = None
        self._states = np.zeros(count, dtype=np.int64)
        self._running = np.zeros(count, dtype=np.bool_)
        self._taken = 0

    @property
    def count(self) -> int:
        """Return the number of copies."""
        return self._count

    @property
    def action_count(self) -> int:
        """Return 25."""
        return ACTIONS

    @property
    def max_steps(self) -> int:
        """Return the step after which an episode that goes on is cut."""
        return self._max_steps

    def reset(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """Admit `count` patients; returns their states, int64 [count]."""
        self._generator = generator
        self._states = admit(draw(generator, self._count), self._sampler)
        self._running = np.ones(self._count, dtype=np.bool_)
        self._taken = 0
        return self._states.copy()

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Treat every patient once; see Environment.step.

        actions: int64 [count] in 0..24. Raises UnexpectedState before the first reset.
        """
        if self._generator is None:
            raise UnexpectedState("an environment must be reset before it is stepped. Call reset with a generator.")
        uniform = draw(self._generator, self._count)
        live = np.flatnonzero(self._running)
        landed = treat(self._states[live], actions[live], uniform[live], self._sampler)
        self._states[live] = landed
        self._taken += 1
        reward = np.zeros(self._count, dtype=np.float32)
        ended = np.zeros(self._count, dtype=np.bool_)
        cut = np.zeros(self._count, dtype=np.bool_)
        reward[live] = landed == SURVIVAL
        ended[live] = landed >= LIVE_STATES
        self._running[live] = landed < LIVE_STATES
        if self._taken >= self._max_steps:
            cut = self._running
            self._running = np.zeros(self._count, dtype=np.bool_)
        return self._states.copy(), reward, ended, cut

    def allowed(self, observations: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the admissible actions of states, bool [count, 25]."""
        return admissible_actions()[observations]
