"""What is no value of a file, where its right value is known."""

from __future__ import annotations


def misspelt(right: str) -> list[object]:
    """Return what `bytes.fromhex` takes for the same bytes, then other sizes and what is no hex text at all."""
    same: list[object] = [right.upper(), f"{right[:2]} {right[2:]}", f" {right}", f"{right}\n"]
    assert right.upper() != right
    return [*same, right[:-2], right[:-1], f"{right}00", "", "zz" * (len(right) // 2), int(right, 16), [right], True]
