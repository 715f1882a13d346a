"""Released policies on disk: safetensors for use, the model's exact bytes for proof, a description beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from secure_frl.errors import ConfigError
from secure_frl.federation.training_state import TrainingState
from secure_frl.files import write_durably
from secure_frl.learning.acting import Acting
from secure_frl.learning.forms import TABLE, PolicyForm, acting_of, policy_form
from secure_frl.learning.layout import LOGITS
from secure_frl.learning.networks import EMBEDDING, HEAD, MAP, Arrays, Network
from secure_frl.learning.settings import ICU_SEPSIS, STATE, public_table, setting_of
from secure_frl.learning.tabular import Choice
from secure_frl.masking.contexts import model_tag
from secure_frl.study import Study

FORMAT = "secure_frl/policy/v1"


@dataclass(frozen=True, slots=True, eq=False)
class ReleasedPolicy:
    """A policy as it acts. Research software: not for clinical decisions."""

    probabilities: NDArray[np.float64] | None  # [states, actions], rows sum to 1; None where it is no such table
    round: int
    charter_hash: str
    kind: str  # table | mlp | gru | lstm | random_features
    hidden: tuple[int, ...]
    choice: Choice  # how actions are chosen by their logits; `probabilities` has it in it
    arrays: Mapping[str, NDArray[np.float64]]  # parameters by name
    environment: str = ICU_SEPSIS  # under its name in a study
    observation: str = STATE  # state | features

    def acting(self) -> Acting:
        """Return the policy ready to be rolled out in its environment, or fed with observations by hand.

        Actions that are not allowed have probability 0: those outside the public table, or outside the mask that is
        handed to `act` with an observation. No environment is made.
        """
        admissible = public_table(self.environment, self.observation)
        return acting_of(self._network(), self.arrays, admissible, self.choice, masks_come=admissible is None)

    def _network(self) -> Network | None:
        """Return what the shapes of the parameters say."""
        if self.kind == TABLE:
            return None
        actions = self.arrays[f"{HEAD}.bias"].size
        if f"{EMBEDDING}.weight" in self.arrays:
            return Network(self.kind, self.hidden, self.arrays[f"{EMBEDDING}.weight"].shape[0], actions)
        if f"{MAP}.weight" in self.arrays:
            half, features = self.arrays[f"{MAP}.weight"].shape
            return Network(self.kind, (2 * half,), features, actions, embeds=False)
        width = self.arrays["layers.0.weight"].shape[1]
        return Network(self.kind, self.hidden, width, actions, embeds=False)


def write_policy(
    folder: Path, round_number: int, state: TrainingState, study: Study, session: bytes, keyed_tag: bytes = b""
) -> Path:
    """Write the policy that a round left and return the path of its safetensors file.

    keyed_tag: under which the coordinator's journal has it, where it cannot read policies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    form = policy_form(study)
    content = state.to_bytes()
    stem = f"round-{round_number:04d}"
    described = {"predecessor": state.predecessor.hex(), "policy_tag": model_tag(content).hex()}
    described |= {"keyed_tag": keyed_tag.hex()} if keyed_tag else {}
    choice = Choice(study.output.sharpen, form.acts_greedily)
    described = description(study, choice, round_number, session) | described
    path = folder / f"{stem}.safetensors"
    write_durably(path, policy_content(study, form, form.arrays(state.parameters), choice, described))
    write_durably(folder / f"{stem}.model", content)
    text = json.dumps(described | {"file": path.name, "model": f"{stem}.model"}, indent=1, sort_keys=True)
    write_durably(folder / "policy.json", (text + "\n").encode())
    return path


def description(study: Study, choice: Choice, round_number: int, session: bytes) -> dict[str, str]:
    """Return what a policy's file says of it."""
    return {
        "format": FORMAT,
        "round": str(round_number),
        "charter_hash": session.hex(),
        "kind": study.policy.kind,
        "hidden": json.dumps(list(study.policy.hidden)),
        "sharpen": repr(choice.sharpen),
        "acts": "greedily" if choice.is_greedy else "by chance",
        "environment": study.data.environment,
        "observation": study.data.observation,
        "use": "research only; not for clinical decisions",
    }


def policy_content(study: Study, form: PolicyForm, arrays: Arrays, choice: Choice, described: dict[str, str]) -> bytes:
    """Return a policy as safetensors; with how it acts in every state, where that is a table."""
    tensors = {"logits": arrays[LOGITS]} if form.network is None else dict(arrays)
    setting = setting_of(study)
    if not form.has_memory and setting.shown is not None and setting.shown_allowed is not None:
        known = form.probabilities_of(arrays, setting.shown, setting.shown_allowed, choice)
        tensors = {"probabilities": known, **tensors}
    return save_tensors(tensors, metadata=described)


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
        tensors = {name: array.astype(np.float64) for name, array in load_tensors(content).items()}
        if "logits" in tensors:
            tensors[LOGITS] = tensors.pop("logits")
        choice = Choice(float(header.get("sharpen", "1")), header.get("acts") == "greedily")
        return ReleasedPolicy(
            probabilities=tensors.pop("probabilities", None),
            round=int(header["round"]),
            charter_hash=str(header["charter_hash"]),
            kind=str(header.get("kind", TABLE)),
            hidden=tuple(json.loads(header.get("hidden", "[]"))),
            choice=choice,
            arrays=tensors,
            environment=str(header.get("environment", ICU_SEPSIS)),
            observation=str(header.get("observation", STATE)),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"expected a released policy at {path}, found none of format {FORMAT}. Check the path."
        ) from error
