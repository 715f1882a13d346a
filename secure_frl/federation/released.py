"""What a run releases round by round: policies and their figures, from whoever may read them.

Under masking that is the coordinator. Under ckks and ckks+masking it is the sites: a simulation plays their owners,
who take the policy from a site's own folder and evaluate it. Nothing of that goes through the coordinator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from secure_frl.ckks.policies import keyed_tag
from secure_frl.errors import UnexpectedState
from secure_frl.federation.coordinator import RoundOutcome
from secure_frl.federation.enrolment import Enrolled
from secure_frl.federation.evaluation import evaluate_state
from secure_frl.federation.held_policy import policy_path, read_secret, read_stored, secret_path
from secure_frl.federation.policy_files import write_policy
from secure_frl.federation.run_folder import RunFolder
from secure_frl.federation.training_state import TrainingState
from secure_frl.files import write_durably
from secure_frl.masking.contexts import ENCRYPTED
from secure_frl.records.journal import Journal
from secure_frl.records.journal_state import RoundRecord


class Released(Protocol):
    """What finish and simulation ask of either."""

    def last_state(self) -> TrainingState | None:
        """Return the policy of the last round that gave one, None when none did."""
        ...

    def shown(self, outcome: RoundOutcome) -> Mapping[str, float]:
        """Return what may be shown of a round's policy."""
        ...

    def metrics(self, record: RoundRecord) -> Mapping[str, Any]:  # Any: JSON values
        """Return the same of a round in the journal."""
        ...

    def round_ended(self, outcome: RoundOutcome, *, keeps_all: bool) -> None:
        """Write down what a round released."""
        ...

    def catch_up(self, records: Sequence[RoundRecord], *, keeps_all: bool) -> None:
        """Write down what a kill left out."""
        ...


class CoordinatorReleases:
    """The coordinator reads policies, and its journal has their figures."""

    def __init__(self, folder: RunFolder, enrolled: Enrolled, journal: Journal) -> None:
        """journal: started."""
        self._folder, self._enrolled, self._journal = folder, enrolled, journal

    def last_state(self) -> TrainingState:
        """Return the policy as the journal has it."""
        return TrainingState.from_bytes(self._journal.resume_point().model)

    def shown(self, outcome: RoundOutcome) -> Mapping[str, float]:
        """Return what the coordinator evaluated."""
        return outcome.shown

    def metrics(self, record: RoundRecord) -> Mapping[str, Any]:
        """Return what the journal has."""
        shown = record.details.get("shown", {})
        return shown if isinstance(shown, dict) else {}

    def round_ended(self, outcome: RoundOutcome, *, keeps_all: bool) -> None:
        """Write the policy, when all are kept."""
        if outcome.state is not None and keeps_all:
            _write(self._folder, self._enrolled, outcome.round, outcome.state, b"")

    def catch_up(self, records: Sequence[RoundRecord], *, keeps_all: bool) -> None:
        """Write the last policy: a kill may have come between the journal's row and the file."""
        summed = [record.round for record in records if record.outcome == "summed"]
        if keeps_all and summed:
            _write(self._folder, self._enrolled, summed[-1], self.last_state(), b"")


class SiteReleases:
    """Only sites read policies. Figures are kept in the sites' folder, for no journal has them."""

    def __init__(self, folder: RunFolder, enrolled: Enrolled, journal: Journal) -> None:
        """journal: may be new."""
        self._folder, self._enrolled, self._journal = folder, enrolled, journal
        self._evaluate = evaluate_state(enrolled.study)
        self._path = folder.sites / f"released-{enrolled.terms.session.hex()[:16]}.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._figures: dict[int, dict[str, float]] = {
            line.pop("round"): line for line in (json.loads(text) for text in lines)
        }

    def last_state(self) -> TrainingState | None:
        """Return the policy of the journal's last tag, from a site that holds it."""
        summed = [record for record in self._journal.rounds() if record.outcome == "summed"]
        return self._stored(summed[-1].next_tag)[0] if summed else None

    def _stored(self, tag: bytes) -> tuple[TrainingState, Mapping[str, float]]:
        session = self._enrolled.terms.session
        for name in self._enrolled.roster.names:
            home = self._folder.site(name)
            secret, path = read_secret(secret_path(home, session)), policy_path(home, session)
            if secret is not None and path.exists():
                stored = read_stored(path, session)
                if keyed_tag(secret, session, stored.current.to_bytes()) == tag:
                    return stored.current, stored.figures
        raise UnexpectedState(
            f"expected a site that holds the policy {tag.hex()[:16]} of the journal, found none. Restore one's files."
        )

    def shown(self, outcome: RoundOutcome) -> Mapping[str, float]:
        """Return what the sites' owners evaluated."""
        return self._figures.get(outcome.round, {}) if outcome.is_summed else {}

    def metrics(self, record: RoundRecord) -> Mapping[str, Any]:
        """Return the same."""
        return self._figures.get(record.round, {})

    def round_ended(self, outcome: RoundOutcome, *, keeps_all: bool) -> None:
        """Evaluate the policy of a round, keep its figures, write it down when all are kept."""
        self.catch_up(self._journal.rounds(), keeps_all=keeps_all)

    def catch_up(self, records: Sequence[RoundRecord], *, keeps_all: bool) -> None:
        """The same of the last round that gave a policy, unless it is done."""
        summed = [record for record in records if record.outcome == "summed"]
        if not summed or summed[-1].round in self._figures:
            return
        number, tag = summed[-1].round, summed[-1].next_tag
        state, figures = self._stored(tag)
        if keeps_all:
            _write(self._folder, self._enrolled, number, state, tag)
        self._figures[number] = {**self._evaluate(state), **figures}
        lines = (json.dumps({"round": one, **shown}, sort_keys=True) for one, shown in sorted(self._figures.items()))
        write_durably(self._path, "".join(f"{line}\n" for line in lines).encode())


def _write(folder: RunFolder, enrolled: Enrolled, number: int, state: TrainingState, keyed: bytes) -> None:
    write_policy(folder.policies, number, state, enrolled.study, enrolled.terms.session, keyed_tag=keyed)


def released_by(folder: RunFolder, enrolled: Enrolled, journal: Journal) -> Released:
    """Return who releases under this study's protection."""
    is_blind = enrolled.terms.constants.protection in ENCRYPTED
    return (SiteReleases if is_blind else CoordinatorReleases)(folder, enrolled, journal)
