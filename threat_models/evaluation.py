"""What one attack's evaluation is: which cells of the matrix it fills, and how each is measured.

An evaluation owns the experiment (which study, whose people, how many trials), runs the adversary on views, and scores
its guesses against the truth. The adversary itself lives in `adversaries/` and never meets any of that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from secure_frl.study import Study
from threat_models.results import Cell
from threat_models.threat import Threat


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is run."""

    quick: bool = False
    seed: int = 0

    def trials(self, full: int, quick: int) -> int:
        """Return how many trials to run."""
        return quick if self.quick else full

    def rng(self, *purpose: str) -> np.random.Generator:
        """Return a generator for one purpose; the same purpose draws the same."""
        label = "\x00".join(("secure_frl/attack", str(self.seed), *purpose))
        return np.random.default_rng(np.frombuffer(hashlib.sha256(label.encode()).digest(), dtype="<u4"))

    def study_seed(self, *purpose: str) -> int:
        """Return the seed of one run: no two cells share draws of people or noise."""
        return int(self.rng("study", *purpose).integers(2**32))


@dataclass(frozen=True, slots=True)
class Task:
    """A part of an evaluation that one process runs: some cells that share a run."""

    attack: str
    defences: tuple[str, ...]  # names of the columns that it fills
    title: str  # what is shown while it runs
    seconds: float  # a rough cost on one core, so that long ones start first
    measure: Callable[[Study, Effort], Iterable[Cell]]  # a function of a module or a partial of one: processes run it
    is_control: bool = False  # run whatever columns are asked for: without it the others mean nothing
    also: tuple[str, ...] = ()  # other attacks that its run gives cells of

    @property
    def attacks(self) -> tuple[str, ...]:
        """Return the names of all attacks that it gives cells of."""
        return self.attack, *self.also


class Evaluation(Protocol):
    """One attack or family of attacks."""

    @property
    def threats(self) -> tuple[Threat, ...]:
        """Return what it is about."""
        ...

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        ...

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return what has to be run."""
        ...
