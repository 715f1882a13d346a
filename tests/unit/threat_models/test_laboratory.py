"""Where a rehearsal's files are."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from threat_models import laboratory


def test_a_rehearsals_folder_is_where_tmpdir_says_and_else_never_on_a_memory_that_is_nearly_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # read again
    with laboratory.scratch_folder() as folder:
        assert Path(folder).parent == tmp_path

    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(laboratory, "_ROOM", 2**80)
    with laboratory.scratch_folder() as folder:
        assert Path(folder).parent == tmp_path
