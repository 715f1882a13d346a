"""The share of the decoders' and state machines' branches that schedules and mutations reach, on demand.

What no message can reach is left out by name and reason; unit tests cover it. What stays unreached is printed.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from random import Random

import pytest
from branch_trace import BranchTrace
from ciphertext_mutations import BlindBench, BlindScore
from ciphertext_trace import traced_workers
from fault_mutations import Bench, run_mutations
from fault_runner import SPARSE, run_schedules
from fault_world import remembered_signatures
from fuzz_machines import Target
from mutation_judge import Score, changed_bytes

LEAST = 0.95
SCHEDULES, MESSAGES, SPARSE_SCHEDULES, SPARSE_WORLDS = 1_500, 20_000, 12, 2
MODULES = (
    "wire.canonical",
    "wire.envelope",
    "wire.hashing",
    "wire.messages",
    "wire.records",
    "wire.registry",
    "wire.signatures",
    "masking.contexts",
    "masking.coordinator_epoch",
    "masking.coordinator_memory",
    "masking.coordinator_requests",
    "masking.coordinator_stages",
    "masking.coordinator_states",
    "masking.correspondence",
    "masking.graph",
    "masking.keys",
    "masking.neighbourhoods",
    "masking.refusals",
    "masking.secret_sharing",
    "masking.site_attempt",
    "masking.site_epoch",
    "masking.site_memory",
    "masking.site_shares",
    "masking.site_states",
    "masking.site_sum",
    "masking.unmasking",
)
NO_MESSAGE_REACHES = {  # function -> reason
    "CoordinatorEpoch.begin_attempt": "arguments of its own caller",
    "EpochOpening.__init__": "arguments of its own caller",
    "SumMachine.__init__": "arguments of its own caller",
    "SiteProtocol.__init__": "arguments of its own caller",
    "Channels.advance_to": "the number of a round that its caller has compared already",
    "check_constants": "the charter, before any message: schedules have sound ones only",
    "_profile_rules": "the charter, before any message: schedules have sound ones only",
    "is_enrolled": "the charter, before any message: schedules have sound ones only",
    "sizes_of": "the charter's protection, before any message",
    "hex_bytes": "files of keys and journals: no message has hexadecimal text",
    "_encode": "types of the code's own fields, which are fixed where it hashes",
    "_cores": "cores of the machine",
    "_draws": "a word of the graph's stream that is skipped once in 10^4 cohorts of 1,000",
    "_logarithms": "a table, built once",
    "_uniform": "a word of the random source that is skipped",
    "add_in_parallel_": "cores of the machine",
    "split": "arguments of its own caller",
}

BLIND_WORLDS, BLIND_PER_STAGE = 32, 12
BLIND_MODULES = (
    "ckks.ciphertexts",
    "ckks.coordinator_epoch",
    "ckks.coordinator_states",
    "ckks.encrypted_sum",
    "ckks.envelopes",
    "ckks.epoch_cipher",
    "ckks.keys",
    "ckks.lattice",
    "ckks.policies",
    "ckks.site_epoch",
    "ckks.site_states",
    "ckks.worker",
    "encoding.slots",
)
NO_MESSAGE_REACHES_OF_CIPHERTEXTS = {
    "BlindEpochOpening._begin_stage": "called with letters only: a guard for the type checker",
    "BlindEpochOpening._request": "the stage of its own caller, which asks in two of them; else a guard",
    "BlindEpochOpening.requests": "the stage of its own caller; else a guard for the type checker",
    "ChunkPlan.__post_init__": "the charter, before any message: schedules have sound ones only",
    "CkksMaskedSum.<dictcomp>": "a table, built once",
    "CkksSum.outcome": "a sum of its own making, which is encrypted",
    "EncryptedSum.body": "a sum of its own caller, who has closed a stage with contributors",
    "Worker.close": "the pipes of its own process, which has both",
    "_check_words": "arguments of its own caller: the site's vector",
    "_read": "pieces in which a pipe hands over what the near end framed, and its end",
    "_table": "a table, built once",
    "encrypted_of": "arguments of its own caller, who begins an attempt with a sum",
    "main": "how the near end frames a request, and pieces in which a pipe takes the reply",
    "plan_chunks": "the charter, before any message: schedules have sound ones only",
}


def trace() -> tuple[BranchTrace, list[str]]:
    """Everything that the campaigns do, in little, under the tracer; with what it found wrong."""
    modules = [importlib.import_module(f"secure_frl.{name}") for name in MODULES]
    traced, sparse = BranchTrace(modules, frozenset(NO_MESSAGE_REACHES)), Score()
    with traced.tracing():
        wrong = run_schedules(1, SCHEDULES).violations + run_mutations(1, MESSAGES).failures
        wrong += run_schedules(1, SPARSE_SCHEDULES, SPARSE).violations
        with remembered_signatures():
            for seed in range(SPARSE_WORLDS):
                Bench(seed, sparse, shape=SPARSE).run()
        target, random = Target(), Random(1)
        for _, data in target.corpus():
            target(data)
            target(data[:2] + changed_bytes(random, data[2:] or b"\x00"))
    return traced, wrong + sparse.failures


def trace_blind(page: Path) -> tuple[BranchTrace, list[str]]:
    """The same of encrypted sums, inside their workers too; half of the worlds on a machine that names its libraries.

    page: a new file.
    """
    modules = [importlib.import_module(f"secure_frl.{name}") for name in BLIND_MODULES]
    traced, score = BranchTrace(modules, frozenset(NO_MESSAGE_REACHES_OF_CIPHERTEXTS)), BlindScore()
    with traced_workers(traced, page), traced.tracing(), remembered_signatures():
        for seed in range(BLIND_WORLDS):
            with pytest.MonkeyPatch.context() as patch:
                patch.delenv("LD_LIBRARY_PATH", raising=False)
                if seed % 2:
                    patch.setenv("LD_LIBRARY_PATH", "")
                BlindBench(seed, score, BLIND_PER_STAGE).run()
    return traced, score.failures


@pytest.mark.campaign
def test_mutations_of_encrypted_sums_reach_nearly_every_branch(tmp_path: Path) -> None:
    traced, wrong = trace_blind(tmp_path / "ways")

    unreached, total = traced.unreached(), traced.total()
    share = 1 - len(unreached) / total
    print(f"{share:.1%} of {total} branches of encrypted sums reached; not:", *unreached, sep="\n  ")
    assert wrong == []
    assert share >= LEAST


@pytest.mark.campaign
def test_schedules_and_mutations_reach_nearly_every_branch() -> None:
    traced, wrong = trace()

    unreached, total = traced.unreached(), traced.total()
    share = 1 - len(unreached) / total
    print(f"{share:.1%} of {total} branches reached; not:", *unreached, sep="\n  ")
    assert wrong == []
    assert share >= LEAST


@pytest.mark.parametrize(
    ("names", "left_out"),
    [(MODULES, NO_MESSAGE_REACHES), (BLIND_MODULES, NO_MESSAGE_REACHES_OF_CIPHERTEXTS)],
)
def test_every_function_that_is_left_out_exists(names: tuple[str, ...], left_out: dict[str, str]) -> None:
    traced = BranchTrace([importlib.import_module(f"secure_frl.{name}") for name in names])

    assert set(left_out) - {code.co_qualname.split(".<locals>")[0] for code in traced.jumps} == set()


def test_control_a_branch_that_is_not_taken_is_listed() -> None:
    module = importlib.import_module("secure_frl.wire.envelope")
    traced = BranchTrace([module])
    with traced.tracing(), pytest.raises(Exception, match="at least 152 bytes"):
        module.read_header(b"short")

    missing = [function for _, function, _, _ in traced.unreached()]

    assert missing.count("read_header") == 5  # of six ways: the first check failed, the two behind it were not met
