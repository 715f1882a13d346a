"""One site in a process of its own, reached through a pipe, changes nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from secure_frl.errors import MalformedMessage
from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation
from secure_frl.federation.carriers.pipe import PipeSite, read_frame, site_command, write_frame
from secure_frl.federation.enrolment import Enrolled, open_site, site_workers
from secure_frl.federation.run_folder import RunFolder, RunOptions
from secure_frl.federation.simulation import RunningSite
from secure_frl.secure_sum import SiteId
from secure_frl.study import Study


@pytest.mark.slow
@pytest.mark.parametrize("protection", ["masking", "ckks"])
def test_a_site_in_another_process_gives_the_same_policy(
    protection: str, tiny: Callable[..., Study], tmp_path: Path
) -> None:
    study = tiny({"protection.method": protection})

    def one_elsewhere(folder: RunFolder, enrolled: Enrolled, group: object) -> Mapping[SiteId, RunningSite]:
        elsewhere = PipeSite(site_command(folder.root, enrolled.roster.names[1]))
        return {
            SiteId(0): open_site(folder, enrolled, SiteId(0), workers=site_workers(enrolled)),
            SiteId(1): elsewhere,
            SiteId(2): open_site(folder, enrolled, SiteId(2), workers=site_workers(enrolled)),
        }

    here = simulation.run(study, tmp_path / "here", RunOptions(rehearse=True))
    there = simulation.run(study, tmp_path / "there", RunOptions(rehearse=True), open_sites=one_elsewhere)

    assert there.policy_hash == here.policy_hash
    assert verify(tmp_path / "there", allow_rehearsal=True).findings == ()


def test_a_frame_survives_the_pipe() -> None:
    stream = io.BytesIO()

    write_frame(stream, b"abc")
    stream.seek(0)

    assert read_frame(stream) == b"abc"
    assert read_frame(stream) is None


@pytest.mark.parametrize("content", [b"\x00\x00", b"\x00\x00\x00\x05abc", b"\xff\xff\xff\xffabc"])
def test_a_cut_frame_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedMessage):
        read_frame(io.BytesIO(content))
