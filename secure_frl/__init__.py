"""Federated reinforcement learning under differential privacy and secure aggregation.

The public names below are loaded on first use, so that reading a study or a ledger never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Study": "secure_frl.study",
    "load_study": "secure_frl.study_file",
    "make_plan": "secure_frl.privacy.planning",
    "run": "secure_frl.federation.simulation",
    "resume": "secure_frl.federation.simulation",
    "verify": "secure_frl.evidence.verify",
    "load_policy": "secure_frl.federation.policy_files",
}

__all__ = ["Study", "load_policy", "load_study", "make_plan", "resume", "run", "verify"]


def __getattr__(name: str) -> Any:  # Any: whatever the public name stands for
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
