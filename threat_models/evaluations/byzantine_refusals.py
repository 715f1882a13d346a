"""What honest parties refuse of malicious sites: totals that nobody could sum to, and sites that nobody enrolled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date

import numpy as np

from secure_frl.consortium.charter import make_charter
from secure_frl.consortium.identity import Identity
from secure_frl.consortium.roster import RosterEntry, decode_roster, sign_roster
from secure_frl.errors import BadSignature, CharterRefused, SecureFrlError, SumOutOfRange
from secure_frl.privacy.planning import sum_constants
from secure_frl.randomness import rehearsal_source
from secure_frl.study import Study
from threat_models.adversaries.byzantine import BYZANTINE, FREE_RIDER
from threat_models.defences import Defence, digest_of
from threat_models.evaluation import Effort
from threat_models.evaluations.byzantine_cells import site_cell
from threat_models.evaluations.byzantine_rounds import MaskedSums
from threat_models.evaluations.byzantine_study import MALICIOUS, NORM_BOUND, SITES, Case, study_of
from threat_models.results import Bar, Cell, Kind
from threat_models.threat import Threat

WHY_RANGE = (
    "One site that skips the clip may move every coordinate of the sum by as much as all sites together could; beyond "
    "that the round is refused, without a name. A site that clips moves the sum by one clip."
)
WHY_ROSTER = (
    "Who takes part is signed out of band by the consortium's key, which the coordinator must not have: that key can "
    "add members. One operator whom it enrols under several names is several of the f malicious sites."
)
_EXPIRES = date(2100, 1, 1)
_TAG = b"\0" * 32


def measure_range(study: Study, effort: Effort) -> Iterator[Cell]:
    """Put the largest accepted vector of one site through a real masked sum, and the next larger one."""
    plain = study_of(study, Case(), effort.study_seed("byzantine", "range"), 1)
    constants, digest = sum_constants(plain), digest_of(plain)
    limit = constants.sites * constants.bound + constants.noise_bound
    masked = MaskedSums(constants, effort.seed, "range")
    masked.seats[-1].integers = np.full(constants.length, limit, dtype=np.int64)
    total, machine = masked.sum(1, _TAG)
    masked.publish(machine, _TAG)
    moved = float(np.linalg.norm(total.integers)) / total.scale
    figures = {"coordinate": limit / constants.scale, "clips_of_an_honest_site": 1.0, "values": float(constants.length)}
    yield site_cell(
        BYZANTINE,
        NORM_BOUND,
        Kind.REPORT,
        (moved, moved, moved),
        effort,
        metric="clips that one site moved the sum by",
        n=1,
        game="largest total in range, 1 of 12 without the clip",
        figures=figures,
        sentence=WHY_RANGE,
        defence_digest=digest,
    )
    masked.seats[-1].integers += 1
    found = _refusal(lambda: masked.sum(2, _TAG))
    game = "one more in every coordinate"
    yield refused(BYZANTINE, NORM_BOUND, game, found, SumOutOfRange, WHY_RANGE, digest, effort)


def measure_sybils(study: Study, effort: Effort) -> Iterator[Cell]:
    """Add sites of one malicious operator to a signed roster, and offer a roster that the operator signed."""
    consortium, operator, coordinator = (_identity(effort, name) for name in ("consortium", "operator", "coordinator"))
    honest = [RosterEntry(f"site-{n:02d}", _identity(effort, f"{n}").public_key, _EXPIRES) for n in range(SITES)]
    sybils = [RosterEntry(f"sybil-{n}", _identity(effort, f"sybil {n}").public_key, _EXPIRES) for n in range(MALICIOUS)]
    roster = sign_roster(consortium, honest)
    plain = study_of(study, Case(), effort.seed, 1)
    digest = digest_of(plain)
    charter = make_charter(plain.plain(), roster, sum_constants(plain), coordinator.public_key, bytes(16))
    charter.check_roster(decode_roster(roster.encode()))  # the true one is taken, or a refusal would say nothing
    forged = replace(roster, entries=(*roster.entries, *sybils))
    found = _refusal(lambda: decode_roster(forged.encode()))
    game = "Sybils added to a signed roster"
    yield refused(FREE_RIDER, NORM_BOUND, game, found, BadSignature, WHY_ROSTER, digest, effort)
    own = sign_roster(operator, [*honest, *sybils])
    found = _refusal(lambda: charter.check_roster(decode_roster(own.encode())))
    game = "a roster that the operator signed"
    yield refused(FREE_RIDER, NORM_BOUND, game, found, CharterRefused, WHY_ROSTER, digest, effort)


def refused(
    threat: Threat,
    defence: Defence,
    game: str,
    refusal: str,
    expected: type[SecureFrlError],
    sentence: str,
    digest: str,
    effort: Effort,
) -> Cell:
    """Return the cell of something that honest parties refuse, or, with an empty refusal, did not.

    expected: the refusal that says what is wrong here; another error ended the attempt, and refused nothing.
    """
    value, as_expected = 0.0 if refusal else 1.0, f"refused_by_{expected.__name__}"
    return site_cell(
        threat,
        defence,
        Kind.DEFENDED,
        (value, value, value),
        effort,
        metric="accepted",
        n=1,
        game=game,
        bars=(Bar(at_most=0.0), Bar(as_expected, at_least=1.0)),
        figures={as_expected: float(refusal == expected.__name__)},
        refusal=refusal,
        sentence=sentence,
        defence_digest=digest,
    )


def _identity(effort: Effort, name: str) -> Identity:
    return Identity.generate(rehearsal_source(effort.seed, "sybil attack", name))


def _refusal(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except SecureFrlError as error:
        return type(error).__name__
    return ""
