"""Ciphertexts of two messages under one key, told apart by their bytes or not; the control reads the messages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from secure_frl.ckks.requests import Op
from secure_frl.ckks.worker import Limits, Worker
from secure_frl.encoding.slots import SLOTS
from secure_frl.study import Study
from secure_frl.wire.capture import Captured
from threat_models.adversaries.ciphertext_bytes import THREAT, ByteClassifier
from threat_models.evaluation import Effort, Task
from threat_models.results import Bar, Cell, Kind
from threat_models.statistics import auc, auc_interval
from threat_models.threat import CapturedView, View

PLAIN, COLUMN = "unsafe-plain", "ckks"
BATCH = 100
LEARNING = 4  # one ciphertext in so many, beside those that are told apart, teaches the classifier
NOTE = "Sanity, not evidence: what keeps ciphertexts apart from their messages is the lattice problem behind CKKS."


class CiphertextBytesEvaluation:
    """The coordinator without a key."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study: it always does, for nothing of a study is in it."""
        return ""

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return one task: control and column have the same messages."""
        return (Task(THREAT.name, (PLAIN, COLUMN), "ciphertext_bytes", 8.0, measure, True),)


def measure(study: Study, effort: Effort) -> Iterator[Cell]:
    """Return the classifier on messages in clear, and on their ciphertexts."""
    judged = effort.trials(2000, 400)
    rng, count = effort.rng(THREAT.name), judged + judged // LEARNING
    labels = rng.permutation(np.arange(count) % 2 == 1)
    features: dict[str, list[np.ndarray]] = {PLAIN: [], COLUMN: []}
    with Worker(Limits(1 << 30)) as maker:
        context = maker.ask(Op.MAKE_KEY)
    with Worker(Limits(1 << 30), context) as worker:
        for start in range(0, count, BATCH):
            messages = [_message(is_update, rng) for is_update in labels[start : start + BATCH]]
            for column, bodies in ((PLAIN, messages), (COLUMN, worker.ask_each(Op.ENCRYPT, messages))):
                features[column].append(ByteClassifier().run(_view(bodies))["features"])
    for column, rows in features.items():
        yield _cell(column, np.concatenate(rows), labels, judged, effort)


def _message(is_update: np.bool_, rng: np.random.Generator) -> bytes:
    """Return the slots of a full update, or of a message that is all zero."""
    slots = np.zeros(SLOTS, "<i8")
    if is_update:
        slots[:] = np.rint(rng.normal(0, 2**20, SLOTS))
    return slots.tobytes()


def _view(bodies: list[bytes]) -> CapturedView:
    frames = tuple(Captured("to_coordinator", 0, 0.0, body, b"") for body in bodies)
    return CapturedView(View.COORDINATOR, (), frames, {}, {}, {}, {})


def _cell(column: str, features: np.ndarray, labels: np.ndarray, judged: int, effort: Effort) -> Cell:
    classifier = ByteClassifier()
    classifier.learn(features[judged:], labels[judged:])
    scores, labels = classifier.score(features[:judged]), labels[:judged]
    value = auc(scores, labels)
    low, high = auc_interval(scores, labels, np.arange(judged), effort.rng(THREAT.name, column))
    is_control = column == PLAIN
    slack = (high - low) / 2 if effort.quick else 0.0
    return Cell(
        attack=THREAT.name,
        defence=column,
        kind=Kind.CONTROL if is_control else Kind.DEFENDED,
        metric="AUC of the message",
        value=value,
        low=low,
        high=high,
        n=judged,
        view=str(View.COORDINATOR),
        bars=(Bar(at_least=0.99),) if is_control else (Bar(at_least=0.45 - slack, at_most=0.55 + slack),),
        nulls={"uniform": 0.5},
        sentence=NOTE,
        seeds=(effort.seed,),
    )
