"""The end of a run: exports, released policy, account of rounds, summary. The signed manifest follows, last of all.

Every step can be repeated, so a run that is killed here ends the same way after `resume`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from secure_frl.evidence.rounds import smallest_difference
from secure_frl.federation.by_site import simulated_figures
from secure_frl.federation.enrolment import Enrolled
from secure_frl.federation.evaluation import evaluate_state
from secure_frl.federation.optimisers import initial_state
from secure_frl.federation.personal import personal_path, wants_personal
from secure_frl.federation.policy_files import load_policy, write_policy
from secure_frl.federation.protections import protection_in_force
from secure_frl.federation.released import Released
from secure_frl.federation.results import RunResult
from secure_frl.federation.run_folder import RunFolder
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.tail_average import released_state, write_released
from secure_frl.federation.training_state import TrainingState
from secure_frl.files import write_durably
from secure_frl.masking.contexts import CKKS, ENCRYPTED, model_tag
from secure_frl.privacy import accountant
from secure_frl.privacy.charging import WhatIf
from secure_frl.privacy.events import GaussianSumEvent, decode_event
from secure_frl.privacy.planning import planned_event
from secure_frl.privacy.statement import state as state_epsilon
from secure_frl.records.chain import decode_export
from secure_frl.records.journal import Journal
from secure_frl.records.journal_state import RoundRecord
from secure_frl.records.ledger import Ledger
from secure_frl.records.ledger_state import replay
from secure_frl.study import Study


def epsilon_of(ledger: Ledger, enrolled: Enrolled) -> float:
    """Return what this study has spent so far at one holder, attempts that died after release included.

    Infinity when no epsilon may be stated.
    """
    if not accountant.covers_every_reader(enrolled.terms.constants):
        return math.inf
    events = [decode_event(event) for event in ledger.events(enrolled.terms.session)]
    return accountant.epsilon(events, enrolled.study.privacy.delta)


def write_results(
    folder: RunFolder,
    enrolled: Enrolled,
    released: Released,
    journal: Journal,
    started: float,
) -> RunResult:
    """Write everything but the manifest and return the summary.

    The ledgers' exports must be in place: what they say is what the summary says.
    started: time.monotonic() at the run's beginning.
    """
    rounds = journal.rounds()
    summed = [record for record in rounds if record.outcome == "summed"]
    state = released.last_state() or initial_state(optimiser_rule(enrolled.study, enrolled.terms.constants))
    final = state
    if summed:
        keyed = summed[-1].next_tag if enrolled.terms.constants.protection in ENCRYPTED else b""
        study, session = enrolled.study, enrolled.terms.session
        write_policy(folder.policies, summed[-1].round, state, study, session, keyed_tag=keyed)
        of_rounds = [record.round for record in summed]
        final = released_state(folder.policies, of_rounds, state, study)
        write_released(folder.policies, of_rounds, final, study, session)
    write_durably(folder.rounds, _lines(_account(record) for record in rounds))
    write_durably(folder.protections, _lines(_protection(record, enrolled) for record in rounds))
    write_durably(folder.metrics, _lines({"round": record.round, **released.metrics(record)} for record in summed))
    simulated = _simulated(folder, enrolled, final)
    tag = model_tag(state.to_bytes())
    result = _summary(enrolled, final, tag, rounds, _exported_events(folder, enrolled), simulated, started)
    text = json.dumps(result.plain(), indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_durably(folder.result, text.encode())
    return result


def _simulated(folder: RunFolder, enrolled: Enrolled, state: TrainingState) -> dict[str, Any] | None:
    """Return what only a simulation may know; of records no site's own policy is even opened. Any: JSON values."""
    study, names = enrolled.study, enrolled.roster.names
    if study.is_logged:
        return None
    personal = {}
    for name in names if wants_personal(study) else ():
        path = personal_path(folder.site(name), enrolled.terms.session)
        own = load_policy(path).probabilities if path.exists() else None
        if own is not None:
            personal[name] = own
    return simulated_figures(study, enrolled.terms.constants, state, names, personal)


def _exported_events(folder: RunFolder, enrolled: Enrolled) -> dict[str, list[GaussianSumEvent]]:
    """Return this study's events of every holder, as exported."""
    exported: dict[str, list[GaussianSumEvent]] = {}
    for path in sorted(folder.ledgers.glob("*.jsonl")):
        events = replay(decode_export(path.read_bytes(), path.name), path.name).events(enrolled.terms.session)
        exported[path.stem] = [decode_event(event) for event in events]
    return exported


def _account(record: RoundRecord) -> dict[str, Any]:  # Any: JSON values
    return {
        "round": record.round,
        "attempt": record.attempt,
        "epoch": record.epoch,
        "outcome": record.outcome,
        "reason": record.reason,
        "cohort": list(record.cohort),
        "survivors": list(record.survivors),
        "excluded": record.details.get("excluded", {}),
        "policy_tag": record.policy_tag.hex(),
        "next_tag": record.next_tag.hex(),
        "transcript_hash": record.details.get("transcript_hash", ""),
    }


def _protection(record: RoundRecord, enrolled: Enrolled) -> dict[str, Any]:  # Any: JSON values
    constants = enrolled.terms.constants
    return {
        "round": record.round,
        "attempt": record.attempt,
        "epoch": record.epoch,
        "noise": constants.noise,
        "honest_shares_assumed": constants.honest_shares,
        "rehearsal": enrolled.rehearse,
        **protection_in_force(constants.protection, constants.profile),
    }


def _summary(
    enrolled: Enrolled,
    state: TrainingState,
    tag: bytes,
    rounds: Iterable[RoundRecord],
    exported: Mapping[str, list[GaussianSumEvent]],
    simulated: dict[str, Any] | None,  # Any: JSON values
    started: float,
) -> RunResult:
    """Return the summary of a run. state: the released policy. tag: of the last round's."""
    study, constants = enrolled.study, enrolled.terms.constants
    records = list(rounds)
    summed = [record for record in records if record.outcome == "summed"]
    shown = evaluate_state(study)(state)
    spent = max(accountant.epsilon(events, study.privacy.delta) for events in exported.values())
    if not accountant.covers_every_reader(constants):
        spent = math.inf
    longest = max(exported.values(), key=len)
    one_more_colludes = key_holder_colludes = one_more_site = math.inf
    if longest and math.isfinite(spent):

        def spent_if(events: list[GaussianSumEvent], **changed: int) -> float:
            return accountant.epsilon(events, study.privacy.delta, WhatIf(**changed))

        one_more_colludes = spent_if(longest, shares=constants.honest_shares - 1)
        if constants.protection == CKKS:
            key_holder_colludes = spent_if([accountant.as_read_one_by_one(event) for event in longest])
        one_more_site = spent_if(longest, sites=study.privacy.max_sites_per_person + 1)
    release = longest[0] if longest else planned_event(study, constants)
    return RunResult(
        gap_recovered=shown.get("gap_recovered"),
        mean_return=shown["return"],
        return_half_width=shown["return_half_width"],
        epsilon_spent=spent,
        epsilon_if_one_more_colludes=one_more_colludes,
        epsilon_if_key_holder_colludes=key_holder_colludes,
        epsilon_if_one_more_site=one_more_site,
        delta=study.privacy.delta,
        unit=study.privacy.unit,
        relation=study.privacy.relation,
        accountant=f"dp-accounting {accountant.ACCOUNTANT}, pessimistic",
        max_rounds_per_person=study.privacy.max_rounds_per_person,
        max_sites_per_person=study.privacy.max_sites_per_person,
        honest_shares_assumed=constants.honest_shares,
        max_colluders=constants.max_colluders,
        rounds_completed=len(summed),
        rounds_lost=len({record.round for record in records}) - len(summed),
        episodes=sum(len(record.cohort) for record in records) * _asked_of_a_site(study),
        survivors_min=min((len(record.survivors) for record in summed), default=0),
        survivor_difference_min=smallest_difference(record.survivors for record in summed),
        protection=constants.protection,
        noise=constants.noise,
        policy_hash=tag.hex(),
        rehearsal=enrolled.rehearse,
        unsafe=study.unsafe_choices,
        statement=state_epsilon(release, constants, spent, one_more_site, study.data.dataset_id).plain(),
        trust=protection_in_force(constants.protection, constants.profile)["readable_by"],
        seed=study.study.seed,
        simulated=simulated,
        seconds=round(time.monotonic() - started, 3),
    )


def _asked_of_a_site(study: Study) -> int:
    """Return how many trajectories a round asks of one site, a public number; of logged data, units to be expected."""
    return study.declared_batch * study.noised_sums if study.is_logged else study.training.episodes_per_site


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in rows).encode()
