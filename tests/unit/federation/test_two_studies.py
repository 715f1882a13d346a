"""Two studies on one data set at the same time, in two processes: what there is is spent once, who is refused hears."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from secure_frl.errors import BudgetExhausted
from secure_frl.evidence.ledger_view import view_ledger
from secure_frl.evidence.verify import verify
from secure_frl.federation import run_folder, simulation
from secure_frl.federation.enrolment import coordinator_identity, enrol, open_all_sites
from secure_frl.federation.run_folder import RunOptions
from secure_frl.study import Study

pytestmark = pytest.mark.slow


def _begin(study: Study, out: Path, shared: RunOptions, go: int) -> int:
    """Fork a process that runs the study once a byte comes; it ends with 0, 3 when the budget refuses, or 1."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.read(go, 1)
        simulation.run(study, out, shared)
        code = 0
    except BudgetExhausted:
        code = 3
    except BaseException:  # os._exit would swallow why
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


@pytest.mark.parametrize(("epsilon", "codes"), [(3.5, [0, 3]), (2.0, [0, 0])])
def test_two_studies_at_once_spend_no_more_than_there_is(
    epsilon: float, codes: list[int], tiny: Callable[..., Study], tmp_path: Path
) -> None:
    study = tiny({"data.dataset_id": "ward-a", "data.lifetime_epsilon": 4.0, "privacy.target_epsilon": epsilon})
    shared = RunOptions(state=tmp_path / "state")
    before = run_folder.begin(tmp_path / "before", study, shared, None)  # keys and ledgers are there, nothing is spent
    coordinator_identity(before)
    for site in open_all_sites(before, enrol(before, study, rehearse=False)).values():
        site.shut_down()
    waiting, go = os.pipe()
    children = [_begin(study, tmp_path / name, shared, waiting) for name in ("one", "two")]

    os.write(go, b"!!")

    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(ended) == codes
    for name, code in zip(("one", "two"), ended, strict=True):
        if code == 0:
            assert verify(tmp_path / name).findings == ()
    for ledger in (tmp_path / "state").glob("**/ledger.sqlite"):
        view = view_ledger(ledger)
        assert len(view.studies) == codes.count(0)
        assert epsilon - 0.1 < view.epsilon_spent <= 4.0
        assert [row.status for row in view.rows if row.kept.is_spent] == ["summed"] * 2 * codes.count(0)
