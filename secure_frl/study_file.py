"""Read a study file: every mistake at once, and for each where, what was expected, what was found, what to do."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from secure_frl.errors import InvalidParameter, StudyRefused
from secure_frl.study import Study
from secure_frl.study_checks import CROSS_CHECKS

MAX_STUDY_BYTES = 1 << 20


def load_study(path: Path, overrides: Mapping[str, Any] | None = None) -> Study:  # Any: TOML values
    """Read and check a study file.

    overrides: dotted key to value, for instance {"privacy.target_epsilon": 1.0}; they replace what the file says.
    Raises StudyRefused with every mistake at once, InvalidParameter for an override whose key is none.
    """
    try:
        if path.stat().st_size > MAX_STUDY_BYTES:
            raise StudyRefused(f"{path}: expected a study of at most {MAX_STUDY_BYTES} bytes. Check the path.")
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyRefused(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyRefused(f"{path}: expected TOML, found a mistake: {error}. Correct that line.") from error
    return parse_study(raw, overrides, source=str(path))


def parse_study(raw: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, source: str = "study") -> Study:
    """Check a study that has been read. Raises as `load_study`."""
    table = json.loads(json.dumps(raw, default=str))
    for dotted, value in (overrides or {}).items():
        _set(table, dotted, value)
    mistakes: list[str] = []
    wrong: set[str] = set()
    study = _validate(table, mistakes, wrong)
    if study is not None:
        for path, needs, check, cure in CROSS_CHECKS:
            if not any(key.startswith(need) or need.startswith(key) for key in wrong for need in needs):
                mistakes.extend(f"{path}: expected {message}. To mend it: {cure}." for message in check(study))
    if mistakes or study is None:
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) != 1 else ''}"
        raise StudyRefused(f"{source}: {count} in this study:\n" + "\n".join(f"  - {line}" for line in mistakes))
    return study


def _validate(table: dict[str, Any], mistakes: list[str], wrong: set[str]) -> Study | None:
    """Return the study with every wrong key left at its default, so that checks over several keys still run."""
    try:
        return Study.model_validate(table)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            location = tuple(part for part in found["loc"] if isinstance(part, str))
            path = ".".join(location)
            if path in wrong:
                continue
            wrong.add(path)
            mistakes.append(_explain(path, location, found))
            _remove(table, location)
    try:
        return Study.model_validate(table)
    except ValidationError:
        return None  # a key without a default is missing: it is in the list already


def _explain(path: str, location: tuple[str, ...], found: Mapping[str, Any]) -> str:
    if found["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        homes = [f"{section}.{location[-1]}" for section in _known_keys(()) if location[-1] in _known_keys((section,))]
        cure = f"write {' or '.join(homes or near[:1])} instead" if near or homes else "take it out"
        expected = f"one of the keys {', '.join(sorted(known))}"
        return f"{path}: expected {expected}; found the unknown key {location[-1]!r}. To mend it: {cure}."
    message = str(found["msg"]).removeprefix("Input should be ")
    expected = "a key" if found["type"] == "missing" else message[:1].lower() + message[1:]
    value = "nothing" if found["type"] == "missing" else _short(found["input"])
    return f"{path}: expected {expected}; found {value}. To mend it: {_description(location)}."


def _short(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _fields(location: tuple[str, ...]) -> Mapping[str, Any] | None:  # Any: pydantic's FieldInfo, by name in the file
    model: type[BaseModel] = Study
    for part in location:
        by_name = {field.alias or name: field for name, field in model.model_fields.items()}
        field = by_name.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        model = field.annotation
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _known_keys(location: tuple[str, ...]) -> list[str]:
    return list(_fields(location) or {})


def _description(location: tuple[str, ...]) -> str:
    fields = _fields(location[:-1]) or {}
    field = fields.get(location[-1]) if location else None
    text = getattr(field, "description", None)
    return f"write {text}" if text else "see examples/icu_sepsis/study.toml"


def _set(table: dict[str, Any], dotted: str, value: Any) -> None:  # Any: TOML values
    *parents, last = dotted.split(".")
    for part in parents:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InvalidParameter(f"expected a dotted key such as privacy.delta, got {dotted!r}. Check the key.")
    table[last] = value


def _remove(table: dict[str, Any], location: tuple[str, ...]) -> None:
    for part in location[:-1]:
        inner = table.get(part)
        if not isinstance(inner, dict):
            return
        table = inner
    if location:
        table.pop(location[-1], None)
