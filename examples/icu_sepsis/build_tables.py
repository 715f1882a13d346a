"""Rebuild the compact ICU-Sepsis tables from the published package `icu-sepsis` 2.0.1 (MIT).

    python examples/icu_sepsis/build_tables.py WHEEL_OR_FOLDER [OUTPUT]

WHEEL_OR_FOLDER is the wheel as published, or a folder that holds dynamics.npz and admissible_actions.txt. Both
files are checked against their sha256 before they are read. The output has the same bytes on every machine: arrays
are stored uncompressed, with fixed names, order and dates.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DYNAMICS_SHA256 = "36498f924c693c6be7ae18f3ce9e1a8e48d41f80f2cc553b3993b1373c8a9109"
ACTIONS_SHA256 = "607f4e1eeee4f33a2124fb4a1beefd82fc264a3b608d41d13f810166aa203165"
ASSETS = "icu_sepsis/envs/assets"
STATES, ACTIONS, LIVE_STATES = 716, 25, 713
OUTPUT = Path(__file__).resolve().parents[2] / "secure_frl/learning/environments/data/icu_sepsis.npz"


def read_published(source: Path) -> tuple[bytes, bytes]:
    """Return the bytes of dynamics.npz and admissible_actions.txt, both checked."""
    names = ("dynamics.npz", "admissible_actions.txt")
    if source.is_file():
        with zipfile.ZipFile(source) as wheel:
            dynamics, actions = (wheel.read(f"{ASSETS}/{name}") for name in names)
    else:
        folder = source / ASSETS if (source / ASSETS).is_dir() else source
        dynamics, actions = ((folder / name).read_bytes() for name in names)
    for name, content, expected in zip(names, (dynamics, actions), (DYNAMICS_SHA256, ACTIONS_SHA256), strict=True):
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            sys.exit(f"{name} has sha256 {found}, not {expected}. Use the wheel of icu-sepsis 2.0.1.")
    return dynamics, actions


def compact(dynamics: bytes, actions: bytes) -> dict[str, NDArray[np.generic]]:
    """Keep the non-zeros of the rows of admissible actions in live states; all other rows follow from these."""
    lines = actions.decode("ascii").split("\n")
    admissible = np.zeros((STATES, ACTIONS), dtype=np.bool_)
    for state in range(STATES):
        admissible[state, [int(word) for word in lines[1 + state].split()]] = True
    with np.load(io.BytesIO(dynamics), allow_pickle=False) as published:
        rows = published["tx_mat"][:LIVE_STATES][admissible[:LIVE_STATES]]
        expert = published["expert_policy"].astype(np.float64)
        initial = published["d_0"].astype(np.float64)
        sofa = published["sofa_scores"].astype(np.float64)
        features = published["state_cluster_centers"].astype(np.float32)
    pair, target = np.nonzero(rows)
    starts = np.searchsorted(pair, np.arange(rows.shape[0] + 1))
    # The three terminal states have no expert: every action, each as likely, so that each row sums to 1.
    silent = expert.sum(axis=1) < 0.5
    expert[silent] = admissible[silent] / admissible[silent].sum(axis=1, keepdims=True)
    return {
        "admissible": admissible,
        "row_starts": starts.astype("<i4"),
        "next_states": target.astype("<i2"),
        "probabilities": rows[pair, target].astype("<f8"),
        "initial": initial.astype("<f8"),
        "expert": expert.astype("<f8"),
        "sofa": sofa.astype("<f8"),
        "features": features.astype("<f4"),
    }


def write(tables: dict[str, NDArray[np.generic]], output: Path) -> str:
    """Write the arrays as a zip without compression and with fixed dates; return the file's sha256."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in tables.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # the same on every operating system
            archive.writestr(entry, content.getvalue())
    output.write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def main() -> None:
    """Read the command line, build, and print the digest that icu_sepsis.py expects."""
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    output = Path(sys.argv[2]) if len(sys.argv) == 3 else OUTPUT
    digest = write(compact(*read_published(Path(sys.argv[1]))), output)
    print(f"{output.name}: {output.stat().st_size} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
