"""A site's own policy: fitted to its own records, in its own folder, behind the last shared round.

Rules (docs/privacy.md): the fit costs no budget because nothing of it leaves the site, and because nothing of it flows
back. So a site keeps the windows that it collected apart from everything that a round reads; it fits once the study is
done; and from then on it takes part in no round of the charter, since people whom it treats by its own policy would
carry what is in its records into a sum (`StudySite.contribute` refuses). The policy is written for the site's owner
alone; the manifest does not list it.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import LedgerCorrupt
from secure_frl.federation.policy_files import description, policy_content
from secure_frl.federation.training import Trainer
from secure_frl.federation.training_state import TrainingState
from secure_frl.files import write_durably
from secure_frl.learning.forms import policy_form
from secure_frl.learning.tabular import Choice
from secure_frl.learning.trajectories import Trajectories
from secure_frl.study import Study

_PRIVATE, _PRIVATE_FOLDER = 0o600, 0o700
_A_STEP = ("observations", "actions", "rewards")  # kept of steps that exist, one after another
_AN_EPISODE = ("terminated", "final_observations")


def personal_path(home: Path, session: bytes) -> Path:
    """Return where a site keeps its own policy of a charter."""
    return home / f"personal-{session.hex()[:16]}.safetensors"


def wants_personal(study: Study) -> bool:
    """Return whether sites fit policies of their own."""
    return study.training.personalise != "none"


class OwnWindows:
    """The windows that a site collected, for its own fit: files of its own, readable by its owner alone."""

    def __init__(self, home: Path, session: bytes) -> None:
        """Nothing is made before something is kept."""
        self._folder = home / f"own-{session.hex()[:16]}"

    def keep(self, trajectories: Trajectories, name: str) -> None:
        """Write one window down, synced; again under the same name, it is replaced."""
        self._folder.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
        exists = trajectories.steps
        arrays: dict[str, NDArray[Any]] = {"lengths": trajectories.lengths}
        arrays |= {field: getattr(trajectories, field)[exists] for field in _A_STEP}
        arrays |= {field: getattr(trajectories, field) for field in _AN_EPISODE}
        for field in ("log_behaviour", "allowed"):
            if getattr(trajectories, field) is not None:
                arrays[field] = getattr(trajectories, field)[exists]
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        write_durably(self._folder / f"{name}.npz", content.getvalue(), mode=_PRIVATE)

    def all(self) -> Trajectories | None:
        """Return every window together; None when nothing was kept. Raises LedgerCorrupt for a damaged file."""
        found = []
        for path in sorted(self._folder.glob("*.npz")):
            try:
                with np.load(path, allow_pickle=False) as stored:
                    found.append({name: stored[name] for name in stored.files})
            except (OSError, ValueError, KeyError, BadZipFile) as error:
                raise LedgerCorrupt(
                    f"expected {path.name} as this program wrote it, it is damaged. Remove it, then resume: the site's "
                    "own policy is fitted without that window."
                ) from error
        return _padded(found) if found else None

    def forget(self) -> None:
        """Remove every window. Raises OSError when one cannot be removed: nobody is told that it is gone."""
        if self._folder.exists():
            shutil.rmtree(self._folder)


def _padded(windows: Sequence[dict[str, NDArray[Any]]]) -> Trajectories:
    """Return kept windows as trajectories. Persons are numbered: whoever they were, the fit need not know."""
    together = {name: np.concatenate([window[name] for window in windows]) for name in windows[0]}
    lengths = together.pop("lengths")
    steps = np.arange(max(1, int(lengths.max(initial=1)))) < lengths[:, None]

    def spread(name: str) -> NDArray[Any]:
        kept = together[name]
        found = np.zeros((*steps.shape, *kept.shape[1:]), dtype=kept.dtype)
        found[steps] = kept
        return found

    return Trajectories(
        **{name: spread(name) for name in _A_STEP},
        **{name: together[name] for name in _AN_EPISODE},
        allowed=spread("allowed") if "allowed" in together else None,
        log_behaviour=spread("log_behaviour") if "log_behaviour" in together else None,
        steps=steps,
        persons=np.arange(lengths.size, dtype=np.uint64),
    )


def fit_personal(
    study: Study, trainer: Trainer, state: TrainingState, own: Trajectories | None, home: Path, session: bytes
) -> Path:
    """Fit a site's own policy and write it for its owner; return its path.

    state: the shared policy that the site holds. own: its records, None or empty when nobody came: then the shared
    policy is its own.
    """
    form = policy_form(study)
    arrays, acts_greedily = form.arrays(state.parameters), form.acts_greedily
    if own is not None and own.count:
        moved, are_values = trainer.personal(state, own)
        arrays, acts_greedily = arrays | moved, acts_greedily or are_values
    choice = Choice(study.output.sharpen, acts_greedily)
    path = personal_path(home, session)
    described = description(study, choice, state.round, session)
    write_durably(path, policy_content(study, form, arrays, choice, described), mode=_PRIVATE)
    return path
