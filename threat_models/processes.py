"""The processes that run tasks: forked from one server that has imported everything once, with one thread each.

Importing torch takes seconds, so a command starts the server first: it imports while the command itself does. Numerical
libraries take as many threads as there are cores, in each process, and spend more on waiting than they gain.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, get_context

_IMPORTED = ["threat_models.evaluations", "torch._dynamo"]  # torch's optimisers import the second when first made
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # read when a library is loaded


def start_server() -> None:
    """Start the server, and don't wait for it; a second call does nothing."""
    forkserver.set_forkserver_preload(_IMPORTED)
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def pool(jobs: int) -> ProcessPoolExecutor:
    """Return so many processes."""
    start_server()
    return ProcessPoolExecutor(jobs, mp_context=get_context("forkserver"), initializer=_one_thread)


def _one_thread() -> None:
    import torch  # where the server is older than this program, it knows nothing of its variables

    torch.set_num_threads(1)
