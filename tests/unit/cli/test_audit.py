"""`secure-frl audit`: refused outside a rehearsal, and an exit code for each verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from secure_frl.cli.main import app

SHIPPED = Path(__file__).parents[3] / "examples" / "icu_sepsis" / "study.toml"


def audit(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["audit", str(SHIPPED), "--json", *map(str, arguments)])


def last(result: Result) -> dict[str, object]:
    return json.loads(result.stdout.splitlines()[-1])


def test_an_audit_without_rehearse_is_refused_and_says_why() -> None:
    result = audit()

    assert result.exit_code == 2
    assert "never run among patients" in str(last(result)["message"])


@pytest.mark.slow
def test_an_audit_prints_claim_bound_power_and_verdict() -> None:
    result = audit("--rehearse", "--seed", 0)

    report = last(result)
    assert result.exit_code == 0
    assert report["verdict"] == "no violation seen"
    assert report["rehearsal"] is True
    for words in ("delta 1e-06, per patient", "smallest bug seen", "proves nothing", "for any mechanism"):
        assert words in " ".join(result.stderr.split())


@pytest.mark.slow
def test_half_the_noise_ends_in_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    from secure_frl.privacy import optimizer

    drawn = optimizer.discrete_gaussian
    monkeypatch.setattr(optimizer, "discrete_gaussian", lambda s, count, random: drawn(s // 2, count, random))

    result = audit("--rehearse", "--canaries", 4000)

    assert result.exit_code == 1
    assert last(result)["verdict"] == "claim does not hold"


@pytest.mark.slow
def test_canaries_that_do_not_arrive_whole_end_in_exit_5(monkeypatch: pytest.MonkeyPatch) -> None:
    from secure_frl.privacy import canaries

    monkeypatch.setattr(canaries, "LENGTH_IN_CLIPS", 0.5)

    result = audit("--rehearse")

    assert result.exit_code == 5
    assert last(result)["verdict"] == "inconclusive"
