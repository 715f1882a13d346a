"""What may be shown of a policy after a round. On the public simulator return and gap cost nothing.

On any other data they would be releases, so nothing is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from secure_frl.federation.training_state import TrainingState
from secure_frl.learning.environments.icu_sepsis import LIVE_STATES, admissible_actions
from secure_frl.learning.evaluation import exact_return, gap_recovered
from secure_frl.learning.layout import LOGITS, table_layout
from secure_frl.learning.tabular import action_probabilities, spread_logits
from secure_frl.study import Study

Evaluate = Callable[[TrainingState], Mapping[str, float]]


def evaluate_state(study: Study) -> Evaluate:
    """Return the function that scores a policy as it would act when released: exact return and gap recovered."""
    admissible = admissible_actions()
    segments = table_layout(admissible[:LIVE_STATES], study.policy.critic).segments
    coordinates = next(segment.coordinates for segment in segments if segment.parameter == LOGITS)
    shape = (admissible.shape[0], admissible.shape[1])

    def evaluate(state: TrainingState) -> Mapping[str, float]:
        logits = spread_logits(state.logits, coordinates, shape)
        probabilities = action_probabilities(logits, admissible, study.output.sharpen)
        return {"return": exact_return(probabilities), "gap_recovered": gap_recovered(probabilities)}

    return evaluate
