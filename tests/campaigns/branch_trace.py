"""Which branches of decoders and state machines a campaign reaches: both ways out of every conditional jump.

Counted on the bytecode, so that each half of an `and`, each comprehension's condition and each conditional expression
is a branch of its own; a loop counts as entered or left. Needs no package beyond the interpreter.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

_FALLS_AND_JUMPS = ("POP_JUMP", "JUMP_IF", "FOR_ITER")
Branch = tuple[str, str, int, int, bool]  # file, function, line, offset, whether the jump is taken


def codes_of(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_of(constant)


class BranchTrace:
    """Traces the functions of some modules, opcode by opcode."""

    def __init__(self, modules: list[ModuleType]) -> None:
        self.targets: dict[CodeType, dict[int, tuple[int, int]]] = {}  # code -> jump offset -> (next, target)
        self.lines: dict[tuple[CodeType, int], int] = {}
        self.reached: set[tuple[CodeType, int, int]] = set()
        self._shared: dict[tuple[str, str, int], CodeType] = {}
        for module in modules:
            path = str(module.__file__)
            whole = compile(Path(path).read_text(), path, "exec", dont_inherit=True, optimize=0)
            for code in codes_of(whole):
                if code.co_name == "<module>" or self._is_class_body(code):
                    continue
                self._shared[path, code.co_qualname, code.co_firstlineno] = code
                self._note_jumps(code)

    @staticmethod
    def _is_class_body(code: CodeType) -> bool:
        return "__qualname__" in code.co_names and not code.co_flags & 0x02  # without CO_NEWLOCALS

    def _note_jumps(self, code: CodeType) -> None:
        instructions = list(dis.get_instructions(code))
        jumps: dict[int, tuple[int, int]] = {}
        line = code.co_firstlineno
        for place, step in enumerate(instructions[:-1]):
            line = step.starts_line or line
            if not any(step.opname.startswith(name) for name in _FALLS_AND_JUMPS):
                continue
            if instructions[place - 1].opname == "CHECK_EXC_MATCH":
                continue  # an exception that no handler names goes on; that is no branch of ours
            jumps[step.offset] = (instructions[place + 1].offset, int(step.argval))
            self.lines[code, step.offset] = line
        if jumps:
            self.targets[code] = jumps

    @contextmanager
    def tracing(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._on_call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        known = self._shared.get((code.co_filename, code.co_qualname, code.co_firstlineno))
        jumps = self.targets.get(known) if known is not None else None
        if known is None or jumps is None:
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        reached, last = self.reached, -1

        def on_opcode(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
            nonlocal last
            if event == "opcode":
                here = frame.f_lasti
                if last in jumps:
                    reached.add((known, last, here))
                last = here
            return on_opcode

        return on_opcode

    def unreached(self) -> list[Branch]:
        """The ways out that were never taken, in the order of the files."""
        missing: list[Branch] = []
        for code, jumps in self.targets.items():
            for offset, (after, target) in jumps.items():
                for goal, is_jump in ((after, False), (target, True)):
                    if (code, offset, goal) not in self.reached:
                        line = self.lines[code, offset]
                        missing.append((Path(code.co_filename).name, code.co_qualname, line, offset, is_jump))
        return sorted(missing)

    def total(self) -> int:
        """The number of ways out."""
        return 2 * sum(len(jumps) for jumps in self.targets.values())
