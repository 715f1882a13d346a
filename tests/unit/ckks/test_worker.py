"""The guarded worker: what it may take, what it inherits, and that its caller outlives it. Processes are real."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from secure_frl.ckks.envelopes import unpack_chunks
from secure_frl.ckks.requests import Op
from secure_frl.ckks.worker import Limits, Worker, limits_for
from secure_frl.encoding.slots import plan_chunks
from secure_frl.errors import CiphertextRefused, WorkerDied

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
ROOMY = Limits(address_bytes=1 << 30)


def of_process(worker: Worker, name: str) -> Path:
    return Path(f"/proc/{worker.process_id}") / name


@linux
def test_the_kernel_holds_the_limits_and_writes_no_file_or_core() -> None:
    plan = plan_chunks(sites=10, length=1000, modulus_bits=29)
    with Worker(limits_for(plan)) as worker:
        worker.ask(Op.CLEAR)
        found = {
            line[:26].strip(): line[26:].split()[:2] for line in of_process(worker, "limits").read_text().splitlines()
        }
    address = str(limits_for(plan).address_bytes)
    assert found["Max address space"] == [address, address]
    assert found["Max core file size"] == ["0", "0"]
    assert found["Max file size"] == ["0", "0"]
    assert int(found["Max cpu time"][0]) <= 8  # what it has used, rounded up, and five


@linux
def test_a_worker_inherits_no_environment_file_socket_or_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_CALLER", "canary")
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")
    import cryptography.hazmat.bindings._rust  # noqa: F401  # loaded here, so that the search below can find it

    with socket.socket() as held, (tmp_path / "ledger").open("w") as ledger, Worker(ROOMY) as worker:
        os.set_inheritable(held.fileno(), True)
        os.set_inheritable(ledger.fileno(), True)
        worker.ask(Op.CLEAR)
        files = sorted(os.readlink(link) for link in of_process(worker, "fd").iterdir())
        environment = of_process(worker, "environ").read_bytes()
        libraries = of_process(worker, "maps").read_text()
        command = of_process(worker, "cmdline").read_bytes().split(b"\0")

    assert [name for name in files if not name.startswith("pipe:") and name != "/dev/null"] == []
    assert b"-I" in command  # neither a user's packages nor the folder it stands in
    assert b"canary" not in environment
    assert b"PYTHON" not in environment
    assert "tenseal" in libraries
    assert "torch" not in libraries
    assert "_rust" not in libraries
    assert "_rust" in Path("/proc/self/maps").read_text()


def test_tenseal_is_never_loaded_where_the_worker_is_used() -> None:
    program = (
        "import sys\nfrom secure_frl.ckks import ciphertexts, encrypted_sum, keys, worker\n"
        "from secure_frl.ckks.requests import Op\n"
        "with worker.Worker(worker.Limits(1 << 30)) as it: it.ask(Op.MAKE_KEY)\n"
        "print([name for name in sys.modules if name.startswith(('tenseal', '_tenseal', 'torch'))])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_worker_that_is_killed_is_replaced_at_the_next_request() -> None:
    with Worker(ROOMY) as worker:
        worker.ask(Op.CLEAR)
        first = worker.process_id
        assert first is not None
        os.kill(first, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            worker.ask(Op.CLEAR)
        assert worker.holds is None
        assert worker.ask(Op.CLEAR) == b""

        assert worker.process_id not in (first, None)


def test_a_worker_that_hangs_is_ended_at_its_deadline() -> None:
    with Worker(Limits(1 << 30, wall_s=60.0)) as worker:
        worker.ask(Op.CLEAR)
        hung = worker.process_id
        assert hung is not None
        os.kill(hung, signal.SIGSTOP)
        worker._limits = Limits(1 << 30, wall_s=0.2)
        with pytest.raises(WorkerDied, match=r"within 0\.2 s"):
            worker.ask(Op.CLEAR)

    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)


def test_more_ciphertexts_than_the_address_space_holds_end_nothing_but_the_worker(bodies, small) -> None:
    """Where memory ends the library spins, so it is the limit on processor time that ends it."""
    chunk, taken = unpack_chunks(bodies[0], small)[0], 0

    def fill(worker: Worker) -> None:
        nonlocal taken
        while taken < 5000:  # 320 MiB decoded
            worker.ask(Op.STAGE, chunk)
            taken += 1

    with Worker(Limits(address_bytes=192 << 20, cpu_s=1)) as worker:
        with pytest.raises((CiphertextRefused, WorkerDied)):
            fill(worker)
        assert 0 < taken < 5000
        worker.close()

        assert worker.ask(Op.STAGE, chunk) == b""


def test_a_coordinators_worker_has_no_key_to_decrypt_with(bodies, small, coordinator_worker, site_worker) -> None:
    chunk = unpack_chunks(bodies[0], small)[0]

    with pytest.raises(CiphertextRefused):
        coordinator_worker.ask(Op.DECRYPT, chunk)
    assert len(site_worker.ask(Op.DECRYPT, chunk)) == 8 * 2048


def test_the_worker_itself_refuses_what_ends_the_library() -> None:
    """Behind the envelope a second line: a size and no ciphertext loads, and would end the process when it is added."""
    with Worker(ROOMY) as worker:
        worker.ask(Op.CLEAR)
        before = worker.process_id
        with pytest.raises(CiphertextRefused):
            worker.ask(Op.STAGE, bytes.fromhex("0a028010"))
        assert worker.ask(Op.COMMIT) == b""

        assert worker.process_id == before


def test_a_request_that_is_no_request_ends_the_worker_only() -> None:
    with Worker(ROOMY) as worker:
        for op, payload in ((Op.ENCRYPT, b"x"), (Op.SAVE, b"\xff\xff\xff\xff"), (Op.STAGE, bytes(1 << 19))):
            with pytest.raises(WorkerDied):
                worker.ask(op, payload)
        assert worker.ask(Op.CLEAR) == b""


def test_a_worker_shows_no_key(key) -> None:
    assert repr(key.context)[2:20] not in repr(Worker(ROOMY, key.context))
