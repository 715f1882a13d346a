"""What the carrier of a simulation delivers: each site's own time counts against the deadline, not its turn."""

from __future__ import annotations

from secure_frl.federation.carriers.in_process import InProcessCarrier
from secure_frl.secure_sum import SiteId


class _Clock:
    """Seconds that pass only when a site works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class _Slow:
    """A site that takes so many seconds to answer."""

    def __init__(self, clock: _Clock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds

    def handle(self, request: bytes) -> bytes:
        self._clock.now += self._seconds
        return b"reply"


def test_a_site_that_is_late_by_itself_is_dropped_and_one_that_waited_for_its_turn_is_not() -> None:
    clock = _Clock()
    seconds = [8.0, 8.0, 11.0, 8.0]
    sites = {SiteId(number): _Slow(clock, took) for number, took in enumerate(seconds)}
    carrier = InProcessCarrier(sites, clock=clock)

    answered = [site for site, _ in carrier.exchange([(site, b"request") for site in sites], deadline_s=10.0)]

    assert answered == [0, 1, 3]
