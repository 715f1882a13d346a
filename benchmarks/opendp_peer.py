"""Draws a second of opendp's discrete Gaussian; prints one JSON object.

Runs in an environment of its own with opendp, and imports nothing of ours. CPU seconds, one thread.
"""

from __future__ import annotations

import argparse
import json
import time

import opendp.prelude as opendp


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--deviation", type=int, required=True)
    parser.add_argument("--draws", type=int, required=True)
    chosen = parser.parse_args()
    opendp.enable_features("contrib")
    space = opendp.vector_domain(opendp.atom_domain(T=int)), opendp.l2_distance(T=float)
    mechanism = opendp.m.make_gaussian(*space, scale=float(chosen.deviation))
    zeros = [0] * chosen.draws
    mechanism(zeros[:100])
    start = time.thread_time()
    values = mechanism(zeros)
    spent_s = time.thread_time() - start
    second_moment = sum(value * value for value in values) / len(values)
    print(json.dumps({"per_s": chosen.draws / spent_s, "deviation": second_moment**0.5}))


if __name__ == "__main__":
    main()
