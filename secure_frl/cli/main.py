"""The command line: one file a command, no logic of its own, no torch before a command needs it."""

from __future__ import annotations

from importlib.metadata import entry_points

import typer

from secure_frl.cli.audit import audit_command
from secure_frl.cli.ledger import ledger_commands
from secure_frl.cli.plan import plan_command
from secure_frl.cli.resume import resume_command
from secure_frl.cli.run import run_command
from secure_frl.cli.verify import verify_command

app = typer.Typer(
    name="secure-frl",
    help="Federated reinforcement learning under differential privacy and secure aggregation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("plan")(plan_command)
app.command("run")(run_command)
app.command("resume")(resume_command)
app.command("verify")(verify_command)
app.command("audit")(audit_command)
app.add_typer(ledger_commands, name="ledger")
for found in sorted(entry_points(group="secure_frl.commands"), key=lambda one: one.name):
    app.command(found.name)(found.load())  # commands of packages above this one, such as threat_models


def entry() -> None:
    """Run the program; every way out has a documented exit code."""
    app()
