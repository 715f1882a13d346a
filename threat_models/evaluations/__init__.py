"""The suite: every evaluation, in the order of the matrix. A new one is one line here."""

from __future__ import annotations

from threat_models.evaluation import Evaluation
from threat_models.evaluations.column_support import ColumnSupportEvaluation

EVALUATIONS: tuple[Evaluation, ...] = (ColumnSupportEvaluation(),)
