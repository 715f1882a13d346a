"""Curves: the points are the accountant's, the picture is whole and says what it shows."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from secure_frl.errors import CharterRefused
from secure_frl.privacy.curves import Curve, as_svg, as_text, curve_of
from secure_frl.privacy.planning import make_plan
from secure_frl.study_file import parse_study

RISING = Curve("Spent", "rounds", "epsilon <1>", ((1.0, 1.0), (4.0, 2.0), (9.0, 3.0)), (9.0, 3.0))
SVG = "{http://www.w3.org/2000/svg}"


def test_fresh_studies_show_what_noise_buys_and_others_what_rounds_cost() -> None:
    fresh = parse_study({"study": {"schema": 1, "name": "x"}})
    again = parse_study({"study": {"schema": 1, "name": "x"}}, {"privacy.max_rounds_per_person": 4})

    by_noise, by_round = (curve_of(study, make_plan(study)) for study in (fresh, again))

    assert by_noise.x_label.startswith("noise multiplier")
    assert all(one[1] > other[1] for one, other in zip(by_noise.points, by_noise.points[1:], strict=False))
    assert by_noise.here[1] == pytest.approx(4.0, abs=1e-3)
    assert by_round.x_label == "rounds"
    assert [x for x, _ in by_round.points] == list(range(1, 11))
    assert by_round.points[-1] == by_round.here


def test_without_an_epsilon_no_curve_is_drawn() -> None:
    study = parse_study({"study": {"schema": 1, "name": "x"}}, {"privacy.noise": "unsafe-none"})

    with pytest.raises(CharterRefused):
        curve_of(study, make_plan(study))


@pytest.mark.parametrize("braille", [True, False])
def test_the_text_puts_the_plan_where_it_stands_and_fits_a_terminal(braille: bool) -> None:
    lines = as_text(RISING, braille=braille).splitlines()

    mark = "●" if braille else "O"
    assert all(len(line) <= 70 for line in lines)
    assert lines[1].endswith(mark)  # the last round, at the top
    assert "9" in lines[-2]
    assert braille or all(ord(character) < 128 for line in lines for character in line)


def test_the_picture_is_valid_has_a_title_and_every_point_in_its_frame() -> None:
    root = ElementTree.fromstring(as_svg(RISING))

    assert root.find(f"{SVG}title").text == "Spent: epsilon <1>, by rounds"  # type: ignore[union-attr]
    line = root.find(f"{SVG}polyline").get("points")  # type: ignore[union-attr]
    places = [tuple(map(float, pair.split(","))) for pair in line.split()]  # type: ignore[union-attr]
    assert len(places) == 3
    assert all(70 <= x <= 616 and 56 <= y <= 340 for x, y in places)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    assert "this plan: 3 at 9" in re.sub(r"<[^>]+>", "", as_svg(RISING))
