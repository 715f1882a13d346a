"""What a verification says: findings that name a file, and sentences on what was and wasn't proved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from secure_frl.errors import SecureFrlError


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that doesn't hold: the file, what was expected and what came, and what to do."""

    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of `verify`."""

    holds: bool
    findings: tuple[Finding, ...]
    epsilon_recomputed: float | None  # None when no epsilon may be stated, or none could be computed
    epsilon_claimed: float | None
    delta: float | None
    rounds: int  # rounds with a sum
    statement: dict[str, Any] | None  # the recomputed epsilon with all its terms; Any: JSON values
    unfinished: bool
    is_rehearsal: bool
    proved: tuple[str, ...]
    not_proved: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return plain values for `--json`."""
        return {
            "delta": self.delta,
            "epsilon_claimed": self.epsilon_claimed,
            "epsilon_recomputed": self.epsilon_recomputed,
            "findings": [{"file": one.file, "message": one.message} for one in self.findings],
            "holds": self.holds,
            "is_rehearsal": self.is_rehearsal,
            "not_proved": list(self.not_proved),
            "proved": list(self.proved),
            "rounds": self.rounds,
            "statement": self.statement,
            "unfinished": self.unfinished,
        }


@dataclass(slots=True)
class Notes:
    """Collects findings and sentences while a verification runs."""

    findings: list[Finding] = field(default_factory=list)
    proved: list[str] = field(default_factory=list)
    not_proved: list[str] = field(default_factory=list)
    is_rehearsal: bool = False
    statement: dict[str, Any] | None = None  # Any: JSON values

    def find(self, file: str, message: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(file, message))

    def find_error(self, file: str, error: SecureFrlError | OSError) -> None:
        """Add a finding from an error; one of the operating system's gets the next step added."""
        text = (
            str(error) if isinstance(error, SecureFrlError) else f"can't be read: {error.strerror}. Restore the file."
        )
        self.find(file, text)
