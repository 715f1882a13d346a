"""How the parties of a simulation come to be: keys, roster, charter, and each site opened from its own folder.

Every step can be repeated after a crash: what exists is read, what is missing is made. A site signs a charter only
after it has derived the same constants from the study and found them inside its own limits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from secure_frl.ckks.epoch_cipher import SiteWorkers
from secure_frl.ckks.worker import limits_for
from secure_frl.consortium.charter import Charter, SignedCharter, make_charter, sign_charter
from secure_frl.consortium.identity import Identity
from secure_frl.consortium.keystore import read_key, write_simulated_key
from secure_frl.consortium.roster import Roster, RosterEntry, decode_roster, sign_roster
from secure_frl.consortium.site_policy import policy_of_simulated_site
from secure_frl.errors import CharterViolation, DataRefused, StaleLedger
from secure_frl.evidence.books import read_head
from secure_frl.federation.blind_site import BlindStudySite
from secure_frl.federation.budgets import lifetime_budget, study_guard
from secure_frl.federation.logged_patients import LoggedPatients
from secure_frl.federation.logs import close_log, open_log
from secure_frl.federation.run_folder import RunFolder
from secure_frl.federation.simulated_patients import PatientSource, SimulatedPatients
from secure_frl.federation.site import SiteParts, StudySite
from secure_frl.federation.study_parts import code_version
from secure_frl.files import allow_open_files, write_durably
from secure_frl.masking.contexts import ENCRYPTED, chunk_plan
from secure_frl.privacy.planning import sum_constants
from secure_frl.randomness import rehearsal_source, system_source
from secure_frl.records.chain import Receipt
from secure_frl.records.group_commit import GroupCommit
from secure_frl.records.ledger import Ledger
from secure_frl.records.register import Register
from secure_frl.secure_sum import RandomSource, SiteId, SumConstants, SumTerms
from secure_frl.study import Study
from secure_frl.study_file import parse_study

_FILES_PER_SITE = 8  # two databases of three files each unless they share one, a log, one to spare
_KEY_YEARS = 1  # a simulated key's life; nothing outlives its run by intent


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A study that every party has signed, as one party reads it back."""

    study: Study  # as the signed charter has it, not as the folder's options say
    roster: Roster
    charter: SignedCharter
    terms: SumTerms
    rehearse: bool

    @property
    def dataset_id(self) -> str:
        """Return whose lifetime budget is spent: the named data set, or this run's fresh people."""
        return self.study.data.dataset_id or f"fresh-{self.charter.charter.nonce.hex()}"

    def random_source(self, *purpose: str) -> RandomSource:
        """Return a party's own source for one purpose: the operating system's, or a rehearsal's."""
        return rehearsal_source(self.study.study.seed, *purpose) if self.rehearse else system_source()


def site_names(count: int) -> tuple[str, ...]:
    """Return the names of simulated sites, by SiteId."""
    return tuple(f"site-{number:02d}" for number in range(1, count + 1))


def enrol(folder: RunFolder, study: Study, *, rehearse: bool) -> Enrolled:
    """Make or read keys, roster and charter of a simulation; every site and the coordinator sign.

    Raises CharterRefused, BitBudget for constants that no site may sign; PolicyForbids, CharterViolation by a site.
    """
    names = site_names(study.sites.count)
    if not folder.charter.exists():
        identities = [_identity(folder.site(name)) for name in names]
        coordinator = _identity(folder.coordinator)
        consortium = _identity(folder.consortium)
        expiry = datetime.now(UTC).date() + timedelta(days=365 * _KEY_YEARS)
        entries = [
            RosterEntry(name, identity.public_key, expiry) for name, identity in zip(names, identities, strict=True)
        ]
        roster = sign_roster(consortium, entries)
        write_durably(folder.roster, roster.encode())
        charter = make_charter(study.plain(), roster, sum_constants(study), coordinator.public_key)
        derived = sum_constants(parse_study(charter.study, source="the charter's study"))  # once for all sites
        signatures = tuple(_sign_at_site(charter, derived, identity) for identity in identities)
        signed = SignedCharter(charter, signatures, sign_charter(coordinator, charter))
        write_durably(folder.charter, signed.encode())
    return read_enrolment(folder, rehearse=rehearse)


def read_enrolment(folder: RunFolder, *, rehearse: bool) -> Enrolled:
    """Read roster and charter back and check every signature. Raises CharterRefused, BadSignature, ConfigError."""
    roster = decode_roster(folder.roster.read_bytes())
    signed = SignedCharter.decode(folder.charter.read_bytes())
    signed.check(roster)
    study = parse_study(signed.charter.study, source="the charter's study")
    return Enrolled(study, roster, signed, signed.charter.terms(roster), rehearse)


def coordinator_identity(folder: RunFolder) -> Identity:
    """Return the coordinator's own identity."""
    return _identity(folder.coordinator)


Build = Callable[[SiteParts, SiteWorkers | None], StudySite]


def build_site(parts: SiteParts, workers: SiteWorkers | None) -> StudySite:
    """Return the site made of its parts; workers: as in `open_site`."""
    return StudySite(parts) if workers is None else BlindStudySite(parts, workers)


def open_site(
    folder: RunFolder,
    enrolled: Enrolled,
    site: SiteId,
    group: GroupCommit | None = None,
    workers: SiteWorkers | None = None,
    build: Build = build_site,
) -> StudySite:
    """Open one simulated site from its own folder: its key, ledger, register, generator and patients.

    build: makes the site of these; a rehearsal of an attack makes another one of the same parts.
    workers: hold the epoch's key where sums are encrypted, and are for the caller to close; see `site_workers`.
    group: whose file and sync its books share unless they have files; None syncs each row, as a real site does.
    Raises StaleLedger for a ledger without the head that its register noted, or that the coordinator holds, and for a
    register without a window that its ledger released. Raises DataRefused for data that may not join. Of records it
    says no more than that: why is in the site's own log, for whoever runs the site may read it and nobody else.
    """
    name = enrolled.roster.names[site]
    home = folder.site(name)
    identity = _identity(home)
    folder.held_heads.mkdir(parents=True, exist_ok=True)
    held_head = _held_head(folder.held_heads / f"{name}.head", identity)
    register = Register.open(home / "register.sqlite", group=group)
    ledger = Ledger.open(
        home / "ledger.sqlite",
        holder=name,
        dataset_id=enrolled.dataset_id,
        budget=lifetime_budget(enrolled.study),
        guard=study_guard(enrolled.study, enrolled.terms.session),
        signer=identity,
        code_version=code_version(),
        noted_head=register.noted_head(),
        held_head=held_head,
        group=group,
    )
    register.check_holds(ledger.register_roots())
    ledger.settle_unfinished(enrolled.terms.session)
    register.follow(ledger.head)
    log = open_log(home / "site.log")
    try:
        parts = SiteParts(
            me=site,
            name=name,
            identity=identity,
            dataset_id=enrolled.dataset_id,
            terms=enrolled.terms,
            study=enrolled.study,
            ledger=ledger,
            register=register,
            patients=_patients(enrolled, site, register.person_key()),
            random=enrolled.random_source(name),
            protocol_random=enrolled.random_source(name, "protocol"),
            clock=time.time,
            home=home,
            exports=folder.ledgers,
            held_heads=folder.held_heads,
            log=log,
        )
        return build(parts, workers)
    except DataRefused as error:
        log.error("may not join: %s", error)
        register.close_cleanly()
        ledger.close_cleanly()
        close_log(log)
        if not enrolled.study.is_logged:
            raise
        raise DataRefused(
            f"expected records that may join, but those of {name} may not. Read why in that site's own log, "
            f"{home / 'site.log'}, and correct its steps table; nothing was sent."
        ) from None


def _patients(enrolled: Enrolled, site: SiteId, person_key: bytes) -> PatientSource:
    """Return where this site's trajectories come from. Raises DataRefused for a table that cannot be read."""
    if enrolled.study.is_logged:
        name = enrolled.roster.names[site]
        return LoggedPatients(enrolled.study, name, person_key, is_rehearsal=enrolled.rehearse)
    return SimulatedPatients(enrolled.study, site, person_key)


def _identity(home: Path) -> Identity:
    """Read a simulated party's key, making it first when it is missing."""
    path = home / "identity.key"
    if not path.exists():
        home.mkdir(parents=True, exist_ok=True)
        write_simulated_key(path, Identity.generate())
    return read_key(path, allow_simulated=True)


def _sign_at_site(charter: Charter, own: SumConstants, identity: Identity) -> bytes:
    """Do what a site does before it signs: compare with what the study gives, check its own limits.

    own: what the sites derive from the charter's study. They run one program here, so they derive the same.
    """
    if own != charter.constants:
        raise CharterViolation(
            "expected the constants that this site derives from the study, got others. "
            "Compare versions with whoever wrote the charter; it was not signed."
        )
    policy_of_simulated_site(charter).check(charter)
    return sign_charter(identity, charter)


def _held_head(path: Path, identity: Identity) -> Receipt | None:
    """Return the head that a site signed for the coordinator, if there is one yet.

    Raises StaleLedger when another key signed it: then the site's key went with its books.
    """
    if not path.exists():
        return None
    head = read_head(path, None)
    if head.public_key != identity.public_key:
        raise StaleLedger(
            f"expected the site whose key {head.public_key.hex()[:16]} signed {path.name}, got the key "
            f"{identity.public_key.hex()[:16]}. Restore the newest copy of the site's folder: a new one forgets what "
            "was spent."
        )
    return head.receipt


def site_workers(enrolled: Enrolled) -> SiteWorkers | None:
    """Return what will hold the epochs' keys, None where nothing is encrypted."""
    constants = enrolled.terms.constants
    return SiteWorkers(limits_for(chunk_plan(constants))) if constants.protection in ENCRYPTED else None


def open_all_sites(
    folder: RunFolder, enrolled: Enrolled, group: GroupCommit | None = None, build: Build = build_site
) -> dict[SiteId, StudySite]:
    """Open every site of a simulation in this process.

    build: as in `open_site`.
    group: whoever drives the sites syncs it before an answer leaves; None syncs each row by itself.
    Where sums are encrypted the sites share one worker: all of them hold the same key.
    """
    sites = tuple(map(SiteId, range(len(enrolled.roster.names))))
    allow_open_files(_FILES_PER_SITE * len(sites))
    workers = site_workers(enrolled)
    opened = {site: open_site(folder, enrolled, site, group, workers, build) for site in sites}
    if group is not None:
        group.sync()
    return opened
