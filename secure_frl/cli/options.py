"""Options that several commands share, with the overrides of a study that they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from secure_frl.errors import InvalidParameter
from secure_frl.study import Study
from secure_frl.study_file import load_study

StudyPath = Annotated[Path, typer.Argument(help="A study file, for instance examples/icu_sepsis/study.toml.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]
Epsilon = Annotated[float | None, typer.Option(help="Replace privacy.target_epsilon.")]
Seed = Annotated[int | None, typer.Option(help="Replace study.seed: training and simulated patients only.")]
Protection = Annotated[
    str | None, typer.Option(help="Replace protection.method: masking | ckks | ckks+masking | unsafe-plain.")
]
SetKey = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace any key, e.g. privacy.noise=local; may be repeated."),
]


def _value(text: str) -> Any:  # Any: a TOML value
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_study(
    path: Path, epsilon: float | None, seed: int | None, protection: str | None, assignments: list[str] | None
) -> Study:
    """Read a study file with what the command line replaces in it. Raises StudyRefused, InvalidParameter."""
    overrides: dict[str, Any] = {}
    for assignment in assignments or []:
        key, sign, text = assignment.partition("=")
        if not sign or not key:
            raise InvalidParameter(
                f"--set expects KEY=VALUE, got {assignment!r}. Write for instance privacy.noise=local."
            )
        overrides[key] = _value(text)
    named = {"privacy.target_epsilon": epsilon, "study.seed": seed, "protection.method": protection}
    overrides.update({key: value for key, value in named.items() if value is not None})
    return load_study(path, overrides)
