"""One look at a sum with float32 Gaussian noise tells whether one person is in it; with integer noise it does not.

    python examples/float_noise/attack.py [--games N]

The game that epsilon bounds: the attacker knows everybody's clipped gradient, the mechanism publishes the noised sum
with or without one of them by a secret coin, and the attacker says which. 5,317 coordinates, one person of norm 1,
noise multiplier 1: epsilon 4.38 at delta 1e-5, add or remove one. No attack on that mechanism is right more often than
69.1 % of the time: Phi(mu / 2), mu = 1 / sigma (Dong, Roth and Su 2022, section 2.2).
Source of the attack: Mironov 2012, "On significance of the least significant bits for differential privacy".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from secure_frl.encoding.quantise import quantise
from secure_frl.privacy.float_noise import unsafe_float_noise
from secure_frl.privacy.noise import discrete_gaussian
from secure_frl.randomness import system_source
from secure_frl.secure_sum import RandomSource

LENGTH = 5317
OTHERS = 40  # people whose gradients add up to the rest of the sum
NOISE_MULTIPLIER = 1.0
DEVIATION = 4096  # of local integer noise on its grid
CEILING = float(norm.cdf(0.5 / NOISE_MULTIPLIER))  # of the rate of right answers

Mechanism = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def impossible(published: NDArray[np.float32], before: NDArray[np.float32]) -> int:
    """Return at how many coordinates no float32 noise whatever turns `before` into `published`.

    Where the sum is smaller than what it was made from, its last bits must be zero: noise that large has no finer ones.
    """
    # Rounding is monotone, so if any float32 works, then one of those next to the exact difference does.
    nearest = (published.astype(np.float64) - before).astype(np.float32)
    reached = np.zeros(published.shape, dtype=np.bool_)
    for noise in (nearest, np.nextafter(nearest, np.float32(np.inf)), np.nextafter(nearest, np.float32(-np.inf))):
        reached |= before + noise == published
    return int(np.count_nonzero(~reached))


def float_mechanism(clipped_sum: NDArray[np.float32]) -> NDArray[np.float32]:
    """Publish the sum with float noise: the unsafe baseline."""
    return unsafe_float_noise(torch.from_numpy(clipped_sum), NOISE_MULTIPLIER).numpy()


def integer_mechanism(random: RandomSource) -> Mechanism:
    """Return what publishes the sum rounded to integers with a discrete Gaussian: what a site does."""
    scale = DEVIATION / NOISE_MULTIPLIER

    def publish(clipped_sum: NDArray[np.float32]) -> NDArray[np.float32]:
        rounded = quantise(clipped_sum.astype(np.float64), scale, 1 << 40, random)
        noised = rounded.integers + discrete_gaussian(DEVIATION, clipped_sum.size, random)
        return (noised / scale).astype(np.float32)

    return publish


def games(mechanism: Mechanism, count: int, seed: int) -> tuple[int, list[int], list[int]]:
    """Play `count` games; return how many the attacker wins, and how often each hypothesis was impossible.

    The lists hold one number of impossible coordinates a game, for the hypothesis that is true and for the other.
    """
    public = np.random.default_rng(seed)  # people and coins, not noise
    won, of_true, of_false = 0, [], []
    for _ in range(count):
        people = public.standard_normal((OTHERS + 1, LENGTH))
        people /= np.linalg.norm(people, axis=1, keepdims=True)
        without = people[1:].sum(axis=0).astype(np.float32)
        sums = (without, without + people[0].astype(np.float32))
        coin = int(public.integers(2))
        published = mechanism(sums[coin])
        counts = [impossible(published, before) for before in sums]
        tie = counts[0] == counts[1]
        guess = int(public.integers(2)) if tie else int(counts[1] < counts[0])
        won += guess == coin
        of_true.append(counts[coin])
        of_false.append(counts[1 - coin])
    return won, of_true, of_false


def main() -> None:
    """Play against both and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", type=int, default=200, help="games against each mechanism")
    count = parser.parse_args().games
    torch.manual_seed(0)
    print(f"ceiling of any attack at epsilon 4.38, delta 1e-5: right in {CEILING:.1%} of games")
    for name, mechanism in (("float noise", float_mechanism), ("integer noise", integer_mechanism(system_source()))):
        won, of_true, of_false = games(mechanism, count, seed=1)
        print(
            f"{name:14} right in {won} of {count}; coordinates that no noise explains, a game: "
            f"{np.mean(of_true):.1f} under the truth, {np.mean(of_false):.1f} under the other hypothesis"
        )


if __name__ == "__main__":
    main()
