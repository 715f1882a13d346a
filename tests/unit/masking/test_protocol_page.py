"""docs/protocol.md says what the code does: numbers, sizes, codes, states and names are compared, not only written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from secure_frl import errors
from secure_frl.masking.refusals import CODES, REFUSAL_BYTES
from secure_frl.masking.site_states import TABLE
from secure_frl.wire.messages import MessageType
from secure_frl.wire.registry import REGISTRY, Sizes, greatest_model_bytes

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
NAMES = {"E0_REPLY": "E0 reply", "E1_REPLY": "E1 reply", "E2_REPLY": "E2 reply", "R1P": "R1′"} | {
    "BAD_SHARE": "BadShare", "R3A": "R3a", "R3B": "R3b", "R3C": "R3c", "R5_REPLY": "R5 reply", "REFUSAL": "Refusal",
    "E3_REPLY": "E3 reply", "PACKAGE": "Package", "PACKAGE_REPLY": "Package reply", "R6_REPLY": "R6 reply",
    "R5C_REPLY": "R5C reply",
}  # fmt: skip


def rows(section: str) -> list[list[str]]:
    """Return the cells of every table row of one section."""
    text = re.split(r"^## ", PAGE, flags=re.M)[int(section)]
    assert text.startswith(f"{section}. ")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def messages() -> dict[int, list[str]]:
    return {int(row[0]): row for row in rows("7") if row[0].isdigit()}


def test_the_page_lists_every_message_with_its_number_direction_and_protection():
    found = messages()

    assert set(found) == {int(kind) for kind in REGISTRY}
    for kind, spec in REGISTRY.items():
        _, name, direction, protection, *_ = found[kind]
        assert name.split(",")[0] == NAMES.get(kind.name, kind.name)
        assert direction == ("S → i" if spec.to_site else "i → S")
        assert protection == {"mac": "MAC'd"}.get(spec.protection, spec.protection)


@pytest.mark.parametrize(("n", "length", "width"), [(3, 17, 24), (100, 5000, 32), (10, 17, 45)])
def test_the_greatest_bodies_are_those_of_the_page(n, length, width):
    for kind, row in messages().items():
        formula = re.split("[,;]", row[-1])[0].replace("·", "*")
        numbers = {"n": n, "D": length, "W": 4 if width <= 32 else 8, "C": 70_000}
        size = eval(formula, numbers)  # a formula of this repository's page

        assert size == REGISTRY[MessageType(kind)].limit(Sizes(n, length, width, 70_000)), row
        assert ("exact" in row[-1]) == REGISTRY[MessageType(kind)].exact
    (sealed,) = re.findall(r"sealed part ([\d,]+) \+ (\d+)·D", messages()[16][-1])
    assert int(sealed[0].replace(",", "")) + int(sealed[1]) * length == greatest_model_bytes(length)


def test_the_codes_of_refusals_are_those_of_the_page():
    cells = [cell for row in rows("14") for cell in row]
    found = {int(cell): cells[at + 1].split(":")[0] for at, cell in enumerate(cells) if cell.isdigit()}

    assert [found[code] for code in range(len(CODES))] == list(CODES)
    assert len(found) == len(CODES)
    assert f"All have {REFUSAL_BYTES} bytes" in PAGE


def test_the_states_of_a_site_are_those_of_the_page():
    found = {row[0].split(" ")[0]: set(row[2].split(", ")) for row in rows("13") if len(row) == 4}
    del found["state"], found["---"]

    taken: dict[str, set[str]] = {}
    for state, kind in TABLE:
        taken.setdefault(state.__name__, set()).add(NAMES.get(kind.name, kind.name))
    assert found == taken


def test_every_error_that_the_page_names_exists():
    named = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", PAGE))

    assert len(named) > 15
    assert [name for name in named if not hasattr(errors, name)] == []


def test_every_vector_file_is_on_the_page():
    patterns = re.findall(r"`((?:ok|bad)_[a-z0-9_*]+?)(?:\.json)?`", PAGE)
    files = [path.stem for path in (ROOT / "tests" / "vectors" / "v1").iterdir()]

    def is_named(stem: str) -> bool:
        return any(re.fullmatch(pattern.replace("*", ".*"), stem) for pattern in patterns)

    assert [stem for stem in files if not is_named(stem)] == []
    assert all(any(re.fullmatch(p.replace("*", ".*"), stem) for stem in files) for p in patterns)


def test_every_link_leads_to_a_file():
    targets = re.findall(r"\]\(([^)#:]+)\)", PAGE)

    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
