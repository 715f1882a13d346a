"""Logged trajectories of one site: read once before it joins, met again in every round, sampled anew in each.

People are named by a hash under the site's own key as their rows are read; neither name nor hash leaves the site.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from secure_frl.errors import DataRefused
from secure_frl.federation.simulated_patients import made_up
from secure_frl.learning.acting import Acting
from secure_frl.learning.steps_table import SUFFIX, read_steps
from secure_frl.learning.trajectories import Trajectories
from secure_frl.secure_sum import RoundContext
from secure_frl.study import Study
from secure_frl.wire.hashing import lp

_PROBE_EPISODES = 8  # made up, for the checks of module and loss


class LoggedPatients:
    """A site's records, as its steps table has them. Implements `PatientSource`."""

    def __init__(self, study: Study, name: str, person_key: bytes, *, is_rehearsal: bool) -> None:
        """Read the site's table, `data.path`/`name`.parquet.

        person_key: 32 bytes that stay at the site; whoever has them could link records to people.
        is_rehearsal: noise follows from a seed, so only a table that is marked as made-up is taken.
        Raises DataRefused, for this site's own eyes; ConfigError without pyarrow.
        """
        self._study, self._name = study, name
        dataset = study.data.dataset_id
        key = bytes(32) if is_rehearsal else person_key  # a rehearsal repeats itself, and nobody made up is hidden

        def person_of(patient: str) -> int:
            message = lp("person", dataset, patient.encode())
            return int.from_bytes(hmac.digest(key, message, hashlib.sha256)[:8], "little")

        path = Path(study.data.path) / f"{name}{SUFFIX}"
        table = read_steps(path, max_steps=study.data.max_steps, person_of=person_of)
        if is_rehearsal and not table.is_simulated:
            raise DataRefused(
                f"{path.name}: expected a table that is marked as made-up, for a rehearsal protects nobody. "
                "Rehearse with tables from a simulator, or run without --rehearse."
            )
        self._records = table.trajectories

    def __repr__(self) -> str:
        return f"LoggedPatients({self._name})"

    def probe(self) -> Trajectories:
        """Return made-up trajectories: what a check of module or loss refuses may be shown, records may not."""
        return made_up(self._study, _PROBE_EPISODES)

    def records(self) -> Trajectories:
        """Return every record, for the checks before the site joins."""
        return self._records

    def collect(self, acting: Acting, context: RoundContext) -> Trajectories:
        """Return every record, whatever policy acts; which of them take part is drawn at each step."""
        return self._records
