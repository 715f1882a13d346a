"""The benchmark of secure sums runs, and ends with figures that say whether their bars hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "secure_sum.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_the_last_line_has_every_figure_beside_its_bar() -> None:
    ended = run("--json", "--quick", "--only", "quantiser,thousand_clients")

    figures = json.loads(ended.stdout.splitlines()[-1])["figures"]

    assert ended.returncode == 0, ended.stderr
    assert [figure["name"] for figure in figures] == ["quantiser", "thousand_clients"]
    for figure in figures:
        assert set(figure) == {"name", "value", "unit", "bar", "holds"}
        relation, bar = figure["bar"].split()
        assert figure["value"] > 0
        assert figure["holds"] == (figure["value"] <= float(bar) if relation == "<=" else figure["value"] >= float(bar))


def test_an_unknown_figure_is_refused() -> None:
    ended = run("--json", "--only", "warp")

    assert ended.returncode == 2
    assert "warp" in ended.stderr
