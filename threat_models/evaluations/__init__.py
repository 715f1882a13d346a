"""The suite: every evaluation, in the order of the matrix. A new one is one line here."""

from __future__ import annotations

from threat_models.evaluation import Evaluation
from threat_models.evaluations.byzantine import ByzantineEvaluation
from threat_models.evaluations.canary_search import CanarySearchEvaluation
from threat_models.evaluations.ciphertext_bytes import CiphertextBytesEvaluation
from threat_models.evaluations.cohort_differencing import CohortDifferencingEvaluation
from threat_models.evaluations.collusion import CollusionEvaluation
from threat_models.evaluations.column_support import ColumnSupportEvaluation
from threat_models.evaluations.dp_audit import AuditEvaluation
from threat_models.evaluations.dynamics_inference import DynamicsInferenceEvaluation
from threat_models.evaluations.grad_match import GradMatchEvaluation
from threat_models.evaluations.imprint import ImprintEvaluation
from threat_models.evaluations.imprint_steering import ImprintSteeringEvaluation
from threat_models.evaluations.ind_cpa_d import KeyFromDecryptionsEvaluation
from threat_models.evaluations.key_compromise import KeyCompromiseEvaluation
from threat_models.evaluations.membership_policy import MembershipPolicyEvaluation
from threat_models.evaluations.membership_update import MembershipUpdateEvaluation
from threat_models.evaluations.metadata import MetadataEvaluation
from threat_models.evaluations.model_inconsistency import ModelInconsistencyEvaluation
from threat_models.evaluations.property_inference import PropertyInferenceEvaluation
from threat_models.evaluations.row_space import RowSpaceEvaluation
from threat_models.evaluations.wire import WireEvaluation

EVALUATIONS: tuple[Evaluation, ...] = (
    RowSpaceEvaluation(),
    ColumnSupportEvaluation(),
    ImprintEvaluation(),
    ImprintSteeringEvaluation(),
    ModelInconsistencyEvaluation(),
    CohortDifferencingEvaluation(),
    CollusionEvaluation(),
    MembershipUpdateEvaluation(),
    MembershipPolicyEvaluation(),
    PropertyInferenceEvaluation(),
    DynamicsInferenceEvaluation(),
    AuditEvaluation(),
    ByzantineEvaluation(),
    WireEvaluation(),
    MetadataEvaluation(),
    CanarySearchEvaluation(),
    GradMatchEvaluation(),
    KeyCompromiseEvaluation(),
    KeyFromDecryptionsEvaluation(),
    CiphertextBytesEvaluation(),
)
