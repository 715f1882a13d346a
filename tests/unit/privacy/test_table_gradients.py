"""Clipped sums by the rows of tables, against Opacus' samplers and against autograd of one trajectory at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clipped_sums import clipped_sum
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from update_windows import Table, constants, layout, message, window
from update_windows import losses as window_losses

from secure_frl.errors import InvalidParameter, UnexpectedState
from secure_frl.learning.layout import Segment
from secure_frl.privacy import table_rows, update
from secure_frl.privacy.clipping import add_to_units_, clip_units
from secure_frl.privacy.message_gradients import MessageGradients
from secure_frl.privacy.table_gradients import TableGradients, is_of_tables
from secure_frl.privacy.table_rows import TableRows, TableSum
from secure_frl.secure_sum import Block

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]

STATES, ACTIONS = 7, 3
SEGMENTS = (
    Segment("policy", "logits.weight", np.array([0, 4, 5, 7, 8, 20], dtype=np.int64)),  # of states 0, 1, 2 and 6
    Segment("critic", "first.weight", np.arange(STATES, dtype=np.int64)),
    Segment("critic", "second.weight", np.array([2, 3], dtype=np.int64)),
)
BLOCKS = (
    Block("policy", 0, 6, 0.5, 0.7),
    Block("critic", 6, 15, 0.9, 0.2),
    Block("clip_quantile", 15, 16, 0.5, 0.04),
    Block("mean_return", 16, 17, 0.5, 0.06),
)


class Tables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.logits = nn.Embedding(STATES, ACTIONS, dtype=torch.float64)
        self.first = nn.Embedding(STATES, 1, dtype=torch.float64)
        self.second = nn.Embedding(STATES, 1, dtype=torch.float64)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        both: torch.Tensor = (self.first(states) * self.second(states))[..., 0]
        return torch.tanh(self.logits(states)).sum(-1) * (1 + both)


def losses(policy: nn.Module, states: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """The second table is asked once more, of another state, as bootstrapped values do."""
    beyond = policy.get_submodule("second")(torch.full_like(states[:, :1], 3))[..., 0]
    found: torch.Tensor = (policy(states) ** 2 * sizes).sum(1) + (beyond * sizes[:, :1]).sum(1)
    return found


def drawn(rows: int, steps: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    spread = 10 ** (4 * torch.rand(rows, 1, generator=generator, dtype=torch.float64) - 2)
    states = torch.randint(0, STATES, (rows, steps), generator=generator)
    return states, torch.randn(rows, steps, generator=generator, dtype=torch.float64) * spread


def by_rows(
    passes: list[tuple[torch.Tensor, torch.Tensor]], units: list[NDArray[np.int64]], returns: NDArray[np.float64]
) -> tuple[NDArray[np.float64], int]:
    """One chunk of several passes."""
    engine = TableGradients(Tables(), SEGMENTS)
    total = TableSum(engine.tables, BLOCKS)
    for (states, sizes), unit_of_row in zip(passes, units, strict=True):
        engine.backward(losses(engine._policy, states, sizes).sum())
        total.add(engine.take_steps(unit_of_row, len(states)))
    engine.to_standard_module()
    total.close(returns)
    return total.result()


def by_opacus(states: torch.Tensor, sizes: torch.Tensor) -> NDArray[np.float64]:
    wrapped = MessageGradients(Tables().train(), SEGMENTS)
    wrapped.backward(losses(wrapped._module, states, sizes).sum())
    return wrapped.take(len(states))


def one_at_a_time(states: torch.Tensor, sizes: torch.Tensor) -> NDArray[np.float64]:
    policy, found = Tables(), []
    for row in range(len(states)):
        loss = losses(policy, states[row : row + 1], sizes[row : row + 1]).sum()
        gradients = torch.autograd.grad(loss, list(policy.parameters()))
        named = dict(zip(dict(policy.named_parameters()), gradients, strict=True))
        found.append(np.concatenate([named[s.parameter].reshape(-1).numpy()[s.coordinates] for s in SEGMENTS]))
    return np.array(found)


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 9), steps=st.integers(1, 12), cut=st.integers(0, 9), seed=st.integers(0, 2**31))
def test_the_clipped_sum_is_that_of_opacus_and_of_one_at_a_time(rows: int, steps: int, cut: int, seed: int) -> None:
    """Units of one trajectory and of several, also of two passes."""
    states, sizes = drawn(rows, steps, seed)
    generator = np.random.default_rng(seed)
    units = np.unique(generator.integers(0, rows, rows), return_inverse=True)[1].reshape(-1)
    returns = generator.normal(size=units.max() + 1)
    parts = [slice(0, cut), slice(cut, rows)] if 0 < cut < rows else [slice(0, rows)]

    found, dropped = by_rows([(states[p], sizes[p]) for p in parts], [units[p] for p in parts], returns)

    assert dropped == 0
    for gradients in (by_opacus(states, sizes), one_at_a_time(states, sizes)):
        whole = np.zeros((returns.size, gradients.shape[1]))
        add_to_units_(whole, gradients, units)
        expected, _ = clip_units(whole, BLOCKS, returns)
        assert found == pytest.approx(expected, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e300])
def test_a_unit_that_is_not_finite_adds_nothing_to_any_block(poison: float) -> None:
    states, sizes = drawn(6, 5, 2)
    sizes[3, 1] = poison
    sizes[3, 2], states[3, 1:3] = poison, states[3, 1]
    if poison == 1e300:
        sizes[3] *= 1e8  # finite steps whose sum is not
    units, others = np.arange(6), [0, 1, 2, 4, 5]

    found, dropped = by_rows([(states, sizes)], [units], np.full(6, 0.2))

    expected, _ = by_rows([(states[others], sizes[others])], [np.arange(5)], np.full(5, 0.2))
    assert dropped == 1
    assert found.tolist() == expected.tolist()


def test_a_unit_whose_return_is_not_finite_adds_nothing_to_any_block() -> None:
    states, sizes = drawn(3, 5, 2)

    found, dropped = by_rows([(states, sizes)], [np.arange(3)], np.array([0.1, np.nan, 0.2]))

    expected, _ = by_rows([(states[::2], sizes[::2])], [np.arange(2)], np.array([0.1, 0.2]))
    assert dropped == 1
    assert found == pytest.approx(expected, rel=1e-12)


def test_rows_behind_the_units_are_nobody() -> None:
    states, sizes = drawn(6, 5, 4)

    found, _ = by_rows([(states, sizes)], [np.arange(4)], np.zeros(4))

    assert found == pytest.approx(clip_units(by_opacus(states, sizes)[:4], BLOCKS, np.zeros(4))[0], abs=1e-12)


# --- through the whole update -----------------------------------------------------------------------------------------


def test_a_policy_of_tables_is_summed_by_this_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed, taken = window(40, persons=np.arange(40, dtype=np.uint64) % 11), []
    own = TableGradients.take_steps

    def counted(engine: TableGradients, unit_of_row: NDArray[np.int64], rows: int) -> list[TableRows]:
        taken.append(rows)
        return own(engine, unit_of_row, rows)

    monkeypatch.setattr(TableGradients, "take_steps", counted)
    by_tables = message(mixed)
    assert taken
    monkeypatch.setattr(update, "is_of_tables", lambda *_: False)

    assert by_tables.vector == pytest.approx(message(mixed).vector, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("most", [1, 40, 1 << 18])
def test_a_persons_later_stays_are_hers_wherever_rows_are_added_up(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of a chunk of 128 has further stays, which come in a pass of their own; between, rows are added up."""
    last = 128 * np.arange(3) + 127
    persons = np.concatenate([np.arange(384), last, last]).astype(np.uint64)
    everybody = window(390, seed=5, persons=persons, longest=2)
    expected = message(everybody).vector
    monkeypatch.setattr(table_rows, "MOST_NUMBERS", most)

    found = message(everybody).vector
    without = message(everybody.select(np.flatnonzero(persons != 127))).vector

    assert found == pytest.approx(expected, rel=1e-12, abs=1e-13)
    assert np.linalg.norm(found - without) <= 1 + 1e-6
    alone = everybody.select(np.flatnonzero(persons == 127))
    assert message(alone).vector == pytest.approx(found - without, abs=1e-12)


@pytest.mark.parametrize("most", [1, 1 << 18])
def test_a_persons_bits_do_not_depend_on_where_her_rows_were_cut(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    states, sizes = drawn(30, 12, 3)
    hers = np.zeros(30, dtype=np.int64)
    whole, _ = by_rows([(states, sizes)], [hers], np.zeros(1))
    monkeypatch.setattr(table_rows, "MOST_NUMBERS", most)

    for cuts in ([11], [3, 4, 29]):
        parts = [slice(*ends) for ends in zip([0, *cuts], [*cuts, 30], strict=True)]
        found, _ = by_rows([(states[p], sizes[p]) for p in parts], [hers[p] for p in parts], np.zeros(1))
        assert np.array_equal(found, whole)


def test_steps_that_cancel_do_not_let_others_move_the_message_further() -> None:
    """Most people are twice in one state, with parts of 1e14 that cancel: added up one by one they would leave dust."""
    everyone = window(128, seed=7)
    everyone.steps[:], everyone.observations[8:] = True, np.arange(6)
    everyone.observations[8:, 5], everyone.actions[8:, 5] = everyone.observations[8:, 0], everyone.actions[8:, 0]
    everyone.rewards[8:, 0], everyone.rewards[8:, 5] = 1e14, -1e14
    whole = message(everyone).vector

    for left_out in range(8):
        without = message(everyone.select(np.delete(np.arange(128), left_out))).vector
        assert np.linalg.norm(whole - without) <= 1 + 1e-6


def test_in_float32_it_is_the_sum_of_opacus_to_a_hundred_thousandth(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = window(40)

    def summed() -> NDArray[np.float64]:
        return clipped_sum(
            Table().float(),
            lambda policy, batch: window_losses(policy, batch).float(),
            mixed,
            segments=layout().segments,
            constants=constants(),
        ).vector

    by_tables = summed()
    monkeypatch.setattr(update, "is_of_tables", lambda *_: False)

    assert by_tables == pytest.approx(summed(), rel=1e-5, abs=1e-5)


# --- what is refused, and what is left to others ----------------------------------------------------------------------


def engine() -> TableGradients:
    return TableGradients(Tables(), SEGMENTS)


def test_two_backward_passes_are_refused() -> None:
    found = engine()
    found.backward(losses(found._policy, *drawn(3, 2, 0)).sum())

    with pytest.raises(InvalidParameter, match="one backward pass"):
        found.backward(losses(found._policy, *drawn(3, 2, 0)).sum())


def test_taking_without_a_pass_is_refused() -> None:
    with pytest.raises(UnexpectedState, match="backward first"):
        engine().take_steps(np.arange(3), 3)


def test_flattened_steps_are_refused() -> None:
    found, (states, sizes) = engine(), drawn(6, 4, 0)
    found.backward(losses(found._policy, states.reshape(24, 1), sizes.reshape(24, 1)).sum())

    with pytest.raises(InvalidParameter, match="6 trajectories"):
        found.take_steps(np.arange(6), 6)


def test_a_forward_pass_with_gradient_that_no_loss_uses_is_refused() -> None:
    found, (states, sizes) = engine(), drawn(3, 2, 0)
    found._policy(states)  # targets made without torch.no_grad()

    with pytest.raises(InvalidParameter, match=r"torch\.no_grad"):
        found.backward(losses(found._policy, states, sizes).sum())


def test_a_table_outside_the_loss_is_refused() -> None:
    found = engine()

    with pytest.raises(InvalidParameter, match="got none"):
        found.backward(found._policy.get_submodule("logits")(drawn(3, 2, 0)[0]).sum())


def test_states_changed_in_place_are_refused() -> None:
    found, (states, sizes) = engine(), drawn(3, 2, 0)
    total = losses(found._policy, states, sizes).sum()
    states.add_(1)

    with pytest.raises(InvalidParameter, match="in place"):
        found.backward(total)


def test_the_policy_is_left_without_hooks() -> None:
    found, (states, sizes) = engine(), drawn(3, 2, 0)
    policy = found.to_standard_module()
    torch.autograd.backward(losses(policy, states, sizes).sum())

    assert not found._passes._forward


class _Tied(Tables):
    def __init__(self) -> None:
        super().__init__()
        self.second.weight = self.first.weight


class _Deep(Tables):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(ACTIONS, 2)


class _Padded(Tables):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Embedding(STATES, 1, padding_idx=0)


class _Fixed(Tables):
    def __init__(self) -> None:
        super().__init__()
        self.first.weight.requires_grad_(False)


@pytest.mark.parametrize(
    ("policy", "segments", "is_taken"),
    [
        (Tables(), SEGMENTS, True),
        (Tables(), SEGMENTS[:1], True),
        (Tables(), (SEGMENTS[0], SEGMENTS[0]), False),
        (Tables(), (Segment("policy", "missing", np.arange(2)),), False),
        (_Tied(), SEGMENTS, False),
        (_Deep(), SEGMENTS, False),
        (_Padded(), SEGMENTS, False),
        (_Fixed(), SEGMENTS, False),
    ],
)
def test_only_policies_of_plain_tables_are_taken(
    policy: nn.Module, segments: tuple[Segment, ...], is_taken: bool
) -> None:
    assert is_of_tables(policy, segments) is is_taken
    if not is_taken:
        with pytest.raises(InvalidParameter, match="MessageGradients"):
            TableGradients(policy, segments)
