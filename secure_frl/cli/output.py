"""Exit codes, and where a command prints: its answer on standard output, progress and errors on standard error.

With --json the answer for people goes to standard error as well, and standard output has one object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from secure_frl import errors

DONE = 0
CLAIM_FAILS = 1
BAD_INPUT = 2
BUDGET_EXHAUSTED = 3
PEER_BROKE_PROTOCOL = 4
CONTROL_FAILED = 5  # inconclusive
STOPPED = 6
INTERRUPTED = 130

# The first class that fits decides, so children stand before their parents.
_EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (errors.BudgetExhausted, BUDGET_EXHAUSTED),
    (errors.StudyStopped, STOPPED),
    (errors.RoundAborted, STOPPED),
    (errors.EvidenceRefused, CLAIM_FAILS),
    (errors.ProtocolError, PEER_BROKE_PROTOCOL),
    (errors.SecureFrlError, BAD_INPUT),
)

progress = Console(stderr=True, highlight=False)
_answer = Console(highlight=False)


def people(*, as_json: bool) -> Console:
    """Return where the answer for people goes."""
    return progress if as_json else _answer


def exit_code(error: BaseException) -> int:
    """Return the documented exit code of an error of ours."""
    return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))


def emit_json(result: Mapping[str, Any]) -> None:  # Any: JSON values
    """Print one JSON object as the last line of standard output."""
    sys.stdout.write(json.dumps(result, sort_keys=True, allow_nan=False) + "\n")
    sys.stdout.flush()


def guarded(command: Callable[[], int], *, as_json: bool) -> int:
    """Run a command; print what ends it as a sentence (and as JSON when asked) and return its exit code."""
    try:
        return command()
    except errors.SecureFrlError as error:
        return _report(type(error).__name__, str(error), exit_code(error), as_json)
    except OSError as error:  # a folder that can't be written, a full disk: said in a sentence, never as exit code 1
        where = f" {error.filename}" if error.filename is not None else ""
        message = (
            f"expected to read and write{where}, the system said: {error.strerror or error}. "
            "Check the path, its permissions and the space on the disk."
        )
        return _report(type(error).__name__, message, BAD_INPUT, as_json)
    except KeyboardInterrupt:
        return _report("Interrupted", "stopped from outside. What was released stays spent.", INTERRUPTED, as_json)


def _report(name: str, message: str, code: int, as_json: bool) -> int:
    progress.print(f"{name}: {message}", style="bold red", markup=False, soft_wrap=True)
    if as_json:
        emit_json({"error": name, "message": message, "exit_code": code})
    return code
