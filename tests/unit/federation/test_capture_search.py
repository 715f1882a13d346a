"""What the coordinator received, searched for an update that was planted: found in nothing but the control.

The control is `unsafe-plain`, the same protocol with the masks left out: a search that finds nothing there proves
nothing. Patterns are eight consecutive ring words as they would leave (32 bytes, at any byte offset), the same values
as float32, float64 and decimal text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from secure_frl.federation import simulation
from secure_frl.federation.run_folder import RunOptions
from secure_frl.federation.site import StudySite
from secure_frl.study import Study
from secure_frl.wire.capture import read_capture
from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES, read_header
from secure_frl.wire.messages import MessageType

pytestmark = [pytest.mark.slow, pytest.mark.threats]

WORDS = 8  # consecutive words in a pattern: 32 bytes, which no chance repeats


@dataclass(frozen=True)
class Truth:
    """What really left, before masks: only the test holds it."""

    planted: dict[tuple[int, int], NDArray[np.uint32]]  # (round, site) -> words with lanes
    bits: int
    scale: float


def _run(study: Study, folder: Path) -> tuple[Truth, list[bytes]]:
    """Run a study with every frame captured and every site's own vector written down."""
    planted: dict[tuple[int, int], NDArray[np.uint32]] = {}
    widths: list[tuple[int, float]] = []
    contribute = StudySite.contribute

    def recorded(self: StudySite, context: object) -> object:
        vector = contribute(self, context)  # type: ignore[arg-type]
        planted[context.round, int(self._parts.me)] = vector.words.copy()  # type: ignore[attr-defined]
        widths.append((vector.modulus_bits, vector.scale))
        return vector

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudySite, "contribute", recorded)
        simulation.run(study, folder / "run", RunOptions(capture=folder / "capture"))
    received = [item.frame for item in read_capture(folder / "capture") if item.direction == "to_coordinator"]
    return Truth(planted, *widths[0]), received


def _centred(words: NDArray[np.uint32], bits: int) -> NDArray[np.int64]:
    half = 1 << (bits - 1)
    return (words.astype(np.int64) + half) % (1 << bits) - half


def _hits(truth: Truth, received: list[bytes]) -> int:
    """Count planted patterns found at any offset of anything received."""
    everything = b"\x00".join(received)
    hits = 0
    for words in truth.planted.values():
        integers = _centred(words, truth.bits)[2:-2]
        for start in range(0, integers.size - WORDS, 256):
            few = integers[start : start + WORDS]
            forms = (
                words[start + 2 : start + 2 + WORDS].astype("<u4").tobytes(),
                few.astype("<i8").tobytes(),
                (few / truth.scale).astype("<f4").tobytes(),
                (few / truth.scale).astype("<f8").tobytes(),
                ",".join(map(str, few.tolist())).encode(),
                " ".join(map(str, few.tolist())).encode(),
            )
            hits += sum(form in everything for form in forms)
    return hits


def _largest_correlation(truth: Truth, received: list[bytes]) -> float:
    """Return the largest |r| between an upload and the update of the site and round that it came from."""
    largest = 0.0
    for frame in received:
        header = read_header(frame)
        if header.type != MessageType.R2:
            continue
        words = np.frombuffer(frame[HEADER_BYTES:-TAG_BYTES], dtype="<u4")
        planted = _centred(truth.planted[header.round, header.sender], truth.bits)
        r = np.corrcoef(_centred(words, truth.bits)[2:-2], planted[2:-2])[0, 1]
        largest = max(largest, abs(float(r)))
    return largest


@pytest.fixture(scope="module")
def masked(tiny: Callable[..., Study], tmp_path_factory: pytest.TempPathFactory) -> tuple[Truth, list[bytes]]:
    return _run(tiny(), tmp_path_factory.mktemp("masked"))


@pytest.fixture(scope="module")
def plain(tiny: Callable[..., Study], tmp_path_factory: pytest.TempPathFactory) -> tuple[Truth, list[bytes]]:
    return _run(tiny({"protection.method": "unsafe-plain"}), tmp_path_factory.mktemp("plain"))


def test_no_planted_update_is_found_in_what_the_coordinator_received(masked: tuple[Truth, list[bytes]]) -> None:
    truth, received = masked

    assert len(truth.planted) == 6
    assert _hits(truth, received) == 0


def test_no_upload_correlates_with_the_update_behind_it(masked: tuple[Truth, list[bytes]]) -> None:
    truth, received = masked
    length = next(iter(truth.planted.values())).size - 4

    # 5 / sqrt(P): six uploads, false alarm 6 x 5.7e-7 under independence
    assert _largest_correlation(truth, received) < 5 / np.sqrt(length)


def test_the_same_search_finds_every_update_when_masks_are_left_out(plain: tuple[Truth, list[bytes]]) -> None:
    truth, received = plain
    patterns = sum(len(range(0, words.size - 4 - WORDS, 256)) for words in truth.planted.values())

    assert _hits(truth, received) >= patterns
    assert _largest_correlation(truth, received) == pytest.approx(1.0)
