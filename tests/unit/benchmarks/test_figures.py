"""The benchmarks run, and end with figures that say whether their bars hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("script", "parts", "names"),
    [
        ("secure_sum.py", "quantiser,thousand_clients", ["quantiser", "quantiser_over_float32", "thousand_clients"]),
        ("privacy.py", "noise_table,register", ["noise_table_s", "register_over_lookup"]),
        ("encrypted_sum.py", "against_nvflare", ["encrypt_speedup", "encrypt_speedup.public_key", "bytes_ratio"]),
        ("books.py", "guard,simulated_sites", ["guard_ms", "ledger_s_per_round"]),
    ],
)
def test_the_last_line_has_every_figure_beside_its_bar(script: str, parts: str, names: list[str]) -> None:
    ended = run(script, "--json", "--quick", "--only", parts)

    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout.splitlines()[-1])["figures"]
    assert [figure["name"] for figure in figures] == names
    for figure in figures:
        assert set(figure) == {"name", "value", "unit", "bar", "holds"}
        relation, bar = figure["bar"].split()
        assert figure["value"] > 0
        assert figure["holds"] == (figure["value"] <= float(bar) if relation == "<=" else figure["value"] >= float(bar))


def test_an_unknown_figure_is_refused() -> None:
    ended = run("secure_sum.py", "--json", "--only", "warp")

    assert ended.returncode == 2
    assert "warp" in ended.stderr
