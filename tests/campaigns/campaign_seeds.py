"""Which seed random schedules and messages begin from: a fixed one by default, a fresh one in a campaign, or $SEED."""

from __future__ import annotations

import os
import secrets

DEFAULT_SEED = 20261125  # of the default suite: whether a submission passes must not be a draw


def seed_of_the_default_suite() -> int:
    return int(os.environ.get("SEED", str(DEFAULT_SEED)))


def seed_of_a_campaign() -> int:
    return int(os.environ.get("SEED", str(secrets.randbelow(2**40))))
