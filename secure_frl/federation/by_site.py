"""What only a simulation can know of a finished run: how the policy does at each site, and among the more severely ill.

Of logged data nothing of this is computed: there each figure would be a function of somebody's records, so a release
that nobody booked. Here the patients are nobody, the worlds are public functions of the study, and the shared policy is
released already. A site's own policy is read from that site's folder, whose owner a simulation plays.

The part of people whose gradient the clip cuts is not taken from anybody's window either: other people are simulated
and treated by the released policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.federation.training import Trainer
from secure_frl.federation.training_state import TrainingState
from secure_frl.learning.evaluation import SEVERITY_GROUPS, ExactValues, Score, severity_groups
from secure_frl.learning.forms import PolicyForm, form_in
from secure_frl.learning.rollout import roll_out
from secure_frl.learning.settings import Setting
from secure_frl.learning.site_settings import exact_at, setting_at, sites_differ
from secure_frl.learning.trajectories import Trajectories
from secure_frl.secure_sum import SumConstants
from secure_frl.study import Study

_CLIP_SEED = 0xC11B  # beside the study's: these people are in no window


def simulated_figures(
    study: Study,
    constants: SumConstants,
    state: TrainingState,
    names: Sequence[str],
    personal: Mapping[str, NDArray[np.float64]],
) -> dict[str, Any] | None:  # Any: JSON values
    """Return figures by site and by severity; None where they would be releases, or nothing is known exactly.

    state: the released policy. names: of the sites. personal: how some sites' own policies act, by name, float64
    [states, actions].
    """
    setting = setting_at(study, 0)
    form = form_in(setting, study)
    first = exact_at(study, 0)
    if study.is_logged or form.has_memory or first is None or setting.shown is None or setting.shown_allowed is None:
        return None
    acting = form.probabilities_at(state.parameters, setting.shown, setting.shown_allowed, study.output.sharpen)
    places = [exact for site in range(len(names)) if (exact := exact_at(study, site)) is not None]
    found: dict[str, Any] = {
        "gap_by_severity": _by_severity(places if sites_differ(study) else [first], acting),
        "clipped_by_severity": _clipped(study, constants, form, state),
    }
    if sites_differ(study) or personal:
        found |= _by_site(places, acting, names, personal)
    return found


def _by_site(
    places: Sequence[ExactValues],
    acting: NDArray[np.float64],
    names: Sequence[str],
    personal: Mapping[str, NDArray[np.float64]],
) -> dict[str, Any]:  # Any: JSON values
    """Return a row a site, and mean and worst gap; of the sites' own policies too, when every site has one."""
    rows = []
    for name, exact in zip(names, places, strict=True):
        row: dict[str, Any] = {"site": name, **_plain(exact.score(acting))}
        if name in personal:
            own = exact.score(personal[name])
            row |= {"personal_return": own.mean_return, "personal_gap_recovered": own.gap_recovered}
        rows.append(row)
    found: dict[str, Any] = {"by_site": rows}
    for key in ("gap_recovered", "personal_gap_recovered"):
        gaps = [row[key] for row in rows if key in row]
        if len(gaps) == len(rows):
            found |= {f"{key}_mean": fmean(gaps), f"{key}_worst": min(gaps)}
    return found


def _by_severity(places: Sequence[ExactValues], acting: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Return the score of each third of the patients; the mean over sites where they differ."""
    found = {}
    each = [exact.by_severity(acting) for exact in places]
    for name in SEVERITY_GROUPS:
        scores = [one[name] for one in each]
        parts = ((s.mean_return, s.expert, s.optimal) for s in scores)
        found[name] = _plain(Score(*(fmean(values) for values in zip(*parts, strict=True))))
    return found


def _plain(score: Score) -> dict[str, float]:
    return {
        "return": score.mean_return,
        "expert": score.expert,
        "optimal": score.optimal,
        "gap_recovered": score.gap_recovered,
    }


def _clipped(
    study: Study, constants: SumConstants, form: PolicyForm, state: TrainingState
) -> dict[str, dict[str, float]] | None:
    """Return the part of simulated people that each block's clip cuts, by third; None where a unit is no person."""
    if study.privacy.unit not in ("patient", "trajectory"):
        return None
    trainer = Trainer(study, constants)
    count = study.sites.count if sites_differ(study) else 1
    cut: list[dict[str, NDArray[np.bool_]]] = []
    thirds: list[NDArray[np.int64]] = []
    for site in range(count):
        setting = setting_at(study, site)
        environment = setting.make(-(-study.output.evaluation_episodes // count), study.data.max_steps)
        generator = np.random.default_rng([study.study.seed, site, _CLIP_SEED])
        nobody = np.arange(environment.count, dtype=np.uint64)
        seen = roll_out(trainer.acting(state), environment, generator, nobody)
        cut.append(trainer.units_cut(state, seen))
        thirds.append(severity_groups()[_first_states(setting, seen)])
    third = np.concatenate(thirds)
    return {
        name: {block: float(np.concatenate([one[block] for one in cut])[third == number].mean()) for block in cut[0]}
        for number, name in enumerate(SEVERITY_GROUPS)
        if (third == number).any()  # of few episodes a third may hold nobody
    }


def _first_states(setting: Setting, seen: Trajectories) -> NDArray[np.int64]:
    """Return the state in which each trajectory began, int64 [B], also where only its features were shown."""
    first = seen.observations[:, 0]
    if first.ndim == 1:
        return np.asarray(first, dtype=np.int64)
    shown = np.asarray(setting.shown)
    number = {row.tobytes(): state for state, row in enumerate(shown)}
    return np.array([number[row.tobytes()] for row in first], dtype=np.int64)
