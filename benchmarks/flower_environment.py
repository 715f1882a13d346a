"""Flower in a process and an environment of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

FLOWER = "flwr==1.41.0"
_DRIVER = Path(__file__).with_name("flower_peer.py")


def flower_round(python: Path, *, clients: int, shares: int, length: int, lost: int) -> dict[str, Any]:
    """Run one round of Flower's protocol in a process of its own. Raises RuntimeError if it did not give the mean."""
    sizes = {"clients": clients, "shares": shares, "length": length, "lost": lost}
    command = [str(python), str(_DRIVER), *(word for name, size in sizes.items() for word in (f"--{name}", str(size)))]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # a fixed command line
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    if found["worst_error"] is None or found["worst_error"] > 1e-4:
        raise RuntimeError(f"expected the mean of {clients - lost} vectors from Flower, got another. Read its log.")
    return found
