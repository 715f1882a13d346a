"""`secure-frl verify DIR|LEDGER`: check offline what a run left, without trusting whoever ran it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secure_frl.cli.options import AsJson
from secure_frl.cli.output import CLAIM_FAILS, DONE, emit_json, guarded, people
from secure_frl.errors import ConfigError, InvalidParameter

if TYPE_CHECKING:
    from secure_frl.evidence.findings import Verification

_OF_A_RUN = ("run.json", "roster.toml", "charter.json", "manifest.json", "result.json")


def verify_command(
    path: Annotated[Path, typer.Argument(help="A run folder, or one exported ledger (.jsonl).")],
    allow_rehearsal: Annotated[
        bool, typer.Option("--allow-rehearsal", help="Check the books of a rehearsal: seeded noise, protects nobody.")
    ] = False,
    consortium_key: Annotated[str, typer.Option(help="The consortium's public key that you know, in hex.")] = "",
    as_json: AsJson = False,
) -> None:
    """Recompute epsilon and check chains, signatures and files of PATH. An unfinished run holds, and claims nothing."""

    def command() -> int:
        from secure_frl.evidence.verify import verify

        _check_path(path)
        screen = people(as_json=as_json)
        known = _public_key(consortium_key) if consortium_key else None
        outcome = verify(path, allow_rehearsal=allow_rehearsal, consortium_public_key=known)
        if outcome.unfinished:
            screen.print(f"unfinished: `secure-frl resume {path}` goes on with this run", style="yellow", markup=False)
        for finding in outcome.findings:
            screen.print(f"does not hold: {finding}", style="red", markup=False, soft_wrap=True)
        for sentence in outcome.proved:
            screen.print(f"proved: {sentence}", style="green", markup=False, soft_wrap=True)
        for sentence in outcome.not_proved:
            screen.print(f"not proved: {sentence}", style="yellow", markup=False, soft_wrap=True)
        screen.print(_verdict(outcome), style="bold", markup=False, soft_wrap=True)
        if as_json:
            emit_json(outcome.to_json())
        return DONE if outcome.holds else CLAIM_FAILS

    raise typer.Exit(guarded(command, as_json=as_json))


def _verdict(outcome: Verification) -> str:
    if not outcome.holds:
        return "verdict: does not hold, see the top"
    if outcome.unfinished:
        return "verdict: unfinished, nothing is claimed yet"
    return "verdict: holds, as far as files can show"


def _check_path(path: Path) -> None:
    """Refuse what is no evidence at all, so that a mistyped path is not taken for a claim that fails."""
    if path.is_dir():
        if not any((path / name).exists() for name in _OF_A_RUN):
            raise ConfigError(f"expected a run folder, {path} holds none of {', '.join(_OF_A_RUN)}. Check the path.")
    elif not path.exists() or path.suffix != ".jsonl":
        found = f"{path} is another file" if path.exists() else f"{path} does not exist"
        raise ConfigError(
            f"expected a run folder or an exported ledger (.jsonl with its .head beside it), {found}. Check the path."
        )


def _public_key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise InvalidParameter("--consortium-key expects 64 hex digits. Ask the consortium for them, never the run.")
    return key
