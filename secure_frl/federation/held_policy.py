"""The policy that a site holds, step by step, and what tags it.

Under masking it is public to the consortium: its tag is a hash and a site that missed steps takes the coordinator's
copy. Under ckks and ckks+masking only sites read it: its tag is keyed, and a site that missed steps opens a parcel that
another site sealed. Nobody but sites has it then, so a site keeps it on disk.

A step is provisional until the coordinator names it in a later round: when too few sites followed, the study goes on
from the step before, and so does this site, once, as long as nothing was built on the newer one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from secure_frl.ckks.policies import keyed_tag, open_policy, seal_policy
from secure_frl.errors import KeyRefused, LedgerCorrupt, MalformedMessage, ModelDoesNotFollow, ModelMissing
from secure_frl.federation.optimisers import OptimiserRule, has_form_of
from secure_frl.federation.training_state import TrainingState
from secure_frl.files import write_durably
from secure_frl.masking.contexts import model_tag
from secure_frl.secure_sum import RandomSource, SiteId

FORMAT = "secure_frl/held-policy/v1"
_SECRET_BYTES = 32
_PRIVATE = 0o600


class HeldPolicy:
    """The policy in memory, under masking."""

    def __init__(self, first: TrainingState, rule: OptimiserRule, log: logging.Logger) -> None:
        """first: as it follows from the charter."""
        self._rule, self._log = rule, log
        self.state = first
        self._next: TrainingState | None = None

    def tag(self) -> bytes:
        """Return the tag of the policy held."""
        return self._tag_of(self.state.to_bytes())

    def announced(self, tag: bytes, parcel: bytes | None) -> bytes:
        """Return the tag of the policy held, taking `parcel` only for steps that this site missed.

        Raises ModelMissing, ModelDoesNotFollow, MalformedMessage; then nothing has changed.
        """
        held = self.tag()
        if held == tag:
            return held
        if parcel is None:
            raise ModelMissing("expected the policy that this site holds, got another tag. Send the policy with R0.")
        model = self._read(parcel, tag)
        offered = TrainingState.from_bytes(model)
        if not has_form_of(offered, self._rule):
            raise ModelDoesNotFollow(
                "expected a policy of the charter's sizes, with a clip that its steps can reach, got another. "
                "Refuse its sender; nothing was answered."
            )
        self._check_follows(offered)
        found = self._tag_of(model)
        if found == tag:  # else the round is refused, and nothing of it stays
            self._log.warning("took the policy of step %d unchecked, for this site missed steps", offered.round)
            self._take_missed(offered)
        return found

    def _check_follows(self, offered: TrainingState) -> None:
        """Raise ModelDoesNotFollow for a policy that cannot come after the one held."""
        check_follows(offered, self.state)

    def follow(self, following: TrainingState, figures: Mapping[str, float]) -> bytes:
        """Note what follows from a sum and return its tag; it is held once the round is `concluded`."""
        self._next = following
        return self._tag_of(following.to_bytes())

    def concluded(self, outcome: str) -> None:
        """Hold what follows, when the round ended with a sum."""
        following, self._next = self._next, None
        if outcome == "summed" and following is not None:
            self._take(following)

    def _take(self, state: TrainingState) -> None:
        self.state = state

    def _take_missed(self, state: TrainingState) -> None:
        self._take(state)

    def _tag_of(self, model: bytes) -> bytes:
        return model_tag(model)

    def _read(self, parcel: bytes, tag: bytes) -> bytes:
        return parcel


def check_follows(offered: TrainingState, held: TrainingState) -> None:
    """Raise ModelDoesNotFollow unless a policy is of a later step than one held, and of the next step its successor."""
    if offered.round <= held.round:
        raise ModelDoesNotFollow(
            f"expected the policy after step {held.round} as this site computed it, got another one. "
            "Compare versions with the coordinator; nothing was answered."
        )
    if offered.round == held.round + 1 and offered.predecessor != sha256(held.to_bytes()).digest():
        raise ModelDoesNotFollow(
            f"expected the policy that follows the one of step {held.round} here, got another one's. "
            "Compare versions with the coordinator; nothing was answered."
        )


class StoredPolicy(NamedTuple):
    """What a site's file holds: the policy, the one before while the newer is provisional, the policy's figures."""

    current: TrainingState
    previous: TrainingState | None
    figures: Mapping[str, float]


class SealedPolicy(HeldPolicy):
    """The policy under a protection whose coordinator is blind: keyed, and on this site's disk."""

    def __init__(
        self,
        first: TrainingState,
        rule: OptimiserRule,
        log: logging.Logger,
        *,
        me: SiteId,
        session: bytes,
        home: Path,
        random: RandomSource,
    ) -> None:
        """home: the site's own folder. Raises LedgerCorrupt for a file that is not this charter's."""
        super().__init__(first, rule, log)
        self._me, self._session, self._random = me, session, random
        self._secret_path, self._path = secret_path(home, session), policy_path(home, session)
        self._offered: bytes | None = None  # a site secret that no round was announced under yet
        self._previous: TrainingState | None = None
        self._figures: Mapping[str, float] = {}  # of the policy held
        self._next_figures: Mapping[str, float] = {}
        if self._path.exists():
            self.state, self._previous, self._figures = read_stored(self._path, session)

    # --- the charter's secret

    def secret(self) -> bytes | None:
        """Return the charter's site secret, None before the first round."""
        return read_secret(self._secret_path)

    def offer_secret(self, secret: bytes) -> None:
        """Use a site secret; the first round that is announced under it makes it the charter's, on disk.

        Until then an epoch may fail and the next steward draw another. Raises KeyRefused when the charter has another.
        """
        held = self.secret()
        if held is not None and held != secret:
            raise KeyRefused(
                f"expected the charter's site secret in {self._secret_path.name}, got another. Compare it with another "
                "site's; where this site is alone with its own, move that file and the policy's beside it away."
            )
        self._offered = secret

    def _settle_secret(self) -> None:
        if self._offered is not None and self.secret() is None:
            write_durably(self._secret_path, self._offered, mode=_PRIVATE)

    # --- the policy

    def announced(self, tag: bytes, parcel: bytes | None) -> bytes:
        """As in memory; and the newest step stays provisional no longer, or is given up for the one before."""
        if self._previous is not None and self._tag_of(self._previous.to_bytes()) == tag:
            self._log.warning("went back to the policy of step %d: too few sites followed", self._previous.round)
            self.state, self._previous, self._figures = self._previous, None, {}
            self._write()
            return tag
        found = super().announced(tag, parcel)
        if found == tag:
            self._settle_secret()
        if found == tag and self._previous is not None:
            self._previous = None
            self._write()
        return found

    def sealed(self, tag: bytes) -> bytes:
        """Return the policy for sites that lack it. Raises ModelMissing unless it is the one of this tag."""
        model = self.state.to_bytes()
        if self._tag_of(model) != tag:
            raise ModelMissing("expected to be asked for the policy that this site holds, got another tag. Ask others.")
        return seal_policy(
            self._held_secret(),
            self._session,
            writer=self._me,
            step=self.state.round,
            tag=tag,
            model=model,
            random=self._random,
        )

    def follow(self, following: TrainingState, figures: Mapping[str, float]) -> bytes:
        """As in memory; the sum's released figures are kept with it."""
        self._next_figures = dict(figures)
        return super().follow(following, figures)

    def concluded(self, outcome: str) -> None:
        """Hold what follows, provisionally. If it cannot be written, nothing has changed."""
        before = (self.state, self._previous, self._figures)
        if outcome == "summed" and self._next is not None:
            self._previous, self._figures = self.state, self._next_figures
        try:
            super().concluded(outcome)
        except Exception:  # raised again
            self.state, self._previous, self._figures = before
            raise

    def _check_follows(self, offered: TrainingState) -> None:
        """As in memory; what follows from the step before is as good while the newer one is provisional."""
        try:
            super()._check_follows(offered)
        except ModelDoesNotFollow:
            if self._previous is None:
                raise
            check_follows(offered, self._previous)

    def _take_missed(self, state: TrainingState) -> None:
        self._previous, self._figures = None, {}
        super()._take_missed(state)

    def _take(self, state: TrainingState) -> None:
        super()._take(state)
        self._write()

    def _tag_of(self, model: bytes) -> bytes:
        return keyed_tag(self._held_secret(), self._session, model)

    def _read(self, parcel: bytes, tag: bytes) -> bytes:
        return open_policy(self._held_secret(), self._session, parcel, tag)

    def _held_secret(self) -> bytes:
        secret = self.secret() or self._offered
        if secret is None:
            raise ModelMissing("expected the charter's site secret here, got none yet. Send the steward's package.")
        return secret

    def _write(self) -> None:
        current = self.state.to_bytes()
        previous = b"" if self._previous is None else self._previous.to_bytes()
        head = {
            "format": FORMAT,
            "charter": self._session.hex(),
            "sizes": [len(current), len(previous)],
            "figures": dict(self._figures),
            "sha256": sha256(current + previous).hexdigest(),
        }
        text = json.dumps(head, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        write_durably(self._path, text + current + previous, mode=_PRIVATE)


def secret_path(home: Path, session: bytes) -> Path:
    """Return where a site keeps a charter's site secret."""
    return home / f"site-secret-{session.hex()[:16]}.key"


def policy_path(home: Path, session: bytes) -> Path:
    """Return where a site keeps a charter's policy."""
    return home / f"policy-{session.hex()[:16]}.held"


def read_secret(path: Path) -> bytes | None:
    """Return a site secret, or None where there is none. Raises LedgerCorrupt for another content."""
    if not path.exists():
        return None
    secret = path.read_bytes()
    if len(secret) != _SECRET_BYTES:
        raise LedgerCorrupt(f"expected {path.name} to hold {_SECRET_BYTES} bytes, it does not. Restore a copy.")
    return secret


def read_stored(path: Path, session: bytes) -> StoredPolicy:
    """Return what a site's file holds. Raises LedgerCorrupt when it is damaged, or another charter's."""
    head, _, content = path.read_bytes().partition(b"\n")
    try:
        fields = json.loads(head)
        size, before = fields["sizes"]
        named = (fields["format"], fields["charter"], fields["sha256"])
        if named != (FORMAT, session.hex(), sha256(content).hexdigest()) or len(content) != size + before:
            raise ValueError("content")
        current = TrainingState.from_bytes(content[:size])
        previous = TrainingState.from_bytes(content[size:]) if before else None
        return StoredPolicy(current, previous, {str(name): float(value) for name, value in fields["figures"].items()})
    except (ValueError, KeyError, TypeError, AttributeError, MalformedMessage) as error:
        raise LedgerCorrupt(
            f"expected {path.name} as this program wrote it for this charter, it is damaged or another's. "
            "Restore its newest copy, or remove it: then this site takes the policy as another site hands it over."
        ) from error
