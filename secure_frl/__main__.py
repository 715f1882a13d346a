"""`python -m secure_frl`: the command line."""

from secure_frl.cli.main import entry

entry()
