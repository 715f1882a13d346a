"""What a digest of a defence is of: the settings that protect, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from secure_frl.study import Study
from threat_models.defences import CKKS, MASKING, MASKING_8, changed, defended, digest_of

pytestmark = pytest.mark.threats
Tiny = Callable[..., Study]


def test_two_studies_have_one_digest_as_long_as_what_protects_them_is_the_same(tiny: Tiny) -> None:
    study = defended(tiny(), MASKING, clip_norm=0.3)
    other = changed(study, {"study.seed": 7, "training.rounds": 3, "training.global.step_size": 0.5})

    assert digest_of(other) == digest_of(study)


def test_whatever_protects_changes_the_digest(tiny: Tiny) -> None:
    study = defended(tiny(), MASKING, clip_norm=0.3)
    others = (
        defended(tiny(), MASKING, clip_norm=0.31),
        defended(tiny(), MASKING_8, clip_norm=0.3),
        defended(tiny(), CKKS, clip_norm=0.3),
        changed(study, {"privacy.unit": "site"}),
        changed(study, {"privacy.delta": study.privacy.delta / 2}),
        changed(study, {"policy.kind": "mlp"}),  # another length: other constants
    )

    assert len({digest_of(one) for one in (study, *others)}) == 1 + len(others)
    assert all(len(digest_of(one)) == 64 for one in others)
