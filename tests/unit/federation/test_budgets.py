"""A site's own ledger refuses, whatever the coordinator does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from secure_frl.errors import BudgetExhausted
from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation
from secure_frl.federation.budgets import lifetime_budget, study_guard
from secure_frl.federation.coordinator import Coordinator, RoundOutcome
from secure_frl.federation.run_folder import RunOptions
from secure_frl.federation.simulated_patients import SimulatedPatients
from secure_frl.privacy.events import decode_event
from secure_frl.privacy.planning import make_plan, planned_event
from secure_frl.records.ledger import read_ledger_state
from secure_frl.secure_sum import Addressed, Budget
from secure_frl.study import Study
from secure_frl.wire.envelope import read_header
from secure_frl.wire.messages import MessageType

pytestmark = pytest.mark.slow
Tiny = Callable[..., Study]


def _no_check(study: Study, session: bytes) -> Callable[[Budget, Sequence[bytes], bytes], None]:
    """Stand for a coordinator whose operator took every check of budgets out of its program."""
    return lambda lifetime, recorded, candidate: None


def test_a_coordinator_that_skips_every_check_meets_each_sites_refusal(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = RunOptions(state=tmp_path / "state")
    study = tiny({"data.dataset_id": "ward-a"})
    simulation.run(study, tmp_path / "first", shared)
    replies: list[int] = []
    exchange = simulation.InProcessCarrier.exchange

    def watched(self: object, requests: Iterable[Addressed], deadline_s: float) -> Iterable[Addressed]:
        for site, reply in exchange(self, requests, deadline_s):  # type: ignore[arg-type]
            replies.append(read_header(reply).type)
            yield site, reply

    monkeypatch.setattr(simulation, "study_guard", _no_check)  # the coordinator's ledger only: sites use enrolment's
    monkeypatch.setattr(simulation.InProcessCarrier, "exchange", watched)
    monkeypatch.setattr(SimulatedPatients, "collect", lambda *_: pytest.fail("sampled before the budget was sure"))

    with pytest.raises(BudgetExhausted, match="3 of 3 sites"):
        simulation.run(study, tmp_path / "second", shared)

    epoch = {MessageType.E0_REPLY, MessageType.E1_REPLY}
    assert [kind for kind in replies if kind not in epoch] == [MessageType.REFUSAL] * 3
    assert len(read_ledger_state(tmp_path / "state/sites/site-02/ledger.sqlite").events()) == 2


def test_the_same_coordinator_gets_its_sum_when_the_sites_checks_are_out_too(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secure_frl.federation import enrolment

    shared = RunOptions(state=tmp_path / "state")
    study = tiny({"data.dataset_id": "ward-a"})
    simulation.run(study, tmp_path / "first", shared)
    monkeypatch.setattr(simulation, "study_guard", _no_check)
    monkeypatch.setattr(enrolment, "study_guard", _no_check)  # the control: the defence is gone

    result = simulation.run(study, tmp_path / "second", shared)

    assert result.rounds_completed == 2


def test_a_later_study_cannot_raise_the_lifetime_budget(tiny: Tiny, tmp_path: Path) -> None:
    shared = RunOptions(state=tmp_path / "state")
    simulation.run(tiny({"data.dataset_id": "ward-a"}), tmp_path / "first", shared)
    greedy = tiny({"data.dataset_id": "ward-a", "privacy.target_epsilon": 50.0})

    with pytest.raises(BudgetExhausted, match=r"at most epsilon 4 .* lifetime budget of data set ward-a .* announces"):
        simulation.run(greedy, tmp_path / "second", shared)


def test_a_smaller_first_study_leaves_nothing_for_a_second(tiny: Tiny) -> None:
    first = lifetime_budget(tiny({"privacy.target_epsilon": 1.0}))

    assert first == Budget(1.0, 1e-3)


def test_a_run_without_noise_states_no_epsilon_and_spoils_no_budget(tiny: Tiny, tmp_path: Path) -> None:
    plain = simulation.run(tiny({"privacy.noise": "unsafe-none"}), tmp_path / "plain")

    assert plain.plain()["epsilon_spent"] is None
    assert plain.unsafe == ("privacy.noise = unsafe-none",)

    shared = RunOptions(state=tmp_path / "state")
    simulation.run(tiny({"data.dataset_id": "ward-a"}), tmp_path / "first", shared)
    with pytest.raises(BudgetExhausted):
        simulation.run(tiny({"data.dataset_id": "ward-a", "privacy.noise": "unsafe-none"}), tmp_path / "second", shared)


def test_a_site_releases_no_more_often_than_its_charter_announces_rounds(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More windows would take more people than the units that delta was judged by."""

    def one_too_many(self: Coordinator) -> Iterator[RoundOutcome]:
        for number in (1, 2, 3):
            yield self._round(number)

    monkeypatch.setattr(Coordinator, "rounds", one_too_many)
    monkeypatch.setattr(simulation, "study_guard", _no_check)

    with pytest.raises(BudgetExhausted, match="3 of 3 sites"):
        simulation.run(tiny(), tmp_path / "run")

    assert len(read_ledger_state(tmp_path / "run/state/sites/site-01/ledger.sqlite").events()) == 2


@pytest.mark.parametrize("choice", [{"privacy.noise": "unsafe-none"}, {"protection.method": "unsafe-plain"}])
def test_a_control_never_meets_the_people_of_a_named_data_set(
    choice: dict[str, str], tiny: Tiny, tmp_path: Path
) -> None:
    control = tiny({"data.dataset_id": "ward-a"} | choice)

    with pytest.raises(BudgetExhausted, match="unsafe"):
        simulation.run(control, tmp_path / "run", RunOptions(state=tmp_path / "state"))

    book = read_ledger_state(tmp_path / "state/sites/site-01/ledger.sqlite")
    assert book.events() == ()
    assert book.budget == Budget(4.0, 1e-3)  # the control did not leave the data set without a limit


def test_noise_shares_without_masks_state_no_epsilon(tiny: Tiny, tmp_path: Path) -> None:
    """The coordinator reads each update with one share of the noise, so epsilon for h shares would be false."""
    shares = simulation.run(tiny({"protection.method": "unsafe-plain"}), tmp_path / "shares")
    whole = simulation.run(tiny({"protection.method": "unsafe-plain", "privacy.noise": "local"}), tmp_path / "whole")

    assert shares.plain()["epsilon_spent"] is None
    assert verify(tmp_path / "shares").findings == ()
    assert 3.9 < whole.epsilon_spent <= 4.0


def _event(study: Study, charter: bytes) -> bytes:
    return replace(planned_event(study, make_plan(study).constants), charter_hash=charter.hex()).canonical()


def test_each_way_in_which_a_study_does_not_fit_has_its_own_words(tiny: Tiny) -> None:
    ours, other = bytes(32), bytes([1]) * 32
    before = (_event(tiny({"privacy.target_epsilon": 2.5}), other),)
    asks = {epsilon: tiny({"privacy.target_epsilon": epsilon}) for epsilon in (2.0, 3.5, 5.0)}
    budget = Budget(4.0, 1e-3)

    with pytest.raises(BudgetExhausted, match=r"at most epsilon 4 at .* the lifetime budget .* announces 5"):
        study_guard(asks[5.0], ours)(budget, (), _event(asks[5.0], ours))
    with pytest.raises(BudgetExhausted, match=r"studies spent 2\.\d+ of epsilon 4, 1\.\d+ is left .* announces 3\.\d"):
        study_guard(asks[3.5], ours)(budget, before, _event(asks[3.5], ours))
    # 2.5 and 2 are not 4.5: two Gaussians compose to one with the squares of their shifts added
    study_guard(asks[2.0], ours)(budget, before, _event(asks[2.0], ours))


def test_a_study_that_would_fit_for_its_first_rounds_only_is_refused_before_them(tiny: Tiny) -> None:
    """People spent on half a study are spent for nothing."""
    study = tiny({"privacy.target_epsilon": 3.0, "privacy.max_rounds_per_person": 2})
    one_round, ours = _event(study, bytes(32)), bytes(32)
    plan = make_plan(study)
    assert plan.epsilon_by_round[0] < 2.5 < plan.epsilon_by_round[1]

    with pytest.raises(BudgetExhausted, match="announces"):
        study_guard(study, ours)(Budget(2.5, 1e-3), (), one_round)


def test_the_budget_of_a_data_set_is_not_the_target_of_the_first_study_on_it(tiny: Tiny) -> None:
    study = tiny({"data.dataset_id": "ward-a", "data.lifetime_epsilon": 6.0, "privacy.target_epsilon": 2.0})
    event = _event(study, bytes(32))

    assert lifetime_budget(study) == Budget(6.0, 1e-3)
    study_guard(study, bytes(32))(Budget(6.0, 1e-3), (), event)


def test_a_guard_forgets_what_was_cancelled(tiny: Tiny) -> None:
    """It keeps what it decoded from one release to the next: rows that were given back must not stay in it."""
    study = tiny({"training.rounds": 3})
    first, second, third, fourth = (
        replace(
            planned_event(study, make_plan(study).constants),
            charter_hash=bytes(32).hex(),
            round=number,
            window=f"window-{number}",
        ).canonical()
        for number in (1, 2, 3, 4)
    )
    guard = study_guard(study, bytes(32))

    guard(Budget(4.0, 1e-3), (first, second), third)
    guard(Budget(4.0, 1e-3), (second,), third)  # the first was cancelled: two of three windows are taken
    guard(Budget(4.0, 1e-3), (), third)
    with pytest.raises(BudgetExhausted, match="at most 3 releases"):
        guard(Budget(4.0, 1e-3), (first, second, third), fourth)


def test_a_study_spends_no_more_than_its_own_target_where_the_data_set_has_more_left(tiny: Tiny) -> None:
    session = bytes(32)
    dear = tiny({"privacy.target_epsilon": 4.0})
    event = replace(planned_event(dear, make_plan(dear).constants), charter_hash=session.hex()).canonical()

    study_guard(dear, session)(Budget(10.0, 1e-3), (), event)
    with pytest.raises(BudgetExhausted, match="<= 1 at"):
        study_guard(tiny({"privacy.target_epsilon": 1.0}), session)(Budget(10.0, 1e-3), (), event)


@pytest.mark.parametrize(("rehearse", "source"), [(True, "rehearsal"), (False, "production")])
def test_each_event_says_where_its_noise_came_from(rehearse: bool, source: str, tiny: Tiny, tmp_path: Path) -> None:
    simulation.run(tiny(), tmp_path / "run", RunOptions(rehearse=rehearse))

    for path in (tmp_path / "run").glob("state/**/ledger.sqlite"):
        events = [decode_event(event) for event in read_ledger_state(path).events()]
        assert [event.random_source for event in events] == [source, source]
