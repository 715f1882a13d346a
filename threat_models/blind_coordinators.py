"""A coordinator of encrypted sums, for rehearsals of attacks: it remembers what it unseals, and then turns coat.

While it is honest its memory is a view's. Then it passes one site's ciphertexts, added to themselves, off as the sum:
every mark and lane is that of a sum of so many sites.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from secure_frl.ckks.coordinator_states import CkksMaskedSum, CkksSum, blind_sum, blind_summed
from secure_frl.ckks.encrypted_sum import EncryptedSum
from secure_frl.ckks.worker import Worker, limits_for
from secure_frl.errors import StudyStopped
from secure_frl.federation.coordinator import CoordinatorParts
from secure_frl.federation.enrolment import Enrolled
from secure_frl.federation.policy_keepers import BlindKeeper, Concluded, Drive, Ties
from secure_frl.masking.contexts import chunk_plan
from secure_frl.masking.coordinator_epoch import CoordinatorEpoch
from secure_frl.masking.coordinator_states import SumMachine
from secure_frl.secure_sum import SiteId

Notes = dict[str, bytes]  # "ciphertexts/round/site" -> what that site sent, as the coordinator unsealed it


class NotedSum(EncryptedSum):
    """A sum of ciphertexts that writes down what is added."""

    notes: Notes

    def watch(self, notes: Notes, round_number: int) -> NotedSum:
        """Write into `notes` from now on."""
        self.notes, self._round = notes, round_number
        return self

    def empty(self) -> EncryptedSum:
        """Return another sum under the same key, in which nobody is."""
        return EncryptedSum(self._plan, self.key_id, self._worker)

    def add(self, site: SiteId, key_id: bytes, body: bytes | memoryview) -> None:
        """Add one site's ciphertexts and remember them. Raises as `EncryptedSum.add`."""
        super().add(site, key_id, body)
        self.notes[f"ciphertexts/{self._round}/{int(site)}"] = bytes(body)


class TurncoatSum(CkksSum):
    """Publishes n times one site's ciphertexts in place of the sum of n."""

    _ctx2 = b""

    def close_stage(self) -> None:
        """End the stage, keeping the context that the transcript is made of."""
        self._ctx2 = getattr(self._state, "ctx2", self._ctx2)
        super().close_stage()

    def publish(self) -> None:
        """Begin the last stage with the false sum, signed as the true one would be."""
        summed, number = self._summed(), self.context.round
        encrypted = summed.view.encrypted
        if isinstance(encrypted, NotedSum):
            body = encrypted.notes[f"ciphertexts/{number}/{victim_of(number, len(summed.survivors))}"]
            false = encrypted.empty()
            for site in summed.survivors:
                false.add(site, encrypted.key_id, body)
            view = replace(summed.view, encrypted=false)
            self._state = blind_summed(view, self._ctx2, summed.survivors, summed.total_bytes)
        super().publish()


class TurncoatMaskedSum(TurncoatSum, CkksMaskedSum):
    """The same over masked vectors."""


class CuriousKeeper(BlindKeeper):
    """A coordinator of encrypted sums with a memory: honest, until a round from which on it turns coat."""

    def __init__(self, enrolled: Enrolled, parts: CoordinatorParts, notes: Notes, turns_in: int) -> None:
        """turns_in: the first round with a false sum."""
        terms = parts.terms
        worker = Worker(limits_for(chunk_plan(terms.constants)))
        super().__init__(Ties(terms, parts.names, parts.journal, parts.random, parts.log), worker)
        self._notes, self._turns_in, self._last = notes, turns_in, enrolled.study.training.rounds

    def machine(self, epoch: CoordinatorEpoch, number: int, attempt: int, cohort: tuple[SiteId, ...]) -> SumMachine:
        """Return one attempt at an encrypted sum."""
        ties, point = self._ties, self._ties.journal.resume_point()
        models = {site: None if site in self._up_to_date else point.model or None for site in cohort}
        empty = NotedSum(self._plan, self._key_id, self._worker).watch(self._notes, number)
        kind = blind_sum(ties.terms.constants.protection)
        if number >= self._turns_in:
            kind = TurncoatMaskedSum if kind is CkksMaskedSum else TurncoatSum
        return kind(ties.terms, epoch, number, attempt, cohort, point.tag, models, ties.random, empty)

    def conclude(self, machine: SumMachine, drive: Drive, details: Mapping[str, object]) -> Concluded | None:
        """Publish; after the last round stop where sites did not follow, for it has what it wanted.

        Raises StudyStopped.
        """
        concluded = super().conclude(machine, drive, details)
        if concluded is None and machine.context.round == self._last:
            raise StudyStopped("expected sites to follow a false sum, they did not. Nothing is left to do.")
        return concluded


def victim_of(round_number: int, sites: int) -> int:
    """Return whose update is passed off as the sum in a round: site 1 in the first, 2 in the second; never site 0."""
    return 1 + (round_number - 1) % (sites - 1)
