"""The suite: every evaluation, in the order of the matrix. A new one is one line here."""

from __future__ import annotations

from threat_models.evaluation import Evaluation
from threat_models.evaluations.cohort_differencing import CohortDifferencingEvaluation
from threat_models.evaluations.collusion import CollusionEvaluation
from threat_models.evaluations.column_support import ColumnSupportEvaluation
from threat_models.evaluations.grad_match import GradMatchEvaluation
from threat_models.evaluations.imprint import ImprintEvaluation
from threat_models.evaluations.imprint_steering import ImprintSteeringEvaluation
from threat_models.evaluations.model_inconsistency import ModelInconsistencyEvaluation
from threat_models.evaluations.row_space import RowSpaceEvaluation

EVALUATIONS: tuple[Evaluation, ...] = (
    RowSpaceEvaluation(),
    ColumnSupportEvaluation(),
    ImprintEvaluation(),
    ImprintSteeringEvaluation(),
    ModelInconsistencyEvaluation(),
    CohortDifferencingEvaluation(),
    CollusionEvaluation(),
    GradMatchEvaluation(),
)
