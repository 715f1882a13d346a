"""A coordinator in a process of its own: `python coordinator_process.py RUN_FOLDER CAPTURE`, sites on the other side.

Each request leaves as the site's number and a frame on standard output, and its answer is read from standard input; a
site that stays silent answers with an empty frame. After the last round it says so with the number `DONE` and stays
until its input ends, so that whoever started it can look into its memory.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from secure_frl.federation import run_folder
from secure_frl.federation.budgets import lifetime_budget, study_guard
from secure_frl.federation.carriers.pipe import read_frame, write_frame
from secure_frl.federation.coordinator import Coordinator, CoordinatorParts
from secure_frl.federation.enrolment import coordinator_identity, read_enrolment
from secure_frl.federation.logs import open_log
from secure_frl.federation.simulation import keeper_of
from secure_frl.records.journal import Journal
from secure_frl.records.ledger import Ledger
from secure_frl.secure_sum import Addressed, SiteId
from secure_frl.wire.capture import CaptureWriter

DONE = 0xFFFF
_NUMBER_BYTES = 2


class StandardStreams:
    """A carrier to whoever started this process."""

    def __init__(self, capture: CaptureWriter) -> None:
        self._capture = capture

    def exchange(self, requests: Iterable[Addressed], deadline_s: float) -> Iterator[Addressed]:
        for site, request in requests:
            self._capture.write("to_site", site, time.monotonic(), request)
            write_frame(sys.stdout.buffer, site.to_bytes(_NUMBER_BYTES, "big") + request)
            reply = read_frame(sys.stdin.buffer)
            if reply:
                self._capture.write("to_coordinator", site, time.monotonic(), reply)
                yield site, reply

    def close(self) -> None:
        self._capture.close()


def main(root: str, capture: str) -> None:
    folder, _, options = run_folder.reopen(Path(root))
    enrolled = read_enrolment(folder, rehearse=options.rehearse)
    study, terms = enrolled.study, enrolled.terms
    identity = coordinator_identity(folder)
    with Journal.open(folder.journal, charter_hash=terms.session, code_version="test") as journal:
        ledger = Ledger.open(
            folder.coordinator / "ledger.sqlite",
            holder="coordinator",
            dataset_id=enrolled.dataset_id,
            budget=lifetime_budget(study),
            guard=study_guard(study, terms.session),
            signer=identity,
            code_version="test",
        )
        parts = CoordinatorParts(
            study=study,
            terms=terms,
            names=enrolled.roster.names,
            dataset_id=enrolled.dataset_id,
            identity=identity,
            journal=journal,
            ledger=ledger,
            carrier=StandardStreams(CaptureWriter(Path(capture))),
            random=enrolled.random_source("coordinator"),
            clock=time.time,
            log=open_log(folder.coordinator / "coordinator.log"),
        )
        keeper = keeper_of(enrolled, parts)
        outcomes = list(Coordinator(parts, keeper).rounds())
        assert all(outcome.is_summed for outcome in outcomes)
        write_frame(sys.stdout.buffer, DONE.to_bytes(_NUMBER_BYTES, "big"))
        read_frame(sys.stdin.buffer)
        keeper.close()
        parts.carrier.close()
        ledger.close_cleanly()


def serve(sites: dict[SiteId, object], outgoing: object, incoming: object) -> None:
    """The other side: answer until the coordinator is done. outgoing: to it; incoming: from it."""
    while True:
        asked = read_frame(incoming)  # type: ignore[arg-type]
        assert asked is not None, "the coordinator ended"
        number, request = int.from_bytes(asked[:_NUMBER_BYTES], "big"), asked[_NUMBER_BYTES:]
        if number == DONE:
            return
        write_frame(outgoing, sites[SiteId(number)].handle(request))  # type: ignore[arg-type, attr-defined]


if __name__ == "__main__":
    main(*sys.argv[1:])
