"""The coordinator's running sum of ciphertexts: one contribution at a time, blind, and outliving any worker.

The sum is the bytes that are held here; a worker's copy of it is a cache. A contribution is decoded whole before it
touches the sum, so one that cannot be decoded changes nothing. Should it end the worker, the next worker is given the
sum again: only its sender is lost. Held at any time: the sum, the sum before, and one contribution.
No key and no context of the federation comes here, not even a public one.
Source: docs/protocol.md, section 18.
"""

from __future__ import annotations

from secure_frl.ckks.envelopes import check_chunk, pack_chunks, unpack_chunks
from secure_frl.ckks.requests import Op
from secure_frl.ckks.worker import Worker
from secure_frl.encoding.slots import ChunkPlan
from secure_frl.errors import (
    CiphertextRefused,
    EnvelopeRefused,
    KeyRefused,
    LocalProtocolError,
    RoundAborted,
    UnexpectedMessage,
    UnexpectedState,
    WorkerDied,
)
from secure_frl.secure_sum import SiteId

_TRIES = 2  # a worker may end for reasons of its machine; one that ends twice over the same bytes ended over them


class EncryptedSum:
    """The sum of one attempt. A worker may be shared by sums, one after the other or in turns."""

    def __init__(self, plan: ChunkPlan, key_id: bytes, worker: Worker) -> None:
        """key_id: of the epoch's key, 32 bytes, as sites signed it."""
        self._plan, self.key_id, self._worker = plan, key_id, worker
        self._chunks: list[bytes] = []
        self._contributors: set[SiteId] = set()

    @property
    def contributors(self) -> tuple[SiteId, ...]:
        """Return who is in the sum, ascending."""
        return tuple(sorted(self._contributors))

    @property
    def body(self) -> bytes:
        """Return the encrypted sum as sites are sent it. Raises UnexpectedState while nobody is in it."""
        if not self._chunks:
            raise UnexpectedState("expected a sum with contributors, got an empty one. Add a contribution first.")
        return pack_chunks(self._chunks)

    def add(self, site: SiteId, key_id: bytes, body: bytes | memoryview) -> None:
        """Add one site's ciphertexts, or leave the sum as it was.

        key_id, body: from a frame of this site whose tag was checked.
        Raises KeyRefused for another key, UnexpectedMessage for a second contribution, EnvelopeRefused before any
        decoder sees the bytes, CiphertextRefused when a worker refused them or died of them; these put the site out
        and nobody else. RoundAborted when no worker can hold the sum, LocalProtocolError for more sites than the plan
        is exact for.
        """
        if key_id != self.key_id:
            raise KeyRefused(f"expected ciphertexts under this epoch's key, site {site} names another. Leave it out.")
        if site in self._contributors:
            raise UnexpectedMessage(f"expected one contribution of site {site}, got a second. Drop it.")
        if len(self._contributors) >= self._plan.sites:
            raise LocalProtocolError(
                f"expected at most {self._plan.sites} contributions, got one more. Sum over a cohort of the charter."
            )
        chunks = unpack_chunks(body, self._plan)
        for _ in range(_TRIES):
            self._make_ready()
            try:
                self._chunks = self._added(chunks)
            except WorkerDied:
                continue
            self._contributors.add(site)
            return
        raise CiphertextRefused(
            f"expected ciphertexts that can be added, those of site {site} ended the worker {_TRIES} times. "
            "Leave it out of this round."
        )

    def _added(self, chunks: list[memoryview]) -> list[bytes]:
        """Return the chunks of the sum with this contribution. Raises CiphertextRefused, WorkerDied."""
        worker = self._worker
        worker.ask_each(Op.STAGE, chunks)
        worker.holds = None  # until the new sum is here, the worker's is not the one that is held
        worker.ask(Op.COMMIT)
        summed = worker.ask_each(Op.SAVE, [number.to_bytes(4, "big") for number in range(len(chunks))])
        try:
            for found in summed:
                check_chunk(found)
        except EnvelopeRefused:  # a worker that a contribution took over may answer anything
            worker.close()
            raise WorkerDied("expected a sum in the form of a contribution, got another. Start again.") from None
        worker.holds = self
        return summed

    def _make_ready(self) -> None:
        """Let the worker hold the sum so far and no part of a contribution. Raises RoundAborted.

        A sum begins in a new process: whatever a contribution made of the last one ended with its sum. Nothing that is
        asked for here can be refused, so a worker that does is believed no more.
        """
        worker = self._worker
        worker.notice_end()
        if worker.holds is not self and not self._chunks:
            worker.close()
        for _ in range(_TRIES):
            try:
                if worker.holds is self:
                    worker.ask(Op.DROP)
                else:
                    worker.holds = None
                    worker.ask(Op.CLEAR)
                    worker.ask_each(Op.STAGE, self._chunks)
                    if self._chunks:
                        worker.ask(Op.COMMIT)
                    worker.holds = self
            except WorkerDied:
                continue
            except CiphertextRefused:
                worker.close()
            else:
                return
        raise RoundAborted(
            "expected a worker that takes the sum so far, none did. Look at this machine's memory and its load."
        )
