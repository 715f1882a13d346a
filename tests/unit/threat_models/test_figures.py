"""The figures: drawn from the report's JSON alone, the same bytes twice, and none without data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from secure_frl.errors import InvalidParameter
from secure_frl.study_file import load_study
from threat_models.evaluation import Effort
from threat_models.figures import draw
from threat_models.results import Cell, Kind, not_tested
from threat_models.suite import Report

_ROC = {"fpr": [0.01, 0.1, 1.0], "tpr": [0.2, 0.5, 1.0], "tpr_low": [0.1, 0.4, 1.0], "tpr_high": [0.3, 0.6, 1.0]}
_COLLUDERS = {"colluders": [0.0, 1.0], "epsilon": [7.0, 8.0], "assumed": [1.0]}
CURVES = {
    "roc": {**_ROC, "tpr_ceiling": [0.3, 0.7, 1.0]},
    "epsilon_audited": {"claimed": [4.0], "proved": [3.4]},
    "trajectories": {"trajectory_features": [2.0], "trajectory_true": [0.0, 1.0], "trajectory_guessed": [0.0, 2.0]},
    "colluders": {**_COLLUDERS, "excess": [0.0, 0.1], "excess_low": [-0.1, 0.0], "excess_high": [0.1, 0.2]},
}


def _report(*cells: Cell) -> dict[str, object]:
    study = load_study(Path(__file__).parents[3] / "examples" / "icu_sepsis" / "study.toml")
    plain: dict[str, object] = json.loads(json.dumps(Report(study, Effort(), cells, (), 1.0).plain(), allow_nan=False))
    return plain


def _cell(**given: object) -> Cell:
    fields = {"metric": "found", "value": 0.5, "low": 0.4, "high": 0.6, "n": 10, "view": "coordinator"} | given
    return Cell("look", "noise", Kind.REPORT, **fields)  # type: ignore[arg-type]  # fields of each type


@pytest.mark.parametrize("name", [*CURVES, "returns"])
def test_each_figure_is_drawn_where_a_row_has_its_data(name: str, tmp_path: Path) -> None:
    given = {"metric": "return over clean"} if name == "returns" else {"curves": CURVES[name]}

    drawn = draw(_report(_cell(**given)), tmp_path)

    assert {path.stem for path in drawn} == {"matrix", name}
    assert all(path.read_text().startswith("<?xml") for path in drawn)


def _return_of(name: str, malicious: int, defence: str) -> Cell:
    figures = {"malicious": float(malicious), "sites": 12.0}
    return replace(_cell(metric="return", game=f"{name}, {malicious} of 12", figures=figures), defence=defence)


def test_returns_are_drawn_against_the_number_of_malicious_sites_where_several_were_measured(tmp_path: Path) -> None:
    rows = [_return_of("nobody", 0, "bound"), _return_of("flip", 2, "bound"), _return_of("hide", 2, "bound")]

    draw(_report(*rows), tmp_path)
    one_number = (tmp_path / "returns.svg").read_text()
    draw(_report(*rows, _return_of("flip", 4, "bound")), tmp_path)
    two_numbers = (tmp_path / "returns.svg").read_text()

    assert "malicious sites of 12" not in one_number
    assert "malicious sites of 12" in two_numbers
    assert "flip, bound" in two_numbers
    assert "hide, bound" not in two_numbers  # measured with one number only
    assert "flip, 2 of 12" in two_numbers
    assert "flip, 4 of 12" not in two_numbers  # a point of its line


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    report = _report(_cell(curves=CURVES["roc"]))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        draw(report, tmp_path / name)

    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_the_matrix_says_in_words_what_its_colours_say(tmp_path: Path) -> None:
    refused = _cell(refusal="RoundRefused", value=0.0)

    draw(_report(_cell(nulls={"swapped": 0.25}), refused, not_tested("listen", "nothing to hear")), tmp_path)

    text = (tmp_path / "matrix.svg").read_text()
    assert "chance 0.25" in text
    assert "reported" in text
    assert "listen" not in text


def test_of_several_returns_the_matrix_shows_the_lowest_and_no_refusal_beside_them(tmp_path: Path) -> None:
    refused = _cell(refusal="RoundRefused", value=0.0)
    draw(_report(refused, *(_cell(metric="return", value=value) for value in (1.02, 1.01, 1.03))), tmp_path)

    text = (tmp_path / "matrix.svg").read_text()
    assert "1.010 [" in text


def test_nothing_is_drawn_of_what_was_not_tested(tmp_path: Path) -> None:
    assert draw(_report(not_tested("listen", "nothing to hear")), tmp_path) == []


def test_another_object_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="threat report"):
        draw({"figures": []}, tmp_path)
