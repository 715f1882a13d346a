"""One run folder of each kind, built once; tests change copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from made_runs import build


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("run") / "icu-sepsis")


@pytest.fixture
def run(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "run"))


@pytest.fixture(scope="session", params=["ckks", "ckks+masking"])
def pristine_blind(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return build(tmp_path_factory.mktemp("blind") / "icu-sepsis", protection=request.param)


@pytest.fixture
def blind(pristine_blind: Path, tmp_path: Path) -> Path:
    """A run whose coordinator is blind, under each protection of that kind."""
    return Path(shutil.copytree(pristine_blind, tmp_path / "blind"))
