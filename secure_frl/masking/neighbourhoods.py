"""What the coordinator holds for each pair of neighbours: tables with a row for each site, a column for each neighbour.

A record that one site makes for another is put into the row of the one it is for, in the column of the one who made
it. So each of the coordinator's steps reads a row in one go, already in the order of ids, and no object is made for a
pair: at 10,000 sites there is half a million of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from secure_frl.masking.graph import Graph
from secure_frl.secure_sum import SiteId


@dataclass(frozen=True, slots=True, eq=False)
class Neighbourhoods:
    """Every N(i) at once. A row is a place on the circle; columns ascend by the neighbours' ids."""

    graph: Graph
    sites: NDArray[np.int64] = field(repr=False)  # [n, k], the neighbours
    places: NDArray[np.int32] = field(repr=False)  # [n, k], their places
    columns: NDArray[np.int32] = field(repr=False)  # [n, k], the column of this site in each neighbour's row

    @classmethod
    def of(cls, graph: Graph) -> Self:
        """Return the tables of one attempt's graph."""
        order, count = graph.order, len(graph.order)
        places = (np.arange(count)[:, None] + graph.offsets) % count
        places = np.take_along_axis(places, np.argsort(order[places], axis=1), axis=1)
        width = places.shape[1]
        owners = np.repeat(order, width)
        # the entries that name one site, by the ids of whose rows they are in, are that site's own row mirrored
        mirrored = np.lexsort((owners, places.ravel())).reshape(count, width)
        return cls(graph, order[places], places.astype(np.int32), (mirrored % max(width, 1)).astype(np.int32))

    def row(self, site: SiteId) -> NDArray[np.int64]:
        """Return N(site), ascending, int64 [k]."""
        found: NDArray[np.int64] = self.sites[self.graph.place(site)]
        return found

    def mark(self, sites: Iterable[SiteId]) -> NDArray[np.bool_]:
        """Return which places on the circle these sites have, bool [n]."""
        return self.graph.mark(tuple(sites))

    def among(self, site: SiteId, marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of a site's neighbours have a marked place, bool [k]."""
        found: NDArray[np.bool_] = marked[self.places[self.graph.place(site)]]
        return found


class PairTable:
    """Records of one kind and size, uint8 [n, k, size], with which of them have come."""

    __slots__ = ("_near", "_present", "_records")

    def __init__(self, near: Neighbourhoods, size: int) -> None:
        self._near = near
        self._records = np.zeros((*near.places.shape, size), np.uint8)
        self._present = np.zeros(near.places.shape, np.bool_)

    def put(self, maker: SiteId, records: NDArray[np.uint8], to: NDArray[np.bool_] | None = None) -> None:
        """Put what `maker` made for its neighbours, ascending, into their rows. to: for which of them, bool [k]."""
        near, place = self._near, self._near.graph.place(maker)
        rows, columns = near.places[place], near.columns[place]
        if to is not None:
            rows, columns = rows[to], columns[to]
        self._records[rows, columns] = records
        self._present[rows, columns] = True

    def row(self, site: SiteId) -> NDArray[np.uint8]:
        """Return one site's records, uint8 [k, size], a view; zeros where none has come."""
        found: NDArray[np.uint8] = self._records[self._near.graph.place(site)]
        return found

    def of(self, site: SiteId) -> bytes:
        """Return the records that have come for one site, by their makers' ids."""
        place = self._near.graph.place(site)
        found: bytes = self._records[place][self._present[place]].tobytes()
        return found

    def makers(self, site: SiteId) -> NDArray[np.int64]:
        """Return whose records have come for one site, ascending."""
        place = self._near.graph.place(site)
        found: NDArray[np.int64] = self._near.sites[place][self._present[place]]
        return found

    def copy(self) -> PairTable:
        """Return a copy that shares nothing with this table but the graph."""
        copied = PairTable(self._near, 0)
        copied._records, copied._present = self._records.copy(), self._present.copy()
        return copied
