"""A site whose coordinator is blind: it decrypts the sum, steps the policy, and hands it to sites that lack it."""

from __future__ import annotations

from typing import Any

from secure_frl.ckks.epoch_cipher import SiteWorkers
from secure_frl.ckks.site_states import blind_site
from secure_frl.federation.held_policy import SealedPolicy
from secure_frl.federation.optimisers import initial_state
from secure_frl.federation.site import SiteParts, StudySite
from secure_frl.masking.site_states import SiteProtocol


class BlindStudySite(StudySite):
    """A site of a study under `ckks` or `ckks+masking`."""

    _held: SealedPolicy

    def __init__(self, parts: SiteParts, workers: SiteWorkers) -> None:
        """workers: hold the epochs' keys; several sites of one process may share them, and each may close them."""
        self._workers = workers
        super().__init__(parts)

    def _first_policy(self) -> SealedPolicy:
        parts = self._parts
        return SealedPolicy(
            initial_state(self._rule),
            self._rule,
            parts.log,
            me=parts.me,
            session=parts.terms.session,
            home=parts.home,
            random=parts.protocol_random,
        )

    def _machine(self, **given: Any) -> SiteProtocol:  # Any: as in StudySite
        return blind_site(self._parts.terms.constants.protection)(workers=self._workers, **given)

    def shut_down(self, *, export: bool = False) -> None:
        """As for `StudySite`; the key is let go of."""
        super().shut_down(export=export)
        self._workers.close()

    # --- the callbacks of the protocol half beside those of `StudySite`

    def site_secret(self) -> bytes | None:
        """Return the charter's site secret, None before the first round."""
        return self._held.secret()

    def offer_secret(self, secret: bytes) -> None:
        """Use a site secret from now on. Raises KeyRefused when the charter has another."""
        self._held.offer_secret(secret)

    def held_tag(self) -> bytes:
        """Return the keyed tag of the policy that this site holds."""
        return self._held.tag()

    def sealed_policy(self, tag: bytes) -> bytes:
        """Return the policy of this tag, sealed for other sites. Raises ModelMissing when another is held."""
        return self._held.sealed(tag)
