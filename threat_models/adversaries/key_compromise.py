"""SFRL-D1: whoever has an epoch's CKKS key opens whatever ciphertexts come by; what it then reads, it searches.

Every site has the key. The coordinator has every site's ciphertexts. So they open together what neither opens alone:
an update under `ckks`, a masked vector under `ckks+masking`. Who has no key reads the bytes as if nobody had encrypted
them.
"""

from __future__ import annotations

import numpy as np

from threat_models.adversaries.column_support import ColumnSupport
from threat_models.decoding import ciphertexts, decrypted, encrypted_sums, unencrypted
from threat_models.threat import CapturedView, Guess, PublicInfo, Threat, View

THREAT = Threat(
    id="SFRL-D1",
    name="key_compromise",
    title="which states were visited, through the key that every site holds",
    views=frozenset({View.COORDINATOR, View.SITE, View.COALITION}),
    given="what everybody knows: the code and the charter; a site's view has the epoch's key",
    stronger="more sites than c in league, whose masks are then known too",
    sources=("Li and Micciancio 2021, section 1", "Phong et al. 2018, section 3"),
    stride="Information disclosure, Elevation of privilege",
    linddun="Data disclosure",
    atlas="AML.T0055",
    nist="NISTAML.032",
)


class KeyCompromise:
    """Opens what it can, then scores states as column support does."""

    def prepare(self, public: PublicInfo, rng: np.random.Generator) -> None:
        """Keep what is public."""
        self._public = public
        self._rows = ColumnSupport()
        self._rows.prepare(public, rng)

    def run(self, view: CapturedView) -> Guess:
        """Return float64 [states] and vectors.

        Scores: "sum/round" of a sum that may be read, "upload/round/site" of an update in clear or opened,
        "total/round" of what was passed on as the sum, and without a key "bytes/round/site" of ciphertexts read as
        they are. "vector/..." has the vector itself, float64 [P], under the same names.
        """
        guess = dict(self._rows.run(view))
        opened = {
            f"upload/{number}/{site}": vector
            for (number, site), vector in decrypted(view, ciphertexts(view), 1, self._public).items()
        }
        own = {place: body for place, body in encrypted_sums(view).items() if place[1] in view.controlled[:1]}
        for (number, _), vector in decrypted(view, own, self._public.sites, self._public).items():
            opened[f"total/{number}"] = vector
        if not any(name.startswith("key/") for name in view.secrets):
            for (number, site), body in ciphertexts(view).items():
                opened[f"bytes/{number}/{site}"] = unencrypted(body, self._public)
        for name, vector in opened.items():
            guess[name] = self._rows.scores(vector)
            guess[f"vector/{name}"] = vector
        return guess
