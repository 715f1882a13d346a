"""Defences as settings: what each column of the matrix changes in a study.

A defence is a few keys of the study and nothing else, so whatever stands in a column can be run by `secure-frl run`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secure_frl import Study
from secure_frl.masking.contexts import config_hash
from secure_frl.privacy.planning import sum_constants
from secure_frl.study_file import parse_study

_DEFENDING = ("sites", "privacy", "protection")  # tables of a study that say what protects it
WIDE = 8.0  # "no clip": a bound that hardly a gradient reaches, for every message has a bound here


@dataclass(frozen=True, slots=True)
class Defence:
    """One column."""

    name: str  # as --defence takes it
    changes: Mapping[str, Any]  # dotted keys of the study; Any: TOML values
    clip: bool = True  # whether units are clipped at the study's norm, or at a bound that none reaches
    epsilon: float | None = None  # of one release


NOTHING = {"privacy.noise": "unsafe-none"}
PLAIN = Defence("unsafe-plain", {"protection.method": "unsafe-plain", **NOTHING}, clip=False)
CLIP = Defence("clip", {"protection.method": "unsafe-plain", **NOTHING})
LOCAL_8 = Defence(
    "local-8",
    {"protection.method": "unsafe-plain", "privacy.noise": "local", "privacy.target_epsilon": 8.0},
    epsilon=8.0,
)
LOCAL_1 = Defence(
    "local-1",
    {"protection.method": "unsafe-plain", "privacy.noise": "local", "privacy.target_epsilon": 1.0},
    epsilon=1.0,
)
MASKING = Defence("masking", {"protection.method": "masking", **NOTHING})
CKKS = Defence("ckks", {"protection.method": "ckks", **NOTHING})
CKKS_MASKING = Defence("ckks+masking", {"protection.method": "ckks+masking", **NOTHING})
MASKING_8 = Defence(
    "masking+dp-8",
    {"protection.method": "masking", "privacy.noise": "distributed", "privacy.target_epsilon": 8.0},
    epsilon=8.0,
)
MASKING_1 = Defence(
    "masking+dp-1",
    {"protection.method": "masking", "privacy.noise": "distributed", "privacy.target_epsilon": 1.0},
    epsilon=1.0,
)


def changed(study: Study, *changes: Mapping[str, Any]) -> Study:
    """Return a study with keys replaced, later ones over earlier ones. Raises StudyRefused for what is no study."""
    together: dict[str, Any] = {}
    for one in changes:
        together.update(one)
    return parse_study(study.plain(), together, source="a study under attack")


def defended(study: Study, defence: Defence, *, clip_norm: float) -> Study:
    """Return a study behind a defence. clip_norm: where the defence clips; 8 times that otherwise."""
    bound = clip_norm if defence.clip else WIDE * clip_norm
    return changed(study, {"privacy.clip_norm": bound}, defence.changes)


def digest_of(study: Study) -> str:
    """Return the SHA-256, in hex, of what protects a study under attack: rows with the same one met the same settings.

    Of the canonical JSON of three tables of the study and the hash of the sum's constants, as sites sign it: with clip,
    noise and thresholds. A check that a row takes out at its sites is code, and in the row's view; a robust rule, or a
    malicious site that skips the clip, in its game. Raises CharterRefused, BitBudget for what no site may sign.
    """
    tables = {name: value for name, value in study.plain().items() if name in _DEFENDING}
    signed = {"tables": tables, "constants": config_hash(sum_constants(study)).hex()}
    text = json.dumps(signed, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
