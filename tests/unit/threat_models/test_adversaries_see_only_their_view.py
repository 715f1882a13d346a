"""What an adversary may import, and that its guess is made of its view alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import threat_models
from threat_models.evaluations import EVALUATIONS

ADVERSARIES = sorted((Path(threat_models.__file__).parent / "adversaries").glob("[a-z]*.py"))
ALLOWED = (
    "secure_frl.wire",
    "secure_frl.errors",
    "threat_models.threat",
    "threat_models.decoding",
    "threat_models.adversaries",
    "numpy",
    "scipy",
    "torch",
)
ALLOWED_WHOLE = {"secure_frl", "__future__", "collections", "dataclasses", "functools", "math", "typing", "itertools"}
REACHING = {"__import__", "eval", "exec", "open", "globals", "vars", "compile", "getattr"}
# A rehearsal's seed is in its study, and everybody there is made of it: no attacker of a real run has it. The others
# give the whole study as values, in which the seed's name is in quotes.
HIDDEN = {"seed", "plain", "canonical", "model_dump", "model_dump_json", "__dict__"}

pytestmark = pytest.mark.threats


def _imported(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "secure_frl" else {module}
    return found


def _forbidden(source: str) -> set[str]:
    """Return what an adversary's source reaches for beyond the wire and public names."""
    import secure_frl

    public = {f"secure_frl.{name}" for name in secure_frl.__all__}
    bad = set()
    for name in _imported(source):
        is_listed = any(name == one or name.startswith(f"{one}.") for one in ALLOWED)
        if not (is_listed or name in public or name.split(".")[0] in ALLOWED_WHOLE - {"secure_frl"}):
            bad.add(name)
    called = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    reached = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    return bad | (called & REACHING) | (reached & HIDDEN)


@pytest.mark.parametrize("path", ADVERSARIES, ids=lambda path: path.stem)
def test_an_adversary_imports_the_wire_and_public_names_only(path: Path) -> None:
    assert _forbidden(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    "line",
    [
        "from threat_models.truth import Truth",
        "from threat_models import laboratory",
        "import secure_frl.federation.site",
        "from secure_frl import federation",
        "from secure_frl.privacy.noise import draw",
        "import importlib",
        "x = open('truth')",
        "people = public.people(policy, 10, public.study.study.seed)",
        "seed = getattr(public.study.study, 'se' + 'ed')",
        "seed = public.study.plain()['study']['seed']",
        "held = public.study.canonical()",
        "from ..truth import Truth",
    ],
)
def test_control_the_same_look_finds_what_reaches_further(line: str) -> None:
    assert _forbidden(line)


def test_every_threat_of_the_suite_has_an_id_a_name_and_sources_of_its_own() -> None:
    threats = [threat for one in EVALUATIONS for threat in one.threats]

    assert len({threat.id for threat in threats}) == len({threat.name for threat in threats}) == len(threats)
    for threat in threats:
        assert threat.id.startswith("SFRL-")
        assert threat.sources
        assert threat.given
        assert threat.stronger
