"""Who may contribute to a window: new people each time, and nobody beyond `max_rounds_per_person`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from round_contexts import round_context

from secure_frl.federation import run_folder
from secure_frl.federation.enrolment import enrol, open_site
from secure_frl.federation.run_folder import RunOptions
from secure_frl.federation.simulated_patients import SimulatedPatients
from secure_frl.learning.trajectories import Trajectories
from secure_frl.secure_sum import RoundContext, SiteId
from secure_frl.study import Study

pytestmark = pytest.mark.slow


def _windows(
    study: Study, folder: Path, persons: NDArray[np.uint64] | None
) -> tuple[list[NDArray[np.uint32]], list[Trajectories]]:
    """Return what one site adds to three rounds, without noise, and the windows behind it.

    persons: who they are in every window; None leaves them as they come.
    """
    seen: list[Trajectories] = []
    collect = SimulatedPatients.collect

    def watched(self: SimulatedPatients, probabilities: NDArray[np.float64], context: RoundContext) -> Trajectories:
        window = collect(self, probabilities, context)
        seen.append(window if persons is None else replace(window, persons=persons))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedPatients, "collect", watched)
        run = run_folder.begin(folder, study, RunOptions(), None)
        enrolled = enrol(run, study, rehearse=False)
        site = open_site(run, enrolled, SiteId(0))
        words = []
        for number in (1, 2, 3):
            words.append(site.contribute(round_context(enrolled.terms, number)).words[2:-2].astype(np.uint32))
            site.release()
            site.close("aborted")
        site.shut_down()
    return words, seen


def test_people_beyond_their_rounds_add_nothing_to_a_window(tiny: Callable[..., Study], tmp_path: Path) -> None:
    overrides = {"privacy.noise": "unsafe-none", "training.rounds": 3, "privacy.max_rounds_per_person": 2}
    same = np.arange(24, dtype=np.uint64)

    words, _ = _windows(tiny(overrides), tmp_path / "run", same)

    assert [bool(found.any()) for found in words] == [True, True, False]


def test_every_window_meets_new_people(tiny: Callable[..., Study], tmp_path: Path) -> None:
    words, windows = _windows(tiny({"privacy.noise": "unsafe-none", "training.rounds": 3}), tmp_path / "run", None)

    assert all(found.any() for found in words)
    assert np.unique(np.concatenate([window.persons for window in windows])).size == 3 * 24
    episodes = {tuple(window.observations.ravel().tolist()) for window in windows}
    assert len(episodes) == 3  # new names stand for new courses, not for the old ones again
