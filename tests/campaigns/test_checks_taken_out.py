"""Each check of the protocol taken out of a copy of the package, alone: a named test must turn red.

Two run in the default suite, all of them in the campaigns.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from removals import Removal, check_that_it_is_noticed, lay_out, out_of_place, put_to

MASKING, REGISTER = "tests/unit/masking", "tests/unit/records/test_register.py"

REMOVALS = (
    Removal(
        "two survivor-confirmation answers: another attempt after R3b",
        "masking/site_attempt.py",
        "if (last is not None and pair <= last[:2]) or pair[0] <= last_closed_round(party):",
        "if last is not None and pair <= last[:2]:",
        (f"{MASKING}/test_invariants.py::test_a_site_that_confirmed_a_set_joins_no_other_attempt_of_that_round",),
    ),
    Removal(
        "two survivor-confirmation answers: the same attempt",
        "masking/site_attempt.py",
        '    record(party, attempt, "R3b", hashlib.sha256(reply).digest())\n'
        "    signature, seed_shares, key_shares = body.signature, state.seed_shares, state.key_shares\n"
        "    confirmed = SetConfirmed("
        "attempt, state.ctx2, survivors, digest, signature, awaited, seed_shares, key_shares)\n"
        "    return confirmed, reply\n",
        "    return state, reply\n",  # neither remembered nor written down
        (
            f"{MASKING}/test_tampering.py::test_an_identical_request_gets_identical_bytes_and_another_one_is_refused",
            f"{MASKING}/test_site_states.py::test_secrets_are_gone_when_their_life_is_over",
        ),
    ),
    Removal(
        "two survivor-confirmation answers: the register that outlives the process",
        "records/register.py",
        "                self._check_newer(last, (round_number, attempt, rank), stage)\n",
        "                pass\n",
        (
            f"{REGISTER}::test_a_stage_is_answered_once_over_a_restart",
            f"{REGISTER}::test_another_attempt_is_possible_only_before_survivors_are_confirmed",
        ),
    ),
    Removal(
        "two survivor-confirmation answers: the database below that check",
        "records/register.py",
        "WHERE stage IN ('R3b', 'R4')",
        "WHERE stage IN ('R4')",
        (f"{REGISTER}::test_the_database_itself_refuses_a_second_confirmation",),
    ),
    Removal(
        "unmask answer after restart",
        "masking/site_epoch.py",
        "if body.first_round <= last_closed_round(party):",
        "if False:",
        (f"{MASKING}/test_survivor_attacks.py::test_a_site_that_restarts_cannot_answer_for_another_set[after R4]",),
    ),
    Removal(
        "t from the announcement: constants of the coordinator taken",
        "masking/site_attempt.py",
        "body.config_hash == party.config_hash",
        "len(body.config_hash) == 32",
        (f"{MASKING}/test_protocol_attacks.py::test_constants_that_the_sites_have_not_signed_are_refused",),
    ),
    Removal(
        "t from a message: as many confirmations as the coordinator passes on",
        "masking/site_attempt.py",
        "if len(confirmed) < threshold:",
        "if len(confirmed) < min(threshold, len(body.items) // 72):",
        (f"{MASKING}/test_survivor_attacks.py::test_two_halves_with_different_sets_get_no_shares",),
    ),
    Removal(
        "own-s share given: asked over a set without the site itself",
        "masking/site_attempt.py",
        "if fault is not None or party.me not in survivors:",
        "if fault is not None:",
        (f"{MASKING}/test_cheating_parties.py::test_a_survivor_set_is_confirmed_only_inside_the_charter[survivors1-",),
    ),
    Removal(
        "own-s share given: in the answer",
        "masking/site_attempt.py",
        "    link = attempt.link(MessageType.R4, state.ctx2)\n",
        "    link = attempt.link(MessageType.R4, state.ctx2)\n"
        "    of_keys.append(Share(party.me, state.seed_shares[party.me]))\n",
        (f"{MASKING}/test_invariants.py::test_an_answer_holds_one_kind_of_share_a_peer_and_none_of_the_own_key",),
    ),
    Removal(
        "both kinds of share for one peer",
        "masking/site_attempt.py",
        "for site, share in state.key_shares.items() if site not in survivors]",
        "for site, share in state.key_shares.items()]",
        (f"{MASKING}/test_invariants.py::test_an_answer_holds_one_kind_of_share_a_peer_and_none_of_the_own_key",),
    ),
    Removal(
        "policy left out of the mask context",
        "masking/contexts.py",
        'labelled_hash("ctx2", ctx1, model_tag, config_digest, members_digest)',
        'labelled_hash("ctx2", ctx1, config_digest, members_digest)',
        (
            f"{MASKING}/test_protocol_attacks.py::"
            "test_sites_that_believe_another_model_make_the_sum_garbage_that_lanes_catch",
            f"{MASKING}/test_contexts.py::test_every_field_of_ctx1_and_ctx2_changes_it",
        ),
    ),
    Removal(
        "survivor list left out",
        "masking/contexts.py",
        'labelled_hash("U3", ctx2, encode_integers(survivors))',
        'labelled_hash("U3", ctx2)',
        (f"{MASKING}/test_survivor_attacks.py::test_several_survivor_sets_open_nothing_and_are_named",),
    ),
    Removal(
        "AEAD key reused: the stage left out of the link key",
        "masking/keys.py",
        '"down" if down else "up", STAGE_NAMES[message_type], fresh)',
        '"down" if down else "up", fresh)',
        (f"{MASKING}/test_protocol_attacks.py::test_no_key_seals_two_messages",),
    ),
    Removal(
        "AEAD key reused: the direction left out of the share key",
        "masking/keys.py",
        'labelled("share") + lp_of_ids(dealer, holder) + lp_of_hashes(public, seed_commitment)',
        'labelled("share") + lp_of_ids(min(dealer, holder), max(dealer, holder))',
        (f"{MASKING}/test_protocol_attacks.py::test_no_key_seals_two_messages",),
    ),
    Removal(
        "h check: honest noise shares promised by the charter",
        "masking/contexts.py",
        "h == least - c and h >= 2",
        "True",
        (f"{MASKING}/test_contexts.py::test_constants_that_break_the_claims_are_refused",),
    ),
    Removal(
        "lanes",
        "encoding/lanes.py",
        "if found != expected:",
        "if False:",
        (
            f"{MASKING}/test_cheating_parties.py::"
            "test_a_published_sum_that_cannot_be_is_refused_by_every_site[change-LaneMismatch0]",
        ),
    ),
    Removal(
        "survivor list left out: a confirmation that says nothing of its set",
        "masking/keys.py",
        "lp_of_ids(low, high) + lp(survivors_digest)",
        "lp_of_ids(low, high)",
        (
            f"{MASKING}/test_survivor_attacks.py::test_confirmations_of_another_set_that_the_coordinator_rewrites_count_for_nothing",
            f"{MASKING}/test_keys.py::test_a_confirmation_binds_set_context_sender_receiver_and_channel",
        ),
    ),
    Removal(
        "the list of members left out of the tag of R1'",
        "wire/envelope.py",
        "return head + clear_digest",
        "return head",
        (f"{MASKING}/test_tampering.py::test_every_changed_frame_is_refused_and_the_round_still_gives_the_exact_sum[",),
    ),
    Removal(
        "missing inbox item",
        "masking/site_attempt.py",
        "if dealers != among(state.attempt.near, sites):",
        "if False:",
        (
            f"{MASKING}/test_cheating_parties.py::"
            "test_a_site_refuses_a_member_list_that_the_coordinator_has_changed[missing item]",
        ),
    ),
    Removal(
        "b of the last attempt reused",
        "masking/site_attempt.py",
        "KeyPair.draw(party.random), party.random.take(SECRET_BYTES)\n",
        "KeyPair.draw(party.random), hashlib.sha256(view.epoch_hash + bytes([party.me])).digest()\n",
        (f"{MASKING}/test_invariants.py::test_a_second_attempt_draws_every_secret_anew",),
    ),
    Removal(
        "share words by modulo",
        "masking/secret_sharing.py",
        "drawn[drawn < PRIME]",
        "drawn % PRIME",
        (
            f"{MASKING}/test_secret_sharing.py::"
            "test_coefficients_are_uniform_over_the_whole_field_and_a_remainder_would_not_be",
        ),
    ),
)
DEFAULT = ("missing inbox item", "b of the last attempt reused")

Copy = Callable[[], Path]


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """Return a function that lays out package and tests in a folder of their own."""
    return lambda: lay_out(tmp_path / "copy")


@pytest.mark.parametrize("removal", [r for r in REMOVALS if r.check in DEFAULT], ids=lambda removal: removal.check)
def test_a_check_taken_out_turns_its_test_red(copy: Copy, removal: Removal) -> None:
    check_that_it_is_noticed(copy(), removal)


def test_every_check_stands_where_its_removal_looks_for_it() -> None:
    assert out_of_place(REMOVALS) == []


def test_control_a_text_or_a_test_that_is_gone_is_named() -> None:
    one = REMOVALS[0]
    gone = [replace(one, text="no such text"), replace(one, tests=(one.tests[0].split("[")[0][:-1],))]

    assert out_of_place(gone) == [one.check, one.check]


@pytest.mark.campaign
@pytest.mark.parametrize("removal", REMOVALS, ids=lambda removal: removal.check)
def test_every_check_taken_out_turns_its_tests_red(copy: Copy, removal: Removal) -> None:
    check_that_it_is_noticed(copy(), removal)


@pytest.mark.campaign
def test_control_an_untouched_copy_passes_all_of_them(copy: Copy) -> None:
    folder = copy()
    every = tuple(dict.fromkeys(test for removal in REMOVALS for test in removal.tests))

    found = put_to(folder, every)

    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-500:]
    where = subprocess.run(
        [sys.executable, "-c", "import secure_frl; print(secure_frl.__file__)"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(folder))  # the copy was tried, not what is installed
