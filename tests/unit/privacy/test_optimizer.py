"""The integer-noise optimiser: one window, one noise, no step."""

import numpy as np
import pytest
import torch
from opacus.optimizers import DPOptimizer
from sum_events import sum_constants
from torch import nn

from secure_frl.errors import InvalidParameter, UnexpectedState
from secure_frl.learning.layout import Segment
from secure_frl.privacy.message_gradients import MessageGradients
from secure_frl.privacy.optimizer import IntegerNoiseOptimizer
from secure_frl.randomness import rehearsal_source

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]

SEGMENTS = (Segment("policy", "weight", np.array([0, 1, 2, 3], dtype=np.int64)),)
CONSTANTS = sum_constants(4)


def opened() -> tuple[MessageGradients, IntegerNoiseOptimizer]:
    module = MessageGradients(nn.Embedding(2, 2, dtype=torch.float64).train(), SEGMENTS)
    return module, IntegerNoiseOptimizer(module, SEGMENTS, CONSTANTS, unit="patient", random=rehearsal_source(1))


def backward(module: MessageGradients, rows: int) -> None:
    (100 * module(torch.zeros(rows, 3, dtype=torch.int64)).sum()).backward()


def test_it_is_opacus_optimizer_with_its_private_halves_replaced() -> None:
    _, optimizer = opened()

    assert isinstance(optimizer, DPOptimizer)
    assert optimizer.noise_multiplier == 1.0
    assert type(optimizer).clip_and_accumulate is not DPOptimizer.clip_and_accumulate
    assert type(optimizer).add_noise is not DPOptimizer.add_noise


def test_chunks_add_up_in_float64() -> None:
    module, optimizer = opened()

    for units in (2, 3):
        optimizer.expect(units)
        backward(module, units)
        optimizer.collect(np.arange(units, dtype=np.int64))
        optimizer.clip_and_accumulate()

    found = optimizer.clipped_sum()
    assert found.vector.dtype == np.float64
    assert np.linalg.norm(found.vector) == pytest.approx(5.0)


def test_a_second_noise_on_one_sum_is_refused() -> None:
    _, optimizer = opened()
    optimizer.add_noise()

    with pytest.raises(UnexpectedState, match="without noise"):
        optimizer.add_noise()
    with pytest.raises(UnexpectedState):
        optimizer.expect(1)


def test_the_sum_before_noise_is_gone_after_it() -> None:
    _, optimizer = opened()
    optimizer.add_noise()

    assert optimizer.clipped_sum().vector.size == 0


def test_a_site_takes_no_step() -> None:
    _, optimizer = opened()

    with pytest.raises(UnexpectedState, match="got step"):
        optimizer.step()


def test_calls_out_of_order_are_refused() -> None:
    module, optimizer = opened()
    with pytest.raises(UnexpectedState):
        optimizer.clip_and_accumulate()
    with pytest.raises(UnexpectedState):
        optimizer.collect(np.arange(1, dtype=np.int64))

    optimizer.expect(1)
    with pytest.raises(UnexpectedState):
        optimizer.expect(1)
    with pytest.raises(UnexpectedState):
        optimizer.add_noise()
    with pytest.raises(UnexpectedState, match="open chunk"):
        optimizer.clipped_sum()
    backward(module, 1)
    optimizer.collect(np.arange(1, dtype=np.int64))
    optimizer.clip_and_accumulate()
    assert optimizer.add_noise().shape == (4,)


def test_gradients_of_more_rows_than_were_drawn_are_refused() -> None:
    module, optimizer = opened()
    optimizer.expect(2)
    backward(module, 3)

    with pytest.raises(InvalidParameter, match="expected gradients of 2"):
        optimizer.collect(np.arange(2, dtype=np.int64))


def test_blocks_that_are_not_the_layouts_are_refused() -> None:
    module = MessageGradients(nn.Embedding(2, 2).train(), SEGMENTS[:1])
    shorter = (Segment("policy", "weight", np.array([0, 1], dtype=np.int64)),)

    with pytest.raises(InvalidParameter, match="blocks"):
        IntegerNoiseOptimizer(module, shorter, CONSTANTS, unit="patient", random=rehearsal_source(1))
