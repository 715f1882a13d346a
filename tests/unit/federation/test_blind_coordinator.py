"""A coordinator that is blind: what it wrote, sent, received and holds in memory says nothing of updates or policies.

It runs in a process of its own, against sites in this one, as a coordinator at another place would. The control is the
same search under `unsafe-plain`: what it finds there it would have found here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from coordinator_process import __file__ as coordinator_program
from coordinator_process import serve
from numpy.typing import NDArray

from secure_frl.evidence.verify import verify
from secure_frl.federation import run_folder, simulation
from secure_frl.federation.enrolment import enrol, open_all_sites
from secure_frl.federation.run_folder import RunOptions
from secure_frl.federation.site import StudySite
from secure_frl.records.journal import read_journal
from secure_frl.secure_sum import Sum
from secure_frl.wire.capture import read_capture

pytestmark = [pytest.mark.slow, pytest.mark.threats]

ROOT = Path(__file__).parents[3]
RUN = 8  # consecutive values in a pattern
PROTECTIONS = ("masking", "ckks", "ckks+masking")


@dataclass
class Truth:
    """What sites know and a blind coordinator must not."""

    updates: list[NDArray[np.int64]] = field(default_factory=list)
    sums: list[NDArray[np.int64]] = field(default_factory=list)
    policies: list[NDArray[np.float64]] = field(default_factory=list)
    bits: int = 0

    def last_of_each(self) -> Truth:
        """The newest update, sum and policy: a search of a whole memory takes its time."""
        return Truth(self.updates[-1:], self.sums[-1:], self.policies[-1:], self.bits)


@pytest.fixture
def truth(monkeypatch: pytest.MonkeyPatch) -> Truth:
    """What passes through the sites of this process."""
    known = Truth()
    contribute, next_tag = StudySite.contribute, StudySite.next_tag

    def contributing(self: StudySite, context: object) -> object:
        vector = contribute(self, context)  # type: ignore[arg-type]
        half = 1 << (vector.modulus_bits - 1)
        known.updates.append((vector.words.astype(np.int64) + half) % (2 * half) - half)
        known.bits = vector.modulus_bits
        return vector

    def stepping(self: StudySite, total: Sum) -> bytes:
        known.sums.append(total.integers.copy())
        tag = next_tag(self, total)
        known.policies.append(self._held._next.parameters.copy())  # type: ignore[union-attr]
        return tag

    monkeypatch.setattr(StudySite, "contribute", contributing)
    monkeypatch.setattr(StudySite, "next_tag", stepping)
    return known


def patterns(known: Truth, runs: int) -> dict[str, list[bytes]]:
    """So many runs of values of each vector, in every form in which they could be held."""
    found: dict[str, list[bytes]] = {"updates": [], "sums": [], "policies": []}
    for name, vectors in (("updates", known.updates), ("sums", known.sums)):
        for vector in vectors:
            inside = vector[8:-8]
            for few in varied(inside, runs):
                words = (few % (1 << known.bits)).astype("<u4")
                decimal = (", ".join(map(str, few.tolist())), " ".join(map(str, few.tolist())))
                found[name] += [words.tobytes(), few.astype("<i4").tobytes(), few.astype("<i8").tobytes()]
                found[name] += [few.astype("<f4").tobytes(), few.astype("<f8").tobytes()]
                found[name] += [text.encode() for text in decimal]
    for values in known.policies:
        for few in varied(values, runs):
            found["policies"] += [few.astype("<f8").tobytes(), few.astype("<f4").tobytes()]
            found["policies"] += [", ".join(map(repr, few.tolist())).encode()]
    return found


def varied(values: NDArray[np.generic], runs: int) -> list[NDArray[np.generic]]:
    """The first runs that no chance repeats: not zeros, not one value."""
    every = (values[start : start + RUN] for start in range(0, values.size - RUN, 32))
    return list(islice((few for few in every if np.unique(few).size >= RUN // 2), runs))


def memory_of(process: int) -> Iterator[bytes]:
    """Yield every readable, writable stretch of a process's memory."""
    with open(f"/proc/{process}/maps") as maps, open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        for line in maps:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if match is None or "[vvar" in line:
                continue
            start, end = (int(text, 16) for text in match.groups())
            memory.seek(start)
            try:
                yield memory.read(end - start)
            except OSError:
                continue


def hits(places: Iterator[bytes], wanted: dict[str, list[bytes]]) -> dict[str, int]:
    """Count the patterns of each kind that occur anywhere."""
    seen: dict[str, set[bytes]] = {kind: set() for kind in wanted}
    for content in places:
        for kind, forms in wanted.items():
            seen[kind] |= {form for form in forms if form in content}
    return {kind: len(found) for kind, found in seen.items()}


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="reads another process's memory through /proc")
@pytest.mark.parametrize("protection", ["ckks", "ckks+masking", "unsafe-plain"])
def test_disk_memory_and_frames_of_the_coordinator_hold_no_update_sum_or_policy(tiny, tmp_path, truth, protection):
    study = tiny({"protection.method": protection})
    folder = run_folder.begin(tmp_path / "run", study, RunOptions(), None)
    enrolled = enrol(folder, study, rehearse=False)
    sites, capture = open_all_sites(folder, enrolled), tmp_path / "capture"
    command = [sys.executable, str(coordinator_program), str(folder.root), str(capture)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as coordinator:
        try:
            serve(dict(sites), coordinator.stdin, coordinator.stdout)
            wanted = patterns(truth, 3)
            in_memory = hits(memory_of(coordinator.pid), patterns(truth.last_of_each(), 1))
        finally:
            coordinator.stdin.close()
            coordinator.wait(30)
            for site in sites.values():
                site.shut_down()
    files = [folder.journal, *(path for path in folder.coordinator.rglob("*") if path.is_file())]
    on_disk = hits((path.read_bytes() for path in files), wanted)
    in_frames = hits((item.frame for item in read_capture(capture)), wanted)

    assert len(truth.updates) == 6
    assert all(len(forms) >= 9 for forms in wanted.values())
    assert read_journal(folder.journal).rounds[-1].outcome == "summed"
    if protection == "unsafe-plain":
        assert in_frames["updates"] > 0
        assert in_frames["sums"] == 0  # R5 is sealed under the link's key
        assert min(in_memory["sums"], in_memory["policies"]) > 0
        assert on_disk["policies"] > 0
    else:
        nothing = {"updates": 0, "sums": 0, "policies": 0}
        assert (in_memory, on_disk, in_frames) == (nothing, nothing, nothing)


@pytest.mark.parametrize("drops", [{}, {"sites.simulate_drop.before_masked": 1, "sites.simulate_drop.after_masked": 1}])
def test_a_rehearsal_has_the_same_sums_and_policies_under_every_protection(tiny, tmp_path, truth, drops):
    overrides = {**drops, "sites.count": 10, "sites.min_survivors": 8} if drops else {}
    seen = {}
    for protection in PROTECTIONS:
        truth.sums.clear()
        study = tiny({**overrides, "protection.method": protection})
        result = simulation.run(study, tmp_path / protection, RunOptions(rehearse=True))
        assert (result.rounds_completed, result.rounds_lost) == (2, 0)
        seen[protection] = result.policy_hash, [total.tobytes() for total in truth.sums[:: len(truth.sums) // 2]]
    assert seen["masking"] == seen["ckks"] == seen["ckks+masking"]


def test_what_was_in_force_is_said_of_each_round(tiny, tmp_path):
    result = simulation.run(tiny({"protection.method": "ckks"}), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "protections.jsonl").read_text().splitlines()]

    assert [line["round"] for line in lines] == [1, 2]
    assert {line["protection"] for line in lines} == {"ckks"}
    assert all("never the coordinator" in line["key_held_by"] for line in lines)
    assert result.epsilon_if_key_holder_colludes > result.epsilon_spent
    secrets = [path for path in (tmp_path / "run").rglob("*.key") if path.name.startswith("site-secret-")]
    assert len(secrets) == 3
    for secret in secrets:  # whoever hands a folder on leaves them out
        secret.unlink()
    assert verify(tmp_path / "run").findings == ()
