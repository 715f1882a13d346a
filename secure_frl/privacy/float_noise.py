"""The unsafe baseline: Gaussian noise in float32, as Opacus adds it without its secure mode. No study can ask for it.

It is here to be broken: `examples/float_noise` reads from its low bits whether one person took part, whatever epsilon
the noise multiplier stands for. Integer noise (`noise`) has no such bits.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unsafe_float_noise(clipped_sum: Tensor, noise_multiplier: float) -> Tensor:
    """Return the sum with float Gaussian noise of deviation `noise_multiplier` a coordinate; it protects nobody.

    clipped_sum: float32 [P], in units of the clip. The noise is of torch's global generator.
    Source: Opacus 1.6, DPOptimizer.add_noise; the flaw is that of Mironov 2012, "On significance of the least
    significant bits for differential privacy".
    """
    noise = torch.normal(0.0, noise_multiplier, clipped_sum.shape, dtype=clipped_sum.dtype)
    return clipped_sum + noise
