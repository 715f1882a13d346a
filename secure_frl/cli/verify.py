"""`secure-frl verify DIR|LEDGER`: check offline what a run left, without trusting whoever ran it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from secure_frl.cli.options import AsJson
from secure_frl.cli.output import CLAIM_FAILS, DONE, emit_json, guarded, progress


def verify_command(
    path: Annotated[Path, typer.Argument(help="A run folder, or one exported ledger (.jsonl).")],
    allow_rehearsal: Annotated[bool, typer.Option("--allow-rehearsal", help="Accept seeded noise and keys.")] = False,
    as_json: AsJson = False,
) -> None:
    """Recompute epsilon and check chains, signatures and files of PATH."""

    def command() -> int:
        from secure_frl.evidence.verify import verify

        outcome = verify(path, allow_rehearsal=allow_rehearsal)
        for finding in outcome.findings:
            progress.print(f"does not hold: {finding}", style="red", markup=False)
        for sentence in outcome.proved:
            progress.print(f"proved: {sentence}", style="green", markup=False)
        for sentence in outcome.not_proved:
            progress.print(f"not proved: {sentence}", style="yellow", markup=False)
        if as_json:
            emit_json(asdict(outcome))
        return DONE if outcome.holds else CLAIM_FAILS

    raise typer.Exit(guarded(command, as_json=as_json))
