"""Federated reinforcement learning under differential privacy and secure aggregation.

The public names below are loaded on first use, so that reading a study or a ledger never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {  # name: (module, attribute)
    "Study": ("secure_frl.study", "Study"),
    "load_policy": ("secure_frl.federation.policy_files", "load_policy"),
    "load_study": ("secure_frl.study_file", "load_study"),
    "plan": ("secure_frl.privacy.planning", "make_plan"),
    "read_capture": ("secure_frl.wire.capture", "read_capture"),
    "read_ledger": ("secure_frl.evidence.ledger_view", "view_ledger"),
    "resume": ("secure_frl.federation.simulation", "resume"),
    "run": ("secure_frl.federation.simulation", "run"),
    "solve": ("secure_frl.privacy.solving", "solve"),
    "verify": ("secure_frl.evidence.verify", "verify"),
}

__all__ = [
    "Study",
    "load_policy",
    "load_study",
    "plan",
    "read_capture",
    "read_ledger",
    "resume",
    "run",
    "solve",
    "verify",
]


def __getattr__(name: str) -> Any:  # Any: whatever the public name stands for
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
