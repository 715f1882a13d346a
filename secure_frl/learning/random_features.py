"""A fixed public map of observations, under which a linear policy is a smooth function of them. No torch.

    phi(x) = sqrt(2 / width) [cos(W x), sin(W x)]        W [width / 2, features], deviation 1 / bandwidth

phi(x)' phi(y) is close to exp(-|x - y|^2 / (2 bandwidth^2)), within about 1 / sqrt(width), and exactly 1 for x = y. So
a step along the policy's gradient moves the logits where somebody was treated, and elsewhere as much as observations
are alike; those further apart than a few bandwidths hardly know of each other. A network without that has one common
direction, along which every observation moves with every other: it needs many more steps than privacy pays for. Nor
does the noise of a logit depend on the width, for phi has length 1.

Source: Rahimi and Recht 2007, Random Features for Large-Scale Kernel Machines, section 3; in pairs of cosine and sine,
Sutherland and Schneider 2015, On the Error of Random Fourier Features, section 2.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

_LABEL = b"secure_frl/random_features/v1"
_UNIFORMS = 12  # that make a number of variance 1


def first_map(seed: int, name: str, shape: tuple[int, int], bandwidth: float) -> NDArray[np.float64]:
    """Return W, float64 [width / 2, features]: a public function of the charter, the same bits at every party.

    seed: of training, the study's; nothing secret. name: of the parameter. Each number is a sum of 12 uniform ones from
    SHAKE-256 less its mean, over the bandwidth: close to normal, without a logarithm whose last bit depends on the
    library.
    """
    drawn = hashlib.shake_256(b"\x00".join((_LABEL, str(seed).encode(), name.encode())))
    words = np.frombuffer(drawn.digest(2 * _UNIFORMS * math.prod(shape)), dtype="<u2").reshape(*shape, _UNIFORMS)
    sums = words.sum(axis=2, dtype=np.int64) + _UNIFORMS / 2 - _UNIFORMS * 2**15
    return np.asarray(sums * 2.0**-16 / bandwidth, dtype=np.float64)


def mapped(weight: NDArray[np.float64], observations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return phi, float64 [n, width]. weight: W. observations: float64 [n, features].

    Cosine and sine are taken in float32, where libraries are several times as fast: within 1e-6 of the formula.
    """
    angles, half = (observations @ weight.T).astype(np.float32), weight.shape[0]
    found = np.empty((len(observations), 2 * half))
    found[:, :half], found[:, half:] = np.cos(angles), np.sin(angles)
    found *= 1.0 / math.sqrt(half)
    return found
