"""A site's own policy: fitted behind the last round, kept at the site, and of no influence on anything shared."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from round_contexts import round_context
from safetensors.numpy import load_file

from secure_frl.errors import CharterViolation, DataRefused, LedgerCorrupt
from secure_frl.evidence.verify import verify
from secure_frl.federation import run_folder, simulation
from secure_frl.federation.enrolment import Enrolled, open_site, read_enrolment
from secure_frl.federation.optimisers import initial_state
from secure_frl.federation.personal import OwnWindows, personal_path
from secure_frl.federation.policy_files import load_policy
from secure_frl.federation.run_folder import RunFolder, RunOptions
from secure_frl.federation.simulated_patients import made_up
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training import Trainer
from secure_frl.learning.forms import policy_form
from secure_frl.privacy.planning import sum_constants
from secure_frl.records.ledger import read_ledger_state
from secure_frl.secure_sum import SiteId
from secure_frl.study import Study

pytestmark = pytest.mark.slow

Tiny = Callable[..., Study]
SESSION = bytes(32)
SITES = ("site-01", "site-02", "site-03")
SHIFTED = {"data.site_shift": {"kind": "practice_effect", "strength": 0.3}}


@pytest.fixture(scope="module")
def personal_run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rehearsed run with a policy of each site's own."""
    folder = tmp_path_factory.mktemp("personal") / "run"
    simulation.run(tiny({"training.personalise": "prior", **SHIFTED}), folder, RunOptions(rehearse=True))
    return folder


def _opened(folder: Path) -> tuple[RunFolder, Enrolled]:
    found, _, options = run_folder.reopen(folder)
    return found, read_enrolment(found, rehearse=options.rehearse)


def test_each_site_has_a_policy_for_its_owner_alone_and_nobody_else_hears_of_it(personal_run: Path) -> None:
    folder, enrolled = _opened(personal_run)
    paths = [personal_path(folder.site(name), enrolled.terms.session) for name in SITES]

    own = [load_policy(path).probabilities for path in paths]

    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600] * 3
    assert all(np.abs(table.sum(axis=1) - 1).max() < 1e-12 for table in own if table is not None)
    assert not np.array_equal(own[0], own[1])
    assert "personal" not in (personal_run / "manifest.json").read_text()
    assert {path.suffix for path in (personal_run / "policies").iterdir()} == {".safetensors", ".model", ".json"}
    assert len(list((personal_run / "policies").iterdir())) == 3  # the shared policy alone
    assert not list(folder.sites.glob("*/own-*"))  # what was kept for the fit is gone
    assert verify(personal_run, allow_rehearsal=True).holds


def test_a_study_with_own_policies_shares_the_bytes_of_one_without(
    personal_run: Path, tiny: Tiny, tmp_path: Path
) -> None:
    result = simulation.run(tiny(SHIFTED), tmp_path / "run", RunOptions(rehearse=True))

    with_own = json.loads((personal_run / "result.json").read_text())
    assert with_own["policy_hash"] == result.policy_hash
    assert with_own["gap_recovered"] == result.gap_recovered


def test_a_site_with_a_policy_of_its_own_takes_part_in_no_later_round(personal_run: Path, tmp_path: Path) -> None:
    folder, enrolled = _opened(personal_run)
    state = Path(shutil.copytree(folder.state, tmp_path / "state"))
    site = open_site(replace(folder, state=state), enrolled, SiteId(0))
    ledger = tmp_path / "state" / "sites" / "site-01" / "ledger.sqlite"
    before = len(read_ledger_state(ledger).events(enrolled.terms.session))

    with pytest.raises(CharterViolation, match="fitted its own policy"):
        site.contribute(round_context(enrolled.terms, 3))

    site.shut_down()
    assert len(read_ledger_state(ledger).events(enrolled.terms.session)) == before == 2


def test_own_windows_come_back_as_they_were_kept_and_are_private(tiny: Tiny, tmp_path: Path) -> None:
    windows, kept = OwnWindows(tmp_path, SESSION), made_up(tiny(), 20)
    windows.keep(kept.select(np.arange(7)), "round-1-attempt-0")
    windows.keep(kept.select(np.arange(7, 20)), "round-2-attempt-0")
    windows.keep(kept.select(np.arange(7, 20)), "round-2-attempt-0")  # a repeated attempt's write

    found = windows.all()

    assert found is not None
    expected = kept.select(np.arange(20))
    for name in ("observations", "actions", "rewards", "log_behaviour", "steps", "terminated", "final_observations"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    (folder,) = tmp_path.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    windows.forget()
    assert windows.all() is None


def test_windows_that_cannot_be_removed_are_not_taken_for_gone(tmp_path: Path) -> None:
    windows = OwnWindows(tmp_path, SESSION)
    windows.forget()  # there are none yet
    (tmp_path / f"own-{SESSION.hex()[:16]}").write_text("no folder")

    with pytest.raises(OSError, match="own-"):
        windows.forget()


def test_a_damaged_window_is_named_and_not_read(tiny: Tiny, tmp_path: Path) -> None:
    windows = OwnWindows(tmp_path, SESSION)
    windows.keep(made_up(tiny(), 5), "round-1-attempt-0")
    (path,) = tmp_path.glob("*/*.npz")
    path.write_bytes(path.read_bytes()[:-40])

    with pytest.raises(LedgerCorrupt, match=r"round-1-attempt-0\.npz"):
        windows.all()


def test_a_private_head_is_never_sent_and_moves_only_at_its_site(tiny: Tiny, tmp_path: Path) -> None:
    study = tiny(
        {
            "training.personalise": "private_head",
            "policy.kind": "mlp",
            "policy.hidden": [6, 5],
            "training.personal.steps": 5,
            "privacy.noise": "local",
        }
    )
    form = policy_form(study)

    simulation.run(study, tmp_path / "run")

    folder, enrolled = _opened(tmp_path / "run")
    (released,) = (tmp_path / "run" / "policies").glob("*.safetensors")
    shared, first = load_file(released), form.arrays(form.first_vector())
    own = [load_file(personal_path(folder.site(name), enrolled.terms.session)) for name in SITES]
    assert not {s.parameter for s in form.layout.segments} & {"head.weight", "head.bias"}
    assert not np.array_equal(shared["embedding.weight"], first["embedding.weight"])  # the shared part was trained
    for name in ("head.weight", "head.bias"):
        assert np.array_equal(shared[name], first[name])
        assert not np.array_equal(own[0][name], first[name])
        assert not np.array_equal(own[0][name], own[1][name])
    for name in set(first) - {"head.weight", "head.bias"}:
        assert np.array_equal(own[0][name], shared[name])


def test_what_no_round_could_use_is_left_out_of_the_fit_and_nothing_else_is_refused(tiny: Tiny) -> None:
    study = tiny()
    constants = sum_constants(study)
    trainer, state = Trainer(study, constants), initial_state(optimiser_rule(study, constants))
    own = made_up(study, 30)
    broken = replace(own, actions=np.where(np.arange(30)[:, None] < 4, 99, own.actions))

    fitted, _ = trainer.personal(state, broken)
    without, _ = trainer.personal(state, own.select(np.arange(4, 30)))

    for name, array in fitted.items():
        np.testing.assert_array_equal(array, without[name])
    with pytest.raises(DataRefused, match="none"):
        trainer.personal(state, replace(own, actions=np.full_like(own.actions, 99)))
