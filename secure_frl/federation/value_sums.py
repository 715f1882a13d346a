"""A site's part in fitted value iteration: its records' sums under the broadcast values, clipped, rounded, noised.

Round 1 sends the value start, the rounds after it errors under the values that followed from it. Every unit enters
with a weight of its own, by which its counts are within their bound: longer stays count less, and as much less in
errors and returns as in the counts that these are divided by. Nothing here raises for a reason that lies in data.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import CharterViolation
from secure_frl.federation.optimisers import critic_values
from secure_frl.federation.training_state import TrainingState
from secure_frl.learning.forms import PolicyForm
from secure_frl.learning.layout import POLICY_BLOCK
from secure_frl.learning.trajectories import Trajectories
from secure_frl.learning.value_sums import Entries, PairTable, error_sums, pair_counts, return_sums, unit_norms
from secure_frl.privacy.optimizer import noised_integers
from secure_frl.privacy.round_shares import blocks_in_round
from secure_frl.privacy.sparse_units import clip_entries
from secure_frl.privacy.unit import units_of
from secure_frl.privacy.update import PrivateUpdate
from secure_frl.secure_sum import PAIR_COUNTS, RETURNS, RandomSource, SumConstants
from secure_frl.study import Study


class ValueSums:
    """Sums of one study's records; holds no data between rounds."""

    def __init__(self, study: Study, constants: SumConstants, form: PolicyForm) -> None:
        """form: of a table over states, as the study has it."""
        self._study, self._constants, self._states = study, constants, form.states
        admissible = form.admissible
        if admissible is None:
            raise TypeError("expected a table of states. Its study was checked before.")
        self._table = PairTable.of(admissible[: form.live_states])

    def update(
        self,
        state: TrainingState,
        trajectories: Trajectories,
        usable: NDArray[np.bool_],
        random: RandomSource,
        receipt: int,
    ) -> PrivateUpdate:
        """Return the noised integers of the round after a state; see `private_update`.

        usable: bool [B]; a unit with a trajectory that is not usable contributes zero.
        """
        units = units_of(trajectories.persons, self._study.privacy.unit)
        left_out = np.bincount(units[~usable], minlength=1) > 0
        kept = np.flatnonzero(~np.pad(left_out, (0, max(0, units.size - left_out.size)))[units])
        message = self.message(state, trajectories.select(kept), units[kept])
        blocks = blocks_in_round(self._constants.blocks, self._study.training.rounds, state.round + 1)
        vector, broken = clip_entries(message, blocks, int(units.max(initial=-1)) + 1)
        constants = replace(self._constants, blocks=blocks)
        integers = noised_integers(vector, constants, random)
        return PrivateUpdate(integers, constants.scale, receipt, broken + int(np.count_nonzero(left_out)))

    def message(self, state: TrainingState, trajectories: Trajectories, units: NDArray[np.int64]) -> Entries:
        """Return every unit's message before clipping. It stays in this process."""
        training, table = self._study.training, self._table
        count = int(units.max(initial=-1)) + 1
        counts = pair_counts(trajectories, units, table)
        bound = training.bellman.count_clip_norm
        weights = bound / np.maximum(unit_norms(counts, count), bound)
        if state.round > 0:
            errors = error_sums(trajectories, units, table, critic_values(state, self._states), training.discount)
            return self._placed(weights, (errors, POLICY_BLOCK))
        first = self._study.policy.critic_start
        returns = return_sums(trajectories, units, table, first, training.discount)
        return self._placed(weights, (counts, PAIR_COUNTS), (returns, RETURNS))

    def _placed(self, weights: NDArray[np.float64], *parts: tuple[Entries, str]) -> Entries:
        starts = {block.name: block.start for block in self._constants.blocks}
        return Entries(
            np.concatenate([entries.unit for entries, _ in parts]),
            np.concatenate([entries.place + starts[name] for entries, name in parts]),
            np.concatenate([entries.value * weights[entries.unit] for entries, _ in parts]),
        )


def check_round(study: Study, state: TrainingState, round_number: int) -> None:
    """Refuse a backup of values that never started: it would spend what a new study could use.

    Also refuse a first round under values that have started: books would have the value start's share for a backup's.
    Raises CharterViolation, before anything is booked. Both numbers are public.
    """
    if not study.sums_values or (round_number > 1) == (state.round > 0):
        return
    if state.round > 0:
        raise CharterViolation(
            f"expected the value start of round {round_number} before any step, but this site holds the values of step "
            f"{state.round}. Nothing was sampled: go on with a later round."
        )
    raise CharterViolation(
        f"expected the value start of round 1 before round {round_number}, but that round was lost, and its share of "
        "the budget stays spent. Nothing more is sampled or spent: begin another study with what is left."
    )
