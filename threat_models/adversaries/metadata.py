"""SFRL-D5 and B5: what sizes, times and answers say about a site's week, to whoever sees the wire and has no key."""

from __future__ import annotations

import numpy as np

from secure_frl.wire.envelope import read_header
from secure_frl.wire.messages import MessageType
from threat_models.threat import CapturedView, Guess, Threat, View

THREAT = Threat(
    id="SFRL-D5",
    name="metadata",
    title="a bad week, read off sizes, times and whether a site answers",
    views=frozenset({View.NETWORK}),
    given="who is which site",
    stronger="one who watches the machine that trains, not its wire",
    sources=("Deng et al. 2011, section 4 (LINDDUN: detectability, linkability)",),
    stride="Information disclosure",
    linddun="Detecting, Linking",
    atlas="",
    nist="NISTAML.034",
)


class Metadata:
    """Measures every exchange of a round; larger scores are for less traffic, fewer answers, and longer work."""

    def run(self, view: CapturedView) -> Guess:
        """Return arrays with one entry a round and site: "round", "site", "sizes", "answers" and "times"."""
        sizes: dict[tuple[int, int], int] = {}
        answers: dict[tuple[int, int], int] = {}
        asked: dict[tuple[int, int], float] = {}
        times: dict[tuple[int, int], float] = {}
        for item in view.frames:
            header = read_header(item.frame)
            place = (header.round, item.site)
            if not header.round:
                continue  # an epoch's opening
            if item.direction == "to_site":
                asked.setdefault(place, item.time_s)
                continue
            times.setdefault(place, item.time_s - asked.get(place, item.time_s))
            sizes[place] = sizes.get(place, 0) + len(item.frame)
            answers[place] = answers.get(place, 0) + (header.type != MessageType.REFUSAL)
        places = sorted(asked)
        return {
            "round": np.array([number for number, _ in places], dtype=np.int64),
            "site": np.array([site for _, site in places], dtype=np.int64),
            "sizes": -np.array([sizes.get(place, 0) for place in places], dtype=np.float64),
            "answers": -np.array([answers.get(place, 0) for place in places], dtype=np.float64),
            "times": np.array([times.get(place, np.inf) for place in places], dtype=np.float64),
        }
