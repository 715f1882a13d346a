"""False frames to honest parties, metadata and canaries: what a control takes, the protocol refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from secure_frl.study import Study
from secure_frl.wire.envelope import Address
from secure_frl.wire.messages import MessageType
from threat_models.adversaries import wire as families
from threat_models.adversaries.wire import FrameBender
from threat_models.evaluation import Effort
from threat_models.evaluations import canary_search, metadata, wire
from threat_models.evaluations.wire import replay_session, run_tampered
from threat_models.results import Verdict, judge
from threat_models.tampering import ForgetfulSite, Tally, TamperedSum, UntaggedSum

pytestmark = pytest.mark.threats
QUICK = Effort(quick=True, seed=3)


def _verdicts(cells: list) -> Counter:
    return Counter(judge(cells))


def test_no_false_frame_is_accepted_and_each_family_was_tried(tiny: Callable[..., Study], tmp_path: Path) -> None:
    tally = Tally()
    run_tampered(wire._small(tiny(), QUICK, 2), tmp_path, QUICK, tally, TamperedSum, overflow_in=2)
    replay_session(tmp_path, wire.StudySite, tally, families.SESSION)

    assert set(tally.tried) == set(families.FAMILIES)
    assert sum(tally.accepted.values()) == 0
    assert set(tally.answers[families.FLIPPED_VECTOR]) == {"BadSignature"}
    assert set(tally.answers[families.OVERFLOW]) == {"SumOutOfRange"}
    assert set(tally.answers[families.THRESHOLD]) == {"RoundRefused"}

    forgotten = Tally()
    replay_session(tmp_path, ForgetfulSite, forgotten, families.SESSION, only=MessageType.E0)
    assert forgotten.accepted == forgotten.tried != Counter()  # the control: the register is what refuses them


def test_control_without_the_tag_flipped_vectors_are_summed(tiny: Callable[..., Study], tmp_path: Path) -> None:
    tally = Tally()
    run_tampered(wire._small(tiny(), QUICK, 1), tmp_path, QUICK, tally, UntaggedSum)

    assert tally.accepted[families.FLIPPED_VECTOR] == tally.tried[families.FLIPPED_VECTOR] > 0


@pytest.mark.parametrize(
    ("answer", "verdict"), [("BadSignature", Verdict.HOLDS), ("SiteFailed", Verdict.FAILS), ("", Verdict.FAILS)]
)
def test_a_site_that_breaks_over_a_false_frame_has_not_refused_it(answer: str, verdict: Verdict) -> None:
    tally = Tally()
    for _ in range(20):
        tally.note(families.CUT, "MalformedMessage")
    tally.note(families.CUT, answer)

    assert judge([wire._cell(tally, (families.CUT,), families.CUT, QUICK)]) == [verdict]


def test_a_bender_changes_every_frame_and_the_same_seed_bends_alike() -> None:
    body = bytes(range(200))
    frame = Address(bytes(32), 1, 1, 0, 5, 0, bytes(32)).header(MessageType.R2, 184).encode() + body

    def bent() -> list[tuple[str, bytes]]:
        bender = FrameBender(np.random.default_rng(1), 10)
        bender.note("to_coordinator", 5, frame[:-1] + b"x")
        return list(bender.bent("to_coordinator", 5, frame, [4, 5]))

    found = bent()
    assert all(one != frame for _, one in found)
    assert {families.FLIPPED_VECTOR, families.CUT, families.GARBAGE, families.REPLAYED} <= {name for name, _ in found}
    assert found == bent()


def test_sizes_and_answers_say_nothing_of_a_week_and_silence_says_all(tiny: Callable[..., Study]) -> None:
    cells = [*metadata.measure(tiny(), QUICK), *metadata.measure_silent(tiny(), QUICK)]

    assert [cell.value for cell in cells if cell.defence == "masking"][:2] == [0.5, 0.5]
    assert [cell.value for cell in cells if cell.defence == metadata.SILENT] == [1.0, 1.0]
    assert _verdicts(cells) == {Verdict.WINS: 2, Verdict.HOLDS: 2, Verdict.REPORTED: 1}
    assert len({cell.defence_digest for cell in cells}) == 1  # silence is no setting of a study


def test_a_planted_update_is_found_in_clear_and_not_behind_masks(tiny: Callable[..., Study]) -> None:
    cells = [
        cell
        for one in (canary_search.PLAIN, canary_search.MASKING)
        for cell in canary_search._measure(one, tiny(), QUICK)
    ]

    assert [cell.value for cell in cells] == [1.0, 0.0]
    assert _verdicts(cells) == {Verdict.WINS: 1, Verdict.HOLDS: 1}
