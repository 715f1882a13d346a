"""Each defence of the suite taken out of a copy of the code: its named test must turn red.

Those of the protocol are among `test_checks_taken_out`; here they stand beside noise, clip, books and keys, by the
names of the list that every release is held to. All of them run in the campaigns, in under three minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from removals import Removal, check_that_it_is_noticed, lay_out, out_of_place, put_to
from test_checks_taken_out import REMOVALS

UNIT = "tests/unit"
PROTOCOL = {removal.check: removal for removal in REMOVALS}

TAKEN_OUT: dict[str, Removal] = {
    "policy digest check off": Removal(
        "policy digest check off",
        "masking/site_attempt.py",
        "if party.host.policy_tag(body.model_tag, model) != body.model_tag:",
        "if party.host.policy_tag(body.model_tag, model) is None:",
        (f"{UNIT}/masking/test_protocol_attacks.py::test_another_model_sealed_to_one_site_is_refused",),
    ),
    "second survivor answer": PROTOCOL["two survivor-confirmation answers: another attempt after R3b"],
    "unmask after restart": PROTOCOL["unmask answer after restart"],
    "noise halved": Removal(
        "noise halved",
        "privacy/noise.py",
        "    table = noise_table(deviation)\n    values",
        "    table = noise_table(max(1, deviation // 2))\n    values",
        (
            f"{UNIT}/federation/test_noise_in_rounds.py::"
            "test_each_sites_own_share_and_the_sum_of_h_shares_have_the_claimed_noise",
        ),
    ),
    "clip skipped": Removal(
        "clip skipped",
        "privacy/clipping.py",
        "weights = np.sqrt(block.noise_share) / np.maximum(norms, block.clip_norm)\n        vector",
        "weights = np.sqrt(block.noise_share) / np.full_like(norms, block.clip_norm)\n        vector",
        (f"{UNIT}/privacy/test_clipping.py::test_leaving_a_unit_out_moves_the_whole_by_at_most_one",),
    ),
    "AEAD nonce reused": PROTOCOL["AEAD key reused: the stage left out of the link key"],  # every key seals once
    "h check off": PROTOCOL["h check: honest noise shares promised by the charter"],
    "own share given": PROTOCOL["own-s share given: in the answer"],
    "lanes off": PROTOCOL["lanes"],
    "charter check off": Removal(
        "charter check off",
        "consortium/charter.py",
        '                check_signature(key, signature, "charter", self.charter.data)\n',
        "                pass\n",
        (f"{UNIT}/consortium/test_charter.py::test_a_missing_signature_is_named",),
    ),
    "float noise": Removal(
        "float noise",
        "privacy/noise.py",
        "        block[:] = _entries_up_to(table, random.words(block.size), random)\n        block -= table.tail\n",
        "        block[:] = np.rint(np.random.default_rng().normal(0.0, deviation, block.size))\n",
        (f"{UNIT}/privacy/test_noise.py::test_production_noise_has_the_exact_distribution",),
    ),
    "sampler from a seedable generator": Removal(
        "sampler from a seedable generator",
        "federation/enrolment.py",
        "return rehearsal_source(self.study.study.seed, *purpose) if self.rehearse else system_source()",
        "return rehearsal_source(self.study.study.seed, *purpose)",
        (f"{UNIT}/federation/test_simulation.py::test_the_seed_never_governs_privacy_noise",),
    ),
    "replay register off": Removal(
        "replay register off",
        "records/register.py",
        "if confirmed or asked <= (last[0], last[1], last_rank):",
        "if False:",
        (f"{UNIT}/records/test_register.py::test_a_stage_is_answered_once_over_a_restart",),
    ),
    "ciphertext key id ignored": Removal(
        "ciphertext key id ignored",
        "ckks/encrypted_sum.py",
        "if key_id != self.key_id:",
        "if False:",
        (f"{UNIT}/ckks/test_encrypted_sum.py::test_the_wrong_key_a_second_contribution_and_one_too_many_are_refused",),
    ),
}


def test_every_defence_stands_where_its_removal_looks_for_it() -> None:
    assert out_of_place(TAKEN_OUT.values()) == []


@pytest.mark.campaign
@pytest.mark.parametrize("name", TAKEN_OUT)
def test_every_defence_taken_out_turns_its_test_red(tmp_path: Path, name: str) -> None:
    check_that_it_is_noticed(lay_out(tmp_path / "copy"), TAKEN_OUT[name])


@pytest.mark.campaign
@pytest.mark.parametrize("name", sorted(set(TAKEN_OUT) - {n for n, r in TAKEN_OUT.items() if r in REMOVALS}))
def test_control_an_untouched_copy_passes_the_same_test(tmp_path: Path, name: str) -> None:
    found = put_to(lay_out(tmp_path / "copy"), TAKEN_OUT[name].tests)

    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-500:]
