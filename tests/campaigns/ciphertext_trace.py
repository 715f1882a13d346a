"""The branches of encrypted sums that a campaign reaches, those inside the guarded worker included.

A worker is a process that is killed and may write no file. It notes each way that it takes in a page which it shares
with the campaign: a file of one byte a way, of its full size before the worker begins.
"""

from __future__ import annotations

import importlib
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

from branch_trace import BranchTrace

from secure_frl.ckks import worker

_HERE = str(Path(__file__).parent)
_IN_WORKER = "secure_frl.ckks.lattice"
_TRACED_PROGRAM = (
    "import sys; sys.path[:0] = [sys.argv[1], {here!r}]; "
    "from ciphertext_trace import begin_in_worker; begin_in_worker({page!r}); "
    "from secure_frl.ckks.lattice import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


def ways_of(traced: BranchTrace) -> list[tuple[CodeType, int, int]]:
    """Every way out, in the order in which both processes number them."""
    return [
        (code, offset, goal)
        for code, jumps in traced.jumps.items()
        for offset, (_, after, target) in jumps.items()
        for goal in (after, target)
    ]


class _Noting(set[Any]):
    """The ways reached; each that is new is noted in the page too."""

    def __init__(self, numbers: dict[Any, int], page: mmap.mmap) -> None:
        super().__init__()
        self._numbers, self._page = numbers, page

    def add(self, way: Any) -> None:
        super().add(way)
        if way in self._numbers:  # not the way of an exception out of a jump
            self._page[self._numbers[way]] = 1


def begin_in_worker(path: str) -> None:
    """Trace the worker's program from here on. Called in the worker, before its limits."""
    traced = BranchTrace([importlib.import_module(_IN_WORKER)])
    with Path(path).open("r+b") as file:
        page = mmap.mmap(file.fileno(), 0)
    traced.reached = _Noting({way: number for number, way in enumerate(ways_of(traced))}, page)
    sys.settrace(traced._on_call)


@contextmanager
def traced_workers(whole: BranchTrace, page: Path) -> Iterator[None]:
    """Let every worker that starts note its ways; at the end they are among those of `whole`. page: a new file."""
    inside = ways_of(BranchTrace([importlib.import_module(_IN_WORKER)]))
    page.write_bytes(bytes(len(inside)))
    genuine = worker._PROGRAM
    worker._PROGRAM = _TRACED_PROGRAM.format(here=_HERE, page=str(page))
    try:
        yield
    finally:
        worker._PROGRAM = genuine
        seen = page.read_bytes()
        whole.reached |= {way for number, way in enumerate(inside) if seen[number]}
