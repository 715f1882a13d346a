"""What an encrypted sum costs: beside NVFlare's published parameters, for a hundred sites, in a whole study.

    python benchmarks/encrypted_sum.py [--json] [--quick] [--only NAME,...]

Both sides encrypt the same number of values and turn them into bytes, one after the other in one run; a figure is the
ratio of the fastest of each, so that a busy moment counts for neither. Processor seconds of this process and the worker
together. Ours is what a site does: words to limbs and slots, through the pipes of the guarded worker, back as a body.
NVFlare's side is TenSEAL in process with the defaults of its provisioning (`nvflare.lighter.impl.he.HEBuilder`: degree
8192, primes of 60, 40 and 40 bits, scale 2^40, a symmetric context), one vector as its filter makes it. `public_key` is
the same under a public key, which is what these parameters cost where the sender has no secret key; it has no bar.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

import numpy as np
import tenseal
from figures import Figure, at_least, at_most, run, show

from secure_frl.ckks.ciphertexts import encrypt, open_sum
from secure_frl.ckks.encrypted_sum import EncryptedSum
from secure_frl.ckks.keys import EpochKey, make_key
from secure_frl.ckks.requests import Op
from secure_frl.ckks.worker import Worker, limits_for
from secure_frl.encoding.slots import ChunkPlan, plan_chunks
from secure_frl.secure_sum import SiteId

ROOT = Path(__file__).resolve().parents[1]
MILLION = 1_000_000
LIMB_BITS = 26  # the widest ring that is one limb at a hundred sites
SITES = 100
KEY_ID = bytes(32)


@dataclass(frozen=True)
class Options:
    """How much to run."""

    quick: bool

    @property
    def values(self) -> int:
        """Return the length of every vector."""
        return 20_000 if self.quick else MILLION

    @property
    def sites(self) -> int:
        """Return how many are summed."""
        return 5 if self.quick else SITES

    @property
    def repetitions(self) -> int:
        """Return how often each side encrypts."""
        return 3 if self.quick else 7


def nvflare_context(*, symmetric: bool) -> tenseal.Context:
    """Return a context with the defaults of NVFlare's provisioning; one thread, as ours."""
    kind = tenseal.ENCRYPTION_TYPE.SYMMETRIC if symmetric else tenseal.ENCRYPTION_TYPE.ASYMMETRIC
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40], n_threads=1, encryption_type=kind
    )
    context.global_scale = 2.0**40
    return context


def new_key(plan: ChunkPlan) -> EpochKey:
    """Return a key as a steward makes it."""
    with Worker(limits_for(plan)) as steward:
        return make_key(steward, bytes(32))


def against_nvflare(options: Options) -> Iterator[Figure]:
    """Encrypt the same number of values in turns."""
    plan = plan_chunks(sites=SITES, length=options.values, modulus_bits=LIMB_BITS)
    random = np.random.default_rng(1)
    words = random.integers(0, 1 << LIMB_BITS, plan.words, np.uint64).astype(np.uint32)
    values = random.normal(0, 0.1, options.values)
    with Worker(limits_for(plan), new_key(plan).context) as site:
        contexts = {name: nvflare_context(symmetric=name == "symmetric") for name in ("symmetric", "public_key")}
        sides: dict[str, Callable[[], bytes]] = {"ours": lambda: encrypt(words, plan, site)}
        for name, context in contexts.items():
            sides[name] = lambda context=context: tenseal.ckks_vector(context, values).serialize()  # type: ignore[misc]
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        sizes = {name: len(side()) for name, side in sides.items()}  # weights, pools and pipes are made on first use
        for _ in range(options.repetitions):
            for name, side in sides.items():
                start = processor_s(site)
                side()
                seconds[name].append(processor_s(site) - start)
    for name, spent in seconds.items():
        show(f"  {name}: {min(spent):.3f} s, median {statistics.median(spent):.3f} s, {sizes[name]} bytes")
    ours = min(seconds["ours"])
    yield at_least("encrypt_speedup", min(seconds["symmetric"]) / ours, 1.2, "x NVFlare")
    yield at_least("encrypt_speedup.public_key", min(seconds["public_key"]) / ours, 0, "x NVFlare")
    yield at_most("bytes_ratio", sizes["ours"] / sizes["symmetric"], 0.55, "x NVFlare")


def hundred_sites(options: Options) -> Iterator[Figure]:
    """Sum vectors of as many sites, each its own, and open the sum; memory as multiples of one contribution."""
    plan = plan_chunks(sites=SITES, length=options.values, modulus_bits=LIMB_BITS)
    random = np.random.default_rng(2)
    expected, adding, largest, held = np.zeros(plan.words, np.uint64), [], 0, 0
    tracemalloc.start()
    with Worker(limits_for(plan), new_key(plan).context) as site, Worker(limits_for(plan)) as worker:
        worker.ask(Op.CLEAR)
        empty = resident_peak_bytes(worker)
        total = EncryptedSum(plan, KEY_ID, worker)
        for number in range(options.sites):
            words = random.integers(0, 1 << LIMB_BITS, plan.words, np.uint64)
            expected += words
            body = encrypt(words.astype(np.uint32), plan, site)
            largest = max(largest, len(body))
            tracemalloc.reset_peak()
            start = time.perf_counter()
            total.add(SiteId(number), KEY_ID, body)
            adding.append(time.perf_counter() - start)
            held = max(held, tracemalloc.get_traced_memory()[1] - words.nbytes - expected.nbytes)
        opened = open_sum(total.body, plan, options.sites, site)
        decoded = resident_peak_bytes(worker) - empty
    tracemalloc.stop()
    wrong = int(np.count_nonzero(opened != expected & np.uint64((1 << LIMB_BITS) - 1)))
    show(f"  {options.sites} sites of {options.values} values: {statistics.median(adding):.3f} s a contribution")
    yield at_most("wrong_values", wrong, 0, "of the sum")
    yield at_most("bytes_per_value_and_limb", largest / plan.words / len(plan.limb_widths), 31, "bytes")
    yield at_most("coordinator_vectors", held / largest, 4, "x contribution")
    yield at_most("worker_vectors", decoded / largest, 4, "x contribution")


def studies(options: Options) -> Iterator[Figure]:
    """Run a whole study under each protection, as a user does; the seconds that its summary states."""
    study = ROOT / ("tests/studies/tiny.toml" if options.quick else "examples/icu_sepsis/study.toml")
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for protection in ("masking", "ckks", "ckks+masking"):
            command = [sys.executable, "-m", "secure_frl", "run", str(study), "--json", "--protection", protection]
            ended = subprocess.run(  # noqa: S603  # our own program
                [*command, "--out", f"{folder}/{protection}"], cwd=ROOT, capture_output=True, check=True, text=True
            )
            seconds[protection] = float(json.loads(ended.stdout.splitlines()[-1])["seconds"])
            show(f"  {protection}: {seconds[protection]:.1f} s")
    yield at_most("study_over_masking.ckks", seconds["ckks"] / seconds["masking"], 3, "x masking")
    yield at_most("study_over_masking.ckks+masking", seconds["ckks+masking"] / seconds["masking"], 3, "x masking")


def processor_s(worker: Worker) -> float:
    """Return the processor seconds of this process and a worker so far, all threads; on the clock without /proc."""
    threads = Path(f"/proc/{worker.process_id}/task")
    if not threads.exists():
        return time.perf_counter()
    spent_ns = (int((thread / "schedstat").read_text().split()[0]) for thread in threads.iterdir())
    return time.process_time() + sum(spent_ns) / 1e9


def resident_peak_bytes(worker: Worker) -> int:
    """Return the most memory that a worker has held, 0 where there is no /proc."""
    status = Path(f"/proc/{worker.process_id}/status")
    return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0]) if status.exists() else 0


PARTS: dict[str, Callable[[Options], Iterator[Figure]]] = {
    "against_nvflare": against_nvflare,
    "hundred_sites": hundred_sites,
    "studies": studies,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report."""
    return run(__doc__, PARTS, lambda chosen: Options(chosen.quick), arguments)


if __name__ == "__main__":
    sys.exit(main())
