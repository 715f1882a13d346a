"""What a secure sum costs: ours beside the limit that AES sets, and beside Flower's SecAgg+, in one run.

    python benchmarks/secure_sum.py [--json] [--quick] [--only NAME,...] [--flower FOLDER]

The limit is (k + 1) masks of the vector's length, each AES-256-CTR over one buffer and one addition: no site can mask
with fewer. It is measured between our rounds, so that what disturbs one disturbs the other; a figure is the median of
the ratios. CPU seconds of one thread at a site, of all threads at the coordinator. The last line of --json is
{"figures": [{"name", "value", "unit", "bar", "holds"}]}.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from figures import Figure, at_least, at_most, run, show
from flower_environment import FLOWER, flower_round
from many_sites import Cost, ManySites
from numpy.typing import NDArray
from one_site import OneSite
from parties import BOUND, circulant_constants, silo_constants
from peer_environment import python_of

from secure_frl.encoding.quantise import quantise
from secure_frl.randomness import system_source
from secure_frl.secure_sum import SumConstants

MILLION = 1_000_000
FLOWER_FOLDER = Path("build/flower-1.41.0")
EXTRA_PER_NEIGHBOUR_S, EXTRA_S = 100e-6, 1e-3  # what a site of any size may add to 1.3 x the limit
DERIVATIONS = 5  # a neighbour and round: ratchet, a share key each way, mask key, confirmations
REFERENCE_S = 31.5e-6 + DERIVATIONS * 2.9e-6  # of a neighbour's primitives where that allowance was set
SPARSE_FLOWER = 21  # shares of its sparse graph: k = 20


@dataclass(frozen=True)
class Options:
    """How much to run."""

    quick: bool
    flower: Path

    def repetitions(self, full: int) -> int:
        """Return how often to repeat something that is repeated `full` times in a full run."""
        return min(full, 3) if self.quick else full


class Limit:
    """Masks as fast as AES and one addition make them: one buffer, nothing around it."""

    def __init__(self, words: int) -> None:
        self._zeros, self._room = np.zeros(4 * words, np.uint8), np.empty(4 * words + 15, np.uint8)
        self._mask, self._sum = self._room[: 4 * words].view(np.uint32), np.zeros(words, np.uint32)

    def seconds(self, masks: int) -> float:
        """Return the CPU seconds of so many masks."""
        keys = [os.urandom(32) for _ in range(masks)]
        start = time.thread_time()
        for key in keys:
            Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update_into(self._zeros.data, self._room.data)
            np.add(self._sum, self._mask, out=self._sum)
        return time.thread_time() - start


class Primitives:
    """What any site computes for a neighbour beside its mask: one X25519 exchange and the derivations of keys."""

    def __init__(self) -> None:
        self._own, self._public = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key()
        self._secret, self._info, self._hash = os.urandom(32), os.urandom(120), SHA256()

    def seconds(self, neighbours: int) -> float:
        """Return the CPU seconds for so many neighbours."""
        start = time.thread_time()
        for _ in range(neighbours):
            self._own.exchange(self._public)
            for _ in range(DERIVATIONS):
                HKDF(self._hash, 32, self._secret, self._info).derive(self._secret)
        return time.thread_time() - start

    def tag_seconds(self, vector: NDArray[np.uint32]) -> float:
        """Return the CPU seconds of one GMAC over a vector."""
        start = time.thread_time()
        cipher = Cipher(algorithms.AES(self._secret), modes.GCM(bytes(12))).encryptor()
        cipher.authenticate_additional_data(vector.data.cast("B"))
        cipher.finalize()
        return time.thread_time() - start


def graphs(length: int) -> dict[str, SumConstants]:
    """Return the three consortia in which a site is measured."""
    return {
        "n16": silo_constants(16, length),
        "n64": silo_constants(64, length),
        "n1000_k48": circulant_constants(1000, length),
    }


def client_over_limit(options: Options) -> Iterator[Figure]:
    """Measure one site from R0 received to R4 sent, at one million values.

    Beside it, what no site saves: the exchanges, derivations and tag that the protocol prescribes, over the same limit.
    They depend on the processor alone, and what they leave of the bar is all that an implementation has.
    """
    primitives, vector = Primitives(), np.ones(MILLION, np.uint32)
    for name, constants in graphs(MILLION).items():
        site, limit, masks = OneSite(constants), Limit(MILLION), constants.neighbours + 1
        site.round()  # weights, decoders and buffers are made on first use
        limit.seconds(masks)
        ratios, prescribed = [], []
        for _ in range(options.repetitions(15)):
            total, least = site.round().total_s, limit.seconds(masks)
            ratios.append(total / least)
            prescribed.append((primitives.seconds(masks - 1) + primitives.tag_seconds(vector)) / least)
        bar = 1.25 if name == "n16" else 1.2
        show(f"{name}: exchanges, derivations and the tag alone cost {statistics.median(prescribed):.3f} of the limit")
        yield at_most(f"client_over_limit.{name}", statistics.median(ratios), bar, "x limit")


def client_small(options: Options) -> Iterator[Figure]:
    """Measure one site where keys and shares cost more than masks.

    Shown twice: in milliseconds, and over the same bar with its fixed allowance times how much slower X25519 and HKDF
    are here, measured between the rounds, than on the machine for which it was set.
    """
    primitives = Primitives()
    for length in (10_000, 100_000):
        for name, constants in graphs(length).items():
            site, limit, k = OneSite(constants), Limit(length), constants.neighbours
            site.round()
            ours, bars, ratios = [], [], []
            for _ in range(options.repetitions(15)):
                ours.append(site.round().total_s)
                masks, extra = 1.3 * limit.seconds(k + 1), EXTRA_PER_NEIGHBOUR_S * k + EXTRA_S
                slower = primitives.seconds(k) / (k * REFERENCE_S)
                bars.append(masks + extra)
                ratios.append(ours[-1] / (masks + slower * extra))
            value, bar, case = statistics.median(ours), statistics.median(bars), f"{name}.d{length // 1000}k"
            yield at_most(f"client_small.{case}", 1e3 * value, 1e3 * bar, "ms")
            yield at_most(f"client_small_scaled.{case}", statistics.median(ratios), 1, "x scaled bar")


def quantiser(options: Options) -> Iterator[Figure]:
    """Measure the quantiser beside the site: a clipped sum of one million float64.

    Shown twice: in milliseconds, which follow the machine, and against the float32 quantiser for which 1.5 ms was
    set as one and a half times its own.
    """
    random, scale = system_source(), 2.0**16
    vector = np.random.default_rng(1).standard_normal(MILLION)
    vector *= 0.9 * BOUND / scale / np.linalg.norm(vector)
    singles, ours, theirs = vector.astype(np.float32), [], []
    for _ in range(options.repetitions(25) + 1):
        start = time.thread_time()
        quantise(vector, scale, BOUND, random)
        middle = time.thread_time()
        _quantise_singles(singles, np.float32(scale))
        ours.append(middle - start)
        theirs.append(time.thread_time() - middle)
    show(f"quantiser: the float32 one took {1e3 * min(theirs):.2f} ms, ours {1e3 * min(ours):.2f} ms at the fastest")
    yield at_most("quantiser", 1e3 * statistics.median(ours[1:]), 1.5, "ms per 1M")
    yield at_most("quantiser_over_float32", min(ours) / min(theirs), 1.5, "x, minima")


def _quantise_singles(values: NDArray[np.float32], scale: np.float32) -> NDArray[np.int32]:
    """Clip, scale, dither and floor float32 in blocks, 16 bits of AES-CTR a value: what numpy does at the fastest.

    Neither exact nor checked: float32 has 24 bits, and NaN passes.
    """
    block = 1 << 16
    stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    zeros, drawn = bytes(2 * block), bytearray(2 * block + 15)
    scaled, dither, whole = np.empty(block, np.float32), np.empty(block, np.float32), np.empty(values.size, np.int32)
    for start in range(0, values.size, block):
        part = values[start : start + block]
        now, along = scaled[: part.size], dither[: part.size]
        stream.update_into(zeros, drawn)
        np.multiply(np.frombuffer(drawn, "<u2", part.size), np.float32(2.0**-16), out=along)
        np.clip(part, -BOUND / scale, BOUND / scale, out=now)
        now *= scale
        now += along
        np.floor(now, out=now)
        whole[start : start + part.size] = now
    return whole


def flower(options: Options) -> Iterator[Figure]:
    """Measure both with 64 sites, one million values, 10 % lost, one after the other."""
    clients, lost = 64, 6
    length = 100_000 if options.quick else MILLION
    python = python_of(options.flower, FLOWER)
    constants = silo_constants(clients, length)
    site, sites = OneSite(constants), ManySites(constants)
    exchanges = [site.round() for _ in range(options.repetitions(7) + 1)][1:]
    ours_s = statistics.median(exchange.total_s for exchange in exchanges)
    ours_bytes = exchanges[0].sent_bytes
    coordinator_s = sites.round(lost).total_cpu_s
    sparse = flower_round(python, clients=clients, shares=SPARSE_FLOWER, length=length, lost=lost)
    complete = flower_round(python, clients=clients, shares=clients, length=length, lost=lost)
    yield at_least("flower_client.equal_k", complete["client_cpu_s"] / ours_s, 10, "x ours, k = 63")
    yield at_least("flower_client.ours_complete", sparse["client_cpu_s"] / ours_s, 4, "x ours, k = 20")
    unmasking_s = sparse["server_cpu_s"]["unmask_stage"]
    yield at_least("flower_server.ours_complete", unmasking_s / coordinator_s, 10, "x ours, k = 20")
    complete_s = complete["server_cpu_s"]["unmask_stage"]
    yield at_least("flower_server.equal_k", complete_s / coordinator_s, 10, "x ours, k = 63")
    yield at_most("flower_bytes", ours_bytes / sparse["sent_bytes"], 0.55, "x Flower's")


def thousand_clients(options: Options) -> Iterator[Figure]:
    """Measure the coordinator of 1,000 sites, 100,000 values, 10 % lost."""
    n, length = (200, 10_000) if options.quick else (1000, 100_000)
    cost = ManySites(circulant_constants(n, length)).round(n // 10)
    yield at_most("thousand_clients", cost.total_cpu_s, 10, "CPU s")


def growth(options: Options) -> Iterator[Figure]:
    """Measure the coordinator from 200 to 10,000 sites: CPU for each pair of neighbours, and memory of unmasking.

    Seconds are means at every size: one long round averages what short ones only sample, so the short ones are many,
    half of them before the long ones and half after.
    """
    sizes, length = ((200, 1000) if options.quick else (200, 1000, 10_000)), 10_000
    several = {200: options.repetitions(20), 1000: options.repetitions(3)}
    costs: dict[int, list[Cost]] = {n: [] for n in sizes}
    for n in (*sizes, *sizes[-2::-1]):
        constants = circulant_constants(n, length)
        costs[n] += [ManySites(constants).round(n // 10) for _ in range(several.get(n, 1))]
    per_pair = []
    for n, rounds in costs.items():
        pairs = n * circulant_constants(n, length).neighbours
        per_pair.append(statistics.mean(cost.total_cpu_s for cost in rounds) / pairs)
        stages = ", ".join(
            f"{stage} {statistics.mean(cost.cpu_s[stage] for cost in rounds):.3f}" for stage in rounds[0].cpu_s
        )
        show(f"growth: n = {n}, k = {pairs // n}: {1e6 * per_pair[-1]:.1f} us of CPU for each pair; s: {stages}")
    yield at_most("growth.seconds", per_pair[-1] / per_pair[0], 1.1, f"x, {sizes[0]}-{sizes[-1]}")
    more_sites = sizes[-1] - sizes[-2]
    more_bytes = costs[sizes[-1]][0].unmasking_bytes - costs[sizes[-2]][0].unmasking_bytes
    yield at_most("growth.memory", more_bytes / more_sites, KEY_BYTES, f"B a site, {sizes[-2]}-{sizes[-1]}")


KEY_BYTES = 400  # Python's bytes for one rebuilt secret of 32, its key pair and its place; a vector has 40,000
PARTS: dict[str, Callable[[Options], Iterator[Figure]]] = {
    "client_over_limit": client_over_limit,
    "client_small": client_small,
    "quantiser": quantiser,
    "flower": flower,
    "thousand_clients": thousand_clients,
    "growth": growth,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report."""
    return run(__doc__, PARTS, lambda chosen: Options(chosen.quick, chosen.flower), arguments, flower=FLOWER_FOLDER)


if __name__ == "__main__":
    sys.exit(main())
