"""One layer's share of per-unit gradients, without the gradients: their lengths, and their weighted sum.

The gradient of a unit is a sum of outer products over its steps, G = sum_t d_t h_t', of what came back to the layer
(d) and what entered it (h). Its squared length is the sum of the product of two T x T Gram matrices; the sum over units
with a weight each is one matrix product. Where episodes are long beside the layer, G itself is cheaper, as in mixed
ghost clipping. Everything is float64 here, whatever the policy computes in, and by NumPy, whose batched product of a
matrix with its own transpose is a symmetric one for each row apart.

Sources: Goodfellow 2015, Efficient per-example gradient computations (T = 1); Lee and Kifer 2021, Scaling up
differentially private deep learning, section 4; Li et al. 2022, Large language models can be strong differentially
private learners, section 4 (T steps); Bu et al. 2022, Scalable and efficient training of large convolutional neural
networks with differential privacy, section 4 (which way is cheaper); Bu et al. 2023, Differentially private
optimization on large model at small cost, for the sum out of what one backward pass left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
UNIT_ROUNDOFF = 2.0**-53


class Layer(Protocol):
    """What one backward pass left at one layer, for a batch of rows."""

    @property
    def steps(self) -> int:
        """Return T, the outer products a row is made of."""
        ...

    @property
    def first(self) -> int:
        """Return a place of its own in the message."""
        ...

    def lengths(self, units: int) -> tuple[Floats, Floats]:
        """Return float64 [units] twice: a bound on the squared length of each row's gradient, and size squared.

        The bound is above the true length, by rounding only. size: the lengths of what `add_weighted` adds up for the
        row; bounds the length and every rounding error.
        """
        ...

    def add_weighted(self, vector: Floats, rows: slice | NDArray[np.int64], weights: Floats) -> None:
        """Add the sum of weight times gradient over rows to the message `vector`, in place. weights: [rows]."""
        ...

    def gradients(self, rows: NDArray[np.int64]) -> tuple[tuple[slice, Floats], ...]:
        """Return each row's own gradient, [rows, coordinates], with its place in the message."""
        ...


def is_shorter_by_steps(steps: int, entered: int, returned: int) -> bool:
    """Return whether Gram matrices cost less than the gradient of a linear layer [returned, entered]; measured."""
    return 5 * steps * (entered + returned) <= 4 * entered * returned


def _bounded(products: Floats, sizes: Floats, terms: int) -> tuple[Floats, Floats]:
    """Return the bound and the size squared from the Gram matrices' product and each row's size.

    Inner products of `terms` numbers in all, then T^2 products: the error is at most terms * 2^-53 * size^2 to first
    order (Higham 2002, section 3.1), in whatever order a library adds. Twice that covers the higher orders and the
    rounding of the size itself.
    """
    squares = sizes * sizes
    return products + 2 * terms * UNIT_ROUNDOFF * squares, squares


@dataclass(frozen=True, slots=True, eq=False)
class LinearLayer:
    """A Layer: `entered` float64 [rows, T, D] times a weight, and perhaps a bias; `returned` float64 [rows, T, O]."""

    entered: Floats
    returned: Floats
    weight: slice | None  # places in the message; None: not sent
    bias: slice | None

    @property
    def steps(self) -> int:
        """Return T."""
        return int(self.returned.shape[1])

    @property
    def first(self) -> int:
        """Return a place of its own in the message."""
        place = self.weight or self.bias
        return -1 if place is None else int(place.start)

    def lengths(self, units: int) -> tuple[Floats, Floats]:
        """See Layer. A bias is a weight on a feature that is always 1."""
        entered, returned = self.entered[:units], self.returned[:units]
        back = np.matmul(returned, returned.transpose(0, 2, 1))
        if self.weight is None:
            gram = np.ones_like(back)
        else:
            gram = np.matmul(entered, entered.transpose(0, 2, 1))
            if self.bias is not None:
                gram += 1.0
        sizes = np.sqrt(_diagonal(gram) * _diagonal(back)).sum(axis=1)
        products = np.vecdot(gram.reshape(units, -1), back.reshape(units, -1))
        return _bounded(products, sizes, entered.shape[2] + returned.shape[2] + self.steps**2 + 16)

    def add_weighted(self, vector: Floats, rows: slice | NDArray[np.int64], weights: Floats) -> None:
        """See Layer."""
        returned = (self.returned[rows] * weights[:, None, None]).reshape(-1, self.returned.shape[2])
        if self.weight is not None:
            entered = self.entered[rows].reshape(-1, self.entered.shape[2])
            vector[self.weight] += (returned.T @ entered).reshape(-1)
        if self.bias is not None:
            vector[self.bias] += np.ones(len(returned)) @ returned

    def gradients(self, rows: slice | NDArray[np.int64]) -> tuple[tuple[slice, Floats], ...]:
        """See Layer."""
        returned, found = self.returned[rows], []
        if self.weight is not None:
            outer = np.matmul(returned.transpose(0, 2, 1), self.entered[rows])
            found.append((self.weight, outer.reshape(len(outer), -1)))
        if self.bias is not None:
            found.append((self.bias, np.ones(self.steps) @ returned))
        return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class OwnGradients:
    """A Layer whose rows' own gradients are made, by place in the message: float64 [rows, coordinates] each."""

    parts: tuple[tuple[slice, Floats], ...]
    steps: int

    @property
    def first(self) -> int:
        """Return a place of its own in the message."""
        return int(self.parts[0][0].start)

    def lengths(self, units: int) -> tuple[Floats, Floats]:
        """See Layer. Nothing cancels any more when rows are added up, so the size is the length."""
        squares = np.zeros(units)
        for _, part in self.parts:
            squares += np.vecdot(part[:units], part[:units])
        terms = sum(part.shape[1] for _, part in self.parts) + 16
        return _bounded(squares, np.sqrt(squares), terms)

    def add_weighted(self, vector: Floats, rows: slice | NDArray[np.int64], weights: Floats) -> None:
        """See Layer."""
        for place, part in self.parts:
            vector[place] += weights @ part[rows]

    def gradients(self, rows: NDArray[np.int64]) -> tuple[tuple[slice, Floats], ...]:
        """See Layer."""
        return tuple((place, part[rows]) for place, part in self.parts)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingLayer:
    """A Layer: `ids` int64 [rows, T] of a table [states, D]; `returned` float64 [rows, T, D], 0 where not sent."""

    ids: NDArray[np.int64]
    returned: Floats
    states: int
    place: slice
    coordinates: NDArray[np.int64]  # flat in the table, ascending
    column_of: NDArray[np.int64]  # [states, D]: which coordinate; one beyond the last for what is not sent

    @property
    def steps(self) -> int:
        """Return T."""
        return int(self.ids.shape[1])

    @property
    def first(self) -> int:
        """Return a place of its own in the message."""
        return int(self.place.start)

    def lengths(self, units: int) -> tuple[Floats, Floats]:
        """See Layer. What enters is one-hot, so its Gram matrix says where two steps name the same state."""
        ids, returned = self.ids[:units], self.returned[:units]
        back = np.matmul(returned, returned.transpose(0, 2, 1))
        same = ids[:, :, None] == ids[:, None, :]
        sizes = np.sqrt(_diagonal(back)).sum(axis=1)
        products = np.where(same, back, 0.0).reshape(units, -1).sum(axis=1)
        return _bounded(products, sizes, returned.shape[2] + self.steps**2 + 16)

    def add_weighted(self, vector: Floats, rows: slice | NDArray[np.int64], weights: Floats) -> None:
        """See Layer."""
        width = self.returned.shape[2]
        returned = torch.from_numpy((self.returned[rows] * weights[:, None, None]).reshape(-1, width))
        table = torch.zeros(self.states, width, dtype=torch.float64)
        table.index_add_(0, torch.from_numpy(self.ids[rows].reshape(-1)), returned)
        vector[self.place] += table.numpy().reshape(-1)[self.coordinates]

    def gradients(self, rows: NDArray[np.int64]) -> tuple[tuple[slice, Floats], ...]:
        """See Layer."""
        columns = torch.from_numpy(self.column_of[self.ids[rows]].reshape(rows.size, -1))
        total = torch.zeros(rows.size, self.coordinates.size + 1, dtype=torch.float64)
        total.scatter_add_(1, columns, torch.from_numpy(self.returned[rows].reshape(rows.size, -1)))
        return ((self.place, total.numpy()[:, :-1]),)


def _diagonal(gram: Floats) -> Floats:
    return np.asarray(np.einsum("ijj->ij", gram))
