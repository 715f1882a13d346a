"""One round of Flower's SecAgg+ in this process, its own code timed call by call; prints one JSON object.

Runs in an environment of its own with flwr 1.41.0 and NumPy, and imports nothing of ours. The client's mod and the
server's workflow are the library's; what stands between them here only hands messages over, so no network, process or
serialisation is in the figures. CPU seconds, one thread.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", FLWR_TELEMETRY_ENABLED="0")

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import flwr
import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common import recorddict_compat
from flwr.server import LegacyContext, ServerConfig
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.supercore.task_identity import TaskIdentity

MASKED_VECTORS = 2  # the third of four exchanges
EXAMPLES = 10  # every client's weight


def payload_bytes(content: RecordDict) -> int:
    """Return the bytes of all values, without any framing: no less could be sent."""

    def size(value: Any) -> int:
        if isinstance(value, list):
            return sum(size(one) for one in value)
        return len(value) if isinstance(value, bytes | str) else 8

    records = sum(size(value) for record in content.config_records.values() for value in record.values())
    return records + sum(len(array.data) for record in content.array_records.values() for array in record.values())


class Wire:
    """Hands each message to the library's client at once and times it; the lost answer everything but the vector."""

    def __init__(self, vectors: dict[int, Any], lost: set[int]) -> None:
        self.vectors, self.lost = vectors, lost
        self.contexts = {node: new_context(node) for node in vectors}
        self.cpu_s = dict.fromkeys(vectors, 0.0)
        self.sent_bytes = dict.fromkeys(vectors, 0)
        self.exchanges = 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """One exchange with every client that is still there."""
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            if self.exchanges != MASKED_VECTORS or node not in self.lost:
                replies.append(self._ask(node, message))
        self.exchanges += 1
        return replies

    def _ask(self, node: int, message: Message) -> Message:
        # The workflow gives one content to many messages, and a client writes into it.
        records = {
            name: ConfigRecord(dict(record)) if isinstance(record, ConfigRecord) else record
            for name, record in message.content.items()
        }
        own = Message(RecordDict(records), node, message.metadata.message_type)

        def fit(request: Message, context: Context) -> Message:
            result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([self.vectors[node]]), EXAMPLES, {})
            return Message(recorddict_compat.fitres_to_recorddict(result, False), reply_to=request)

        start = time.process_time()
        reply = secaggplus_mod(own, self.contexts[node], fit)
        self.cpu_s[node] += time.process_time() - start
        self.sent_bytes[node] += payload_bytes(reply.content)
        reply.metadata._src_node_id = node
        return reply


class EveryClient:
    """A strategy and a client manager at once: asks every client, keeps the mean."""

    def __init__(self, nodes: Iterable[int]) -> None:
        self.proxies = [SimpleNamespace(node_id=node, cid=str(node)) for node in nodes]
        self.start = ndarrays_to_parameters([np.zeros(1)])
        self.mean: Any = None

    def num_available(self) -> int:
        """Return the number of clients."""
        return len(self.proxies)

    def configure_fit(self, *_: Any) -> list[Any]:
        """Return one request a client."""
        return [(proxy, FitIns(self.start, {})) for proxy in self.proxies]

    def aggregate_fit(self, number: int, results: list[Any], failures: list[Any]) -> tuple[None, dict[str, Any]]:
        """Keep what came out."""
        self.mean = parameters_to_ndarrays(results[0][1].parameters)[0] if results else None
        return None, {}


def new_context(node: int) -> Context:
    """Return an empty state for one party."""
    return Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})


def timed(stage: Callable[..., bool], wire: Wire, spent: dict[str, float]) -> Callable[..., bool]:
    """Wrap one of the workflow's stages: CPU seconds of the server alone."""

    def run(*arguments: Any) -> bool:
        at_clients, start = sum(wire.cpu_s.values()), time.process_time()
        goes_on = stage(*arguments)
        clients_s = sum(wire.cpu_s.values()) - at_clients
        spent[stage.__name__] = time.process_time() - start - clients_s
        return goes_on

    return run


def one_round(clients: int, shares: int, length: int, lost: int, seed: int) -> dict[str, Any]:
    """Run a round with `lost` clients silent from the masked vectors on. shares: neighbours + 1; `clients` is all."""
    generator = np.random.default_rng(seed)
    nodes = [int(node) + 1 for node in generator.choice(2**40, clients, replace=False)]
    vectors = {node: 0.1 * generator.standard_normal(length, dtype=np.float32) for node in nodes}
    gone = set(nodes[:lost])
    wire, strategy, spent = Wire(vectors, gone), EveryClient(nodes), dict[str, float]()
    context = LegacyContext(new_context(1), ServerConfig(num_rounds=1), strategy, strategy)
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    context.state.array_records[MAIN_PARAMS_RECORD] = recorddict_compat.parameters_to_arrayrecord(strategy.start, True)
    workflow = SecAggPlusWorkflow(1.0 if shares == clients else shares, 2 * shares // 3 + 1, max_weight=float(EXAMPLES))
    for name in ("setup_stage", "share_keys_stage", "collect_masked_vectors_stage", "unmask_stage"):
        setattr(workflow, name, timed(getattr(workflow, name), wire, spent))
    workflow(wire, context)
    there = [node for node in nodes if node not in gone]
    expected = np.mean([vectors[node] for node in there], axis=0)
    return {
        "flwr": flwr.__version__,
        "client_cpu_s": float(np.mean([wire.cpu_s[node] for node in there])),
        "server_cpu_s": spent,
        "sent_bytes": float(np.mean([wire.sent_bytes[node] for node in there])),
        "worst_error": None if strategy.mean is None else float(np.abs(strategy.mean - expected).max()),
    }


def main() -> None:
    """Read the sizes, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("clients", 64), ("shares", 64), ("length", 1_000_000), ("lost", 6), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    logging.getLogger("flwr").setLevel(logging.ERROR)
    print(json.dumps(one_round(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
