"""What the doubles of unit tests and campaigns share: a site's sealed policy, a context with another key."""

from __future__ import annotations

from dataclasses import dataclass

import tenseal

from secure_frl.ckks.policies import keyed_tag, open_policy
from secure_frl.errors import ModelMissing


@dataclass
class KeyedPolicy:
    """The part of a host that only sites' secret opens; mixed into one that has a `model`."""

    session: bytes = b""
    me: int = 0
    secret: bytes | None = None  # in use
    settled: bytes | None = None  # the charter's, once a round was announced under it

    def site_secret(self) -> bytes | None:
        return self.settled

    def offer_secret(self, secret: bytes) -> None:
        self.secret = secret

    def held_tag(self) -> bytes:
        assert self.secret is not None
        return keyed_tag(self.secret, self.session, self.model)

    def policy_tag(self, announced_tag: bytes, model: bytes | None) -> bytes:
        if self.held_tag() != announced_tag:
            if model is None:
                raise ModelMissing("expected the policy held here, got another tag. Send it.")
            assert self.secret is not None
            self.model = open_policy(self.secret, self.session, model, announced_tag)
        self.settled = self.secret
        return self.held_tag()


def fresh_context(coefficient_bits: tuple[int, int] = (54, 54)) -> tenseal.Context:
    """Return a context with a key of its own: it computes with the epoch's ciphertexts, and decrypts none of them.

    coefficient_bits: others than these make one of other parameters, which no site takes.
    """
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        4096,
        coeff_mod_bit_sizes=list(coefficient_bits),
        n_threads=1,
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.global_scale = 2.0**40
    return context
