"""The small federation as a fixture."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from small_federation import Federation, constants_for

from secure_frl.secure_sum import SumConstants


@pytest.fixture
def federation() -> Callable[..., Federation]:
    return Federation


@pytest.fixture
def make_constants() -> Callable[..., SumConstants]:
    return constants_for
