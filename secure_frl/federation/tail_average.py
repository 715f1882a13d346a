"""The mean of the last policies of a study, released in place of the last one.

How many is a constant of the charter, and each of them is released already: the mean is a function of released values,
so it costs no privacy. All of them are kept in the run folder, from which anybody can make the mean again.

Source: Polyak and Juditsky 1992, averaging of iterates; Shamir and Zhang 2013, suffix averaging.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from secure_frl.errors import MalformedMessage, UnexpectedState
from secure_frl.federation.policy_files import description, policy_content
from secure_frl.federation.training_state import TrainingState
from secure_frl.files import write_durably
from secure_frl.learning.forms import policy_form
from secure_frl.learning.tabular import Choice
from secure_frl.study import Study

_MEAN, _DESCRIPTION = "mean.safetensors", "policy.json"


def released_state(policies: Path, summed: Sequence[int], last: TrainingState, study: Study) -> TrainingState:
    """Return the last state with the mean parameters of the study's tail, in float64 from the oldest to the last.

    policies: where they are kept. summed: rounds that left one, ascending; with fewer than the study's tail, all.
    Raises UnexpectedState when a kept policy is gone or damaged.
    """
    rounds = tail_of(summed, study)
    if len(rounds) < 2:
        return last
    total = np.zeros_like(last.parameters)
    for number in rounds:
        total = total + _kept(policies, number, last).parameters
    return replace(last, parameters=total / len(rounds))


def tail_of(summed: Sequence[int], study: Study) -> list[int]:
    """Return the rounds whose policies count."""
    return list(summed[-study.output.tail_average :])


def write_released(
    policies: Path, summed: Sequence[int], released: TrainingState, study: Study, session: bytes
) -> None:
    """Write the mean beside the last policy, and name it in the description as the policy to use; a mean of one is it.

    policies: holds the last policy and its description.
    """
    rounds = tail_of(summed, study)
    if len(rounds) < 2:
        return
    form = policy_form(study)
    choice = Choice(study.output.sharpen, form.acts_greedily)
    of_rounds = {"mean_of_rounds": json.dumps(rounds)}
    header = description(study, choice, rounds[-1], session) | of_rounds
    write_durably(policies / _MEAN, policy_content(study, form, form.arrays(released.parameters), choice, header))
    described = json.loads((policies / _DESCRIPTION).read_text(encoding="utf-8"))
    text = json.dumps({**described, **of_rounds, "file": _MEAN}, indent=1, sort_keys=True)
    write_durably(policies / _DESCRIPTION, (text + "\n").encode())


def _kept(policies: Path, number: int, last: TrainingState) -> TrainingState:
    path = policies / f"round-{number:04d}.model"
    try:
        found = TrainingState.from_bytes(path.read_bytes())
    except (OSError, MalformedMessage) as error:
        raise UnexpectedState(f"expected the policy of round {number} in {path}. Restore it, then resume.") from error
    if found.parameters.shape != last.parameters.shape:
        raise UnexpectedState(f"expected a policy of this study in {path}, got another. Restore it, then resume.")
    return found
