"""Write made-up steps tables of ten hospitals, whose stays were treated as clinicians would or at random.

    python examples/logged_icu/make_data.py --out data/logged_icu --patients 10000 --behaviour clinicians

One Parquet file a site, `site-01.parquet` to `site-10.parquet`, marked as made-up. The format stands in
`secure_frl/learning/steps_table.py`; a hospital writes the same columns from its own records. With --shift the
hospitals differ as they do in a simulated study of the same seed: --shift practice_effect --strength 0.1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secure_frl.learning.environments.icu_sepsis import admissible_actions, load_tables
from secure_frl.learning.environments.site_shift import KINDS, ShiftedIcuSepsis, dynamics_at
from secure_frl.learning.rollout import roll_out_table
from secure_frl.learning.steps_table import SUFFIX, write_steps


def behaviour_policy(name: str) -> NDArray[np.float64]:
    """Return how stays are treated, float64 [716, 25]: admissible actions only.

    clinicians: the published policy of clinicians, restricted to admissible actions. uniform: any of these.
    """
    admissible = admissible_actions().astype(np.float64)
    chosen = admissible * load_tables().expert if name == "clinicians" else admissible
    chosen = np.where(chosen.sum(axis=1, keepdims=True) > 0, chosen, admissible)
    return np.asarray(chosen / chosen.sum(axis=1, keepdims=True), dtype=np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/logged_icu"), help="folder to make; must not exist")
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--patients", type=int, default=10_000, help="a site, one stay each")
    parser.add_argument("--behaviour", choices=("clinicians", "uniform"), default="clinicians")
    parser.add_argument("--max-steps", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shift", choices=KINDS, default="none", help="how the hospitals differ")
    parser.add_argument("--strength", type=float, default=0.0, help="as data.site_shift of a study has it")
    chosen = parser.parse_args()
    if chosen.out.exists():
        parser.error(f"{chosen.out} exists: take it away, or choose another --out")
    chosen.out.mkdir(parents=True)
    policy = behaviour_policy(chosen.behaviour)
    for number in range(1, chosen.sites + 1):
        hospital = dynamics_at(chosen.shift, chosen.strength, chosen.seed, number - 1)
        environment = ShiftedIcuSepsis(chosen.patients, chosen.max_steps, hospital)
        names = np.arange(chosen.patients, dtype=np.uint64)
        stays = roll_out_table(policy, environment, np.random.default_rng([chosen.seed, number]), names)
        path = chosen.out / f"site-{number:02d}{SUFFIX}"
        write_steps(path, stays, [f"patient-{name}" for name in names], is_simulated=True)
        print(f"{path}: {chosen.patients} stays, {int(stays.lengths.sum())} steps")


if __name__ == "__main__":
    main()
