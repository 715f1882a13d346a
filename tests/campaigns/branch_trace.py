"""Which branches of decoders and state machines a campaign reaches: both ways out of every conditional jump.

Counted on the bytecode, so that each half of an `and`, each comprehension's condition and each conditional expression
is a branch of its own; a loop counts as entered and as left. Needs no package beyond the interpreter.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

_JUMPS = ("POP_JUMP", "JUMP_IF", "FOR_ITER")
_HAS_LOCALS = 0x02  # CO_NEWLOCALS: a function, not a module or class body
Branch = tuple[str, str, int, str]  # file, function, line, which way


class BranchTrace:
    """Traces the functions of some modules, opcode by opcode."""

    def __init__(self, modules: list[ModuleType], without: frozenset[str] = frozenset()) -> None:
        """without: functions (and what is inside them) that no message reaches."""
        self.jumps: dict[CodeType, dict[int, tuple[int, int, int]]] = {}  # code -> jump -> (line, next, target)
        self.reached: set[tuple[CodeType, int, int]] = set()
        for module in modules:
            path = str(module.__file__)
            whole = compile(Path(path).read_text(), path, "exec", dont_inherit=True)
            for code in _functions(whole):
                if code.co_qualname.split(".<locals>")[0] not in without:
                    self._note(code)
        self._open = dict(self.jumps)  # those with ways still unknown
        self._ways = {code: 2 * len(jumps) for code, jumps in self.jumps.items()}

    def _note(self, code: CodeType) -> None:
        steps, line = list(dis.get_instructions(code)), code.co_firstlineno
        for place, step in enumerate(steps[:-1]):
            line = step.starts_line or line
            # an exception that no handler names goes on: that is no branch of ours
            before = steps[place - 1]
            if step.opname.startswith(_JUMPS) and before.opname != "CHECK_EXC_MATCH":
                # a far jump is traced at the prefix of its argument
                offset = before.offset if before.opname == "EXTENDED_ARG" else step.offset
                jump = (line, steps[place + 1].offset, int(step.argval))
                self.jumps.setdefault(code, {})[offset] = jump

    @contextmanager
    def tracing(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._on_call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        code, reached, last = frame.f_code, self.reached, -1
        jumps = self._open.get(code)
        if jumps is None:
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True

        def on_opcode(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
            nonlocal last
            if event == "opcode":
                if last in jumps and (code, last, frame.f_lasti) not in reached:
                    reached.add((code, last, frame.f_lasti))
                    self._ways[code] -= 1
                    if not self._ways[code]:
                        self._open.pop(code, None)  # every way is known: no need to look again
                last = frame.f_lasti
            return on_opcode

        return on_opcode

    def unreached(self) -> list[Branch]:
        """The ways out that were never taken, in the order of the files."""
        missing: list[Branch] = []
        for code, jumps in self.jumps.items():
            for offset, (line, after, target) in jumps.items():
                for goal, way in ((after, "on"), (target, "away")):
                    if (code, offset, goal) not in self.reached:
                        missing.append((Path(code.co_filename).name, code.co_qualname, line, way))
        return sorted(missing)

    def total(self) -> int:
        """The number of ways out."""
        return 2 * sum(map(len, self.jumps.values()))


def _functions(code: CodeType) -> Iterator[CodeType]:
    """The functions in a module, without what runs once at import."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            is_function = constant.co_flags & _HAS_LOCALS and not (
                code.co_name == "<module>" and constant.co_name.startswith("<") and constant.co_name != "<lambda>"
            )
            if is_function and "__qualname__" not in constant.co_names:
                yield constant
            yield from _functions(constant)
