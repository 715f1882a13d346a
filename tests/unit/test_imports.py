"""What may be loaded by whom, seen in fresh interpreters: reading books and plans never costs torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import secure_frl

_LIGHT = """
import sys
import secure_frl.cli.main
assert 'torch' not in sys.modules, 'the command line loads torch'
from secure_frl.study_file import load_study
from secure_frl.privacy.planning import make_plan
make_plan(load_study(__import__('pathlib').Path(sys.argv[1])))
assert 'torch' not in sys.modules and 'opacus' not in sys.modules, 'planning loads torch'
import secure_frl.evidence.verify, secure_frl.evidence.ledger_view
assert 'torch' not in sys.modules, 'verification loads torch'
"""
_VERIFY = """
import sys
from pathlib import Path
from secure_frl.evidence.verify import verify
assert verify(Path(sys.argv[1])).holds
reached = [name for name in sys.modules if name.startswith(('secure_frl.federation', 'secure_frl.learning'))]
assert reached == [], reached
assert 'torch' not in sys.modules
"""


def _python(program: str, argument: Path) -> str:
    done = subprocess.run([sys.executable, "-c", program, str(argument)], capture_output=True, text=True)
    return done.stderr


def test_command_line_plans_and_books_load_no_torch() -> None:
    shipped = Path(__file__).parents[2] / "examples" / "icu_sepsis" / "study.toml"

    assert _python(_LIGHT, shipped) == ""


def test_verification_of_a_real_run_reaches_neither_federation_nor_learning(finished_run: Path) -> None:
    assert _python(_VERIFY, finished_run) == ""


def test_every_public_name_can_be_loaded() -> None:
    assert set(secure_frl.__all__) >= {"Study", "plan", "run", "verify", "load_policy"}
    for name in secure_frl.__all__:
        assert callable(getattr(secure_frl, name))


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    assert not hasattr(secure_frl, "no_such_name")
