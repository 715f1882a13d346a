"""Opening a site: an older copy of its ledger is refused, and what another study has open is left alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from round_contexts import round_context

from secure_frl.errors import StaleLedger, WrongLedger
from secure_frl.federation import run_folder
from secure_frl.federation.enrolment import Enrolled, enrol, open_site
from secure_frl.federation.run_folder import RunFolder, RunOptions
from secure_frl.records.ledger import read_ledger_state
from secure_frl.secure_sum import SiteId
from secure_frl.study import Study

pytestmark = pytest.mark.slow
SITE, NAME = SiteId(0), "site-01"


def _copied(folder: RunFolder, state: Path) -> RunFolder:
    """Return what a kill at this moment would leave of the site, logs of its databases included."""
    shutil.copytree(folder.site(NAME), state / "sites" / NAME)
    return RunFolder(folder.root, state)


def _statuses(folder: RunFolder) -> list[str]:
    return [kept.status for kept in read_ledger_state(folder.site(NAME) / "ledger.sqlite").reservations.values()]


def test_a_ledger_from_before_a_release_is_refused_after_it(tiny: Callable[..., Study], tmp_path: Path) -> None:
    """The release would be taken for a reservation that was never used, and given back."""
    folder = run_folder.begin(tmp_path / "run", tiny(), RunOptions(), None)
    enrolled = enrol(folder, tiny(), rehearse=False)
    site = open_site(folder, enrolled, SITE)
    site.contribute(round_context(enrolled.terms, 1))
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
    site.contribute(round_context(enrolled.terms, 1))
    second = run_folder.begin(tmp_path / "second", study, shared, None)

    other = open_site(second, enrol(second, study, rehearse=False), SITE)

    assert _statuses(first) == ["reserved"]
    site.release()
    assert _statuses(first) == ["released"]
    other.shut_down()
    site.shut_down()


def _put_back(folder: RunFolder, files: dict[str, bytes]) -> None:
    """Restore databases of the site from copies, without the logs that belong to others."""
    for name, content in files.items():
        for left in folder.site(NAME).glob(f"{name}*"):
            left.unlink()
        (folder.site(NAME) / name).write_bytes(content)


def _opened_and_left(folder: RunFolder, enrolled: Enrolled) -> None:
    """Open the site, let it release once, and end it: its head is handed over."""
    site = open_site(folder, enrolled, SITE)
    site.contribute(round_context(enrolled.terms, 1))
    site.release()
    site.shut_down()


def test_ledger_and_register_rolled_back_together_meet_the_head_that_the_coordinator_holds(
    tiny: Callable[..., Study], tmp_path: Path
) -> None:
    """The register alone can't see it: it is as old as the ledger."""
    study = tiny({"data.dataset_id": "ward-a"})
    first = run_folder.begin(tmp_path / "first", study, RunOptions(state=tmp_path / "state"), None)
    enrolled = enrol(first, study, rehearse=False)
    open_site(first, enrolled, SITE).shut_down()
    shutil.copytree(first.site(NAME), tmp_path / "older")
    _opened_and_left(first, enrolled)
    spent = {name: (first.site(NAME) / name).read_bytes() for name in ("ledger.sqlite", "register.sqlite")}
    shutil.rmtree(first.site(NAME))
    shutil.copytree(tmp_path / "older", first.site(NAME))
    second = run_folder.begin(tmp_path / "second", study, RunOptions(state=tmp_path / "state"), None)
    enrolled = enrol(second, study, rehearse=False)

    with pytest.raises(StaleLedger, match="the coordinator holds"):
        open_site(second, enrolled, SITE)

    held = second.held_heads / f"{NAME}.head"
    held.rename(tmp_path / "away")  # control: nothing else sees it
    open_site(second, enrolled, SITE).shut_down()
    assert _statuses(second) == []
    (tmp_path / "away").rename(held)
    _put_back(second, spent)
    open_site(second, enrolled, SITE).shut_down()  # the newest copy passes
    assert _statuses(second) == ["unknown"]


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_register_from_before_a_released_window_is_refused_beside_the_newest_ledger(
    tiny: Callable[..., Study], tmp_path: Path, is_lost: bool
) -> None:
    """It would count nobody of that window, and admit them once more than the study charges them for."""
    study = tiny({"data.dataset_id": "ward-a"})
    folder = run_folder.begin(tmp_path / "run", study, RunOptions(state=tmp_path / "state"), None)
    enrolled = enrol(folder, study, rehearse=False)
    open_site(folder, enrolled, SITE).shut_down()
    path = folder.site(NAME) / "register.sqlite"
    older = path.read_bytes()
    _opened_and_left(folder, enrolled)
    newest = path.read_bytes()
    path.unlink()
    if not is_lost:
        path.write_bytes(older)

    with pytest.raises(StaleLedger, match=r"register\.sqlite .*1 missing"):
        open_site(folder, enrolled, SITE)

    _put_back(folder, {"register.sqlite": newest})
    open_site(folder, enrolled, SITE).shut_down()


def test_a_site_whose_whole_folder_is_gone_is_not_begun_anew(tiny: Callable[..., Study], tmp_path: Path) -> None:
    study = tiny({"data.dataset_id": "ward-a"})
    first = run_folder.begin(tmp_path / "first", study, RunOptions(state=tmp_path / "state"), None)
    _opened_and_left(first, enrol(first, study, rehearse=False))
    shutil.rmtree(first.site(NAME))
    second = run_folder.begin(tmp_path / "second", study, RunOptions(state=tmp_path / "state"), None)
    enrolled = enrol(second, study, rehearse=False)  # it gets a new key

    with pytest.raises(StaleLedger, match="forgets what was spent"):
        open_site(second, enrolled, SITE)


def test_a_state_of_another_data_set_is_refused_with_its_own_words(tiny: Callable[..., Study], tmp_path: Path) -> None:
    shared = RunOptions(state=tmp_path / "state")
    study = tiny({"data.dataset_id": "ward-a"})
    first = run_folder.begin(tmp_path / "first", study, shared, None)
    open_site(first, enrol(first, study, rehearse=False), SITE).shut_down()
    other = tiny({"data.dataset_id": "ward-b"})
    second = run_folder.begin(tmp_path / "second", other, shared, None)

    with pytest.raises(WrongLedger, match=r"belongs to .*ward-a"):
        open_site(second, enrol(second, other, rehearse=False), SITE)
