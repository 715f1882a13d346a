"""Released policies on disk: safetensors for use, the model's exact bytes for proof, a description beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from secure_frl.errors import ConfigError
from secure_frl.federation.training_state import TrainingState
from secure_frl.files import write_durably
from secure_frl.learning.environments.icu_sepsis import LIVE_STATES, admissible_actions
from secure_frl.learning.layout import LOGITS, table_layout
from secure_frl.learning.tabular import action_probabilities, spread_logits
from secure_frl.masking.contexts import model_tag
from secure_frl.study import Study

FORMAT = "secure_frl/policy/v1"


@dataclass(frozen=True, slots=True, eq=False)
class ReleasedPolicy:
    """A policy as it acts. Research software: not for clinical decisions."""

    probabilities: NDArray[np.float64]  # [states, actions], rows sum to 1; inadmissible actions have 0
    round: int
    charter_hash: str


def write_policy(folder: Path, round_number: int, state: TrainingState, study: Study, session: bytes) -> Path:
    """Write the policy that a round left and return the path of its safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    admissible = admissible_actions()
    segments = table_layout(admissible[:LIVE_STATES], study.policy.critic).segments
    coordinates = next(segment.coordinates for segment in segments if segment.parameter == LOGITS)
    logits = spread_logits(state.logits, coordinates, (admissible.shape[0], admissible.shape[1]))
    probabilities = action_probabilities(logits, admissible, study.output.sharpen)
    content = state.to_bytes()
    stem = f"round-{round_number:04d}"
    described = {
        "format": FORMAT,
        "round": str(round_number),
        "predecessor": state.predecessor.hex(),
        "charter_hash": session.hex(),
        "policy_tag": model_tag(content).hex(),
        "use": "research only; not for clinical decisions",
    }
    path = folder / f"{stem}.safetensors"
    write_durably(path, save_tensors({"probabilities": probabilities, "logits": logits}, metadata=described))
    write_durably(folder / f"{stem}.model", content)
    text = json.dumps(described | {"file": path.name, "model": f"{stem}.model"}, indent=1, sort_keys=True)
    write_durably(folder / "policy.json", (text + "\n").encode())
    return path


def load_policy(path: Path) -> ReleasedPolicy:
    """Read a released policy: a safetensors file, or a run folder whose last policy is wanted.

    Raises ConfigError when there is none, or the file is not one of ours.
    """
    try:
        if path.is_dir():
            described = json.loads((path / "policies" / "policy.json").read_text(encoding="utf-8"))
            path = path / "policies" / Path(str(described["file"])).name
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        if header["format"] != FORMAT:
            raise ValueError("format")
        probabilities = load_tensors(content)["probabilities"]
        return ReleasedPolicy(probabilities.astype(np.float64), int(header["round"]), str(header["charter_hash"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"expected a released policy at {path}, found none of format {FORMAT}. Check the path."
        ) from error
