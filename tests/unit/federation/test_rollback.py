"""Opening a site: an older copy of its ledger is refused, and what another study has open is left alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from secure_frl.errors import StaleLedger
from secure_frl.federation import run_folder
from secure_frl.federation.enrolment import Enrolled, enrol, open_site
from secure_frl.federation.run_folder import RunFolder, RunOptions
from secure_frl.masking.contexts import config_hash
from secure_frl.records.ledger import read_ledger
from secure_frl.secure_sum import RoundContext, SiteId
from secure_frl.study import Study

pytestmark = pytest.mark.slow
SITE, NAME = SiteId(0), "site-01"


def _round(enrolled: Enrolled) -> RoundContext:
    return RoundContext(
        session=enrolled.terms.session,
        epoch_hash=bytes(32),
        config_hash=config_hash(enrolled.terms.constants),
        epoch=1,
        round=1,
        attempt=0,
        policy_tag=bytes(32),
        cohort=(SiteId(0), SiteId(1), SiteId(2)),
    )


def _copied(folder: RunFolder, state: Path) -> RunFolder:
    """Return what a kill at this moment would leave of the site, logs of its databases included."""
    shutil.copytree(folder.site(NAME), state / "sites" / NAME)
    return RunFolder(folder.root, state)


def _statuses(folder: RunFolder) -> list[str]:
    return [kept.status for kept in read_ledger(folder.site(NAME) / "ledger.sqlite").reservations.values()]


def test_a_ledger_from_before_a_release_is_refused_after_it(tiny: Callable[..., Study], tmp_path: Path) -> None:
    """The release would be taken for a reservation that was never used, and given back."""
    folder = run_folder.begin(tmp_path / "run", tiny(), RunOptions(), None)
    enrolled = enrol(folder, tiny(), rehearse=False)
    site = open_site(folder, enrolled, SITE)
    site.contribute(_round(enrolled))
    before = _copied(folder, tmp_path / "before")
    site.release()
    after = _copied(folder, tmp_path / "after")
    rolled_back = _copied(folder, tmp_path / "rolled-back")
    for path in rolled_back.site(NAME).glob("ledger.sqlite*"):
        path.unlink()
    for path in before.site(NAME).glob("ledger.sqlite*"):
        shutil.copy(path, rolled_back.site(NAME))

    with pytest.raises(StaleLedger, match="to contain row"):  # at opening, before a row is written
        open_site(rolled_back, enrolled, SITE)

    open_site(after, enrolled, SITE).shut_down()
    open_site(before, enrolled, SITE).shut_down()
    assert _statuses(after) == ["unknown"]
    assert _statuses(before) == ["cancelled"]  # nothing had left
    site.shut_down()


def test_a_study_that_begins_settles_nothing_of_another_one_on_the_same_people(
    tiny: Callable[..., Study], tmp_path: Path
) -> None:
    study = tiny({"data.dataset_id": "ward-a"})
    shared = RunOptions(state=tmp_path / "state")
    first = run_folder.begin(tmp_path / "first", study, shared, None)
    enrolled = enrol(first, study, rehearse=False)
    site = open_site(first, enrolled, SITE)
    site.contribute(_round(enrolled))
    second = run_folder.begin(tmp_path / "second", study, shared, None)

    other = open_site(second, enrol(second, study, rehearse=False), SITE)

    assert _statuses(first) == ["reserved"]
    site.release()
    assert _statuses(first) == ["released"]
    other.shut_down()
    site.shut_down()
