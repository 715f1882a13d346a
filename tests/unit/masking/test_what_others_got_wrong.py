"""What published implementations got wrong, as attacks by the coordinator or a peer on this one.

ENTRIES names the tests of each entry of secure_aggregation.md, section 12, that concerns this protocol; those that
stand in no file of their own subject are in test_what_others_got_wrong_in_*.py. Each attack there wins against a copy
with the defence taken out (a test whose name begins with test_control), so it is an attack; against the protocol it is
refused by name or finds nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

ATTACKS, SURVIVORS = "test_protocol_attacks.py", "test_survivor_attacks.py"
STATES = "test_site_states.py"
SECRETS, TRUST = "test_what_others_got_wrong_in_secrets.py", "test_what_others_got_wrong_in_trust.py"
WORDS, SHARING = "test_what_others_got_wrong_in_words.py", "test_what_others_got_wrong_in_sharing.py"
SEEN_IN = {  # the list of section 12, by implementation
    "Flower": (
        "one victim in both lists",
        "protocol parameters taken from the server",
        "folded seeds",
        "weights in clear",
    ),
    "OpenFL": ("a mask that is one float per vector", "an aggregator that rebuilds every seed and key"),
    "APPFL": ("float masks correlated with the plain vector", "one secret shared by all"),
    "Fed-BioMed": ("bit budgets", "carry into the next element", "failure after 70 rounds"),
    "several": (
        "no authentication of keys",
        "no agreement on survivors",
        "secrets kept after the round",
        "thresholds of 2",
        "silent overflow",
        "pickle from a peer",
    ),
}
ENTRIES: dict[str, list[tuple[str, str]]] = {  # entry -> (file beside this one, test)
    "one victim in both lists": [
        (SURVIVORS, "test_a_site_is_never_both_survivor_and_lost"),
        (SURVIVORS, "test_control_sites_that_confirm_twice_give_a_victim_away"),
    ],
    "protocol parameters taken from the server": [
        (ATTACKS, "test_constants_that_the_sites_have_not_signed_are_refused"),
        (TRUST, "test_sites_keep_their_own_constants_when_the_refusal_is_taken_out"),
        (TRUST, "test_control_sites_that_take_the_coordinators_constants_send_their_signs"),
    ],
    "folded seeds": [
        (SECRETS, "test_no_two_masks_share_a_stream_and_every_key_has_256_bits"),
        (SECRETS, "test_a_search_of_a_small_space_opens_no_input"),
        (SECRETS, "test_control_a_folded_seed_is_found_by_search"),
    ],
    "weights in clear": [
        (SECRETS, "test_nothing_beside_the_masked_words_depends_on_the_data"),
        (SECRETS, "test_control_a_weight_beside_the_masked_words_is_read"),
    ],
    "no authentication of keys": [
        ("test_site_epoch.py", "test_a_list_of_keys_is_believed_only_as_everybody_signed_it"),
        (TRUST, "test_a_coordinator_cannot_play_all_other_sites"),
        (TRUST, "test_control_without_signatures_the_coordinator_plays_all_other_sites"),
    ],
    "no agreement on survivors": [
        (SURVIVORS, "test_several_survivor_sets_open_nothing_and_are_named"),
        (SURVIVORS, "test_control_without_the_confirmation_check_a_sum_of_too_few_opens"),
    ],
    "secrets kept after the round": [
        (STATES, "test_secrets_are_gone_when_their_life_is_over"),
        (SECRETS, "test_a_site_seized_after_the_round_opens_nothing"),
        (SECRETS, "test_control_a_site_that_keeps_its_secrets_opens_its_input"),
        (SECRETS, "test_control_a_site_that_keeps_old_channel_keys_opens_old_shares"),
    ],
    "thresholds of 2": [
        ("test_contexts.py", "test_constants_that_break_the_claims_are_refused"),
        (TRUST, "test_two_sites_with_the_coordinator_open_nothing"),
        (TRUST, "test_control_a_threshold_of_two_lets_two_sites_open_an_input"),
    ],
    "silent overflow": [
        ("test_contexts.py", "test_the_bit_budget_is_exact"),
        (WORDS, "test_a_ring_that_a_sum_could_leave_is_refused"),
        (WORDS, "test_control_without_the_bit_budget_a_sum_wraps_in_silence"),
    ],
    "a mask that is one float per vector": [
        (WORDS, "test_differences_of_coordinates_are_hidden"),
        (WORDS, "test_control_one_word_for_a_whole_vector_shows_every_difference"),
    ],
    "float masks correlated with the plain vector": [
        (ATTACKS, "test_an_upload_equals_the_plain_words_only_under_unsafe_plain"),
        (WORDS, "test_an_upload_does_not_correlate_with_the_update"),
        (WORDS, "test_control_normal_masks_correlate"),
    ],
    "an aggregator that rebuilds every seed and key": [
        (SHARING, "test_a_coordinator_can_rebuild_no_site_that_sent_its_input"),
        (SHARING, "test_control_sites_that_return_every_share_let_it_rebuild_every_input"),
    ],
    "one secret shared by all": [
        (SHARING, "test_nothing_that_a_peer_holds_opens_the_input_of_another"),
        (SHARING, "test_control_one_secret_behind_all_masks_lets_a_peer_read_every_input"),
    ],
    "bit budgets": [
        (WORDS, "test_every_number_of_sites_has_the_width_that_it_needs"),
        (WORDS, "test_ten_sites_at_both_ends_of_the_range_sum_exactly"),
        (WORDS, "test_control_a_ring_for_eight_sites_loses_the_sum_of_ten"),
    ],
    "carry into the next element": [
        (WORDS, "test_ten_sites_at_both_ends_of_the_range_sum_exactly"),
        (WORDS, "test_control_packed_elements_carry_into_their_neighbours"),
    ],
    "failure after 70 rounds": [
        (WORDS, "test_eighty_rounds_over_two_epochs_are_exact"),
        (WORDS, "test_control_an_epoch_that_is_never_renewed_wears_out"),
    ],
    "pickle from a peer": [
        (WORDS, "test_a_pickle_from_a_peer_is_malformed_and_runs_nothing"),
        (WORDS, "test_control_the_same_bytes_run_where_somebody_unpickles"),
        (WORDS, "test_no_module_can_unpickle"),
    ],
}


def test_every_entry_has_an_attack_and_its_control() -> None:
    kinds = {entry: [test.startswith("test_control_") for _, test in tests] for entry, tests in ENTRIES.items()}

    assert [entry for entry, controls in kinds.items() if set(controls) != {True, False}] == []


def test_no_entry_and_no_test_is_left_out() -> None:
    listed = {name for tests in ENTRIES.values() for name in tests}
    here = [
        (path.name, test)
        for path in Path(__file__).parent.glob("test_what_others_got_wrong_in_*.py")
        for test in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    ]

    assert sorted(ENTRIES) == sorted(entry for entries in SEEN_IN.values() for entry in entries)
    assert [name for name in here if name not in listed] == []


def test_every_entry_has_its_tests() -> None:
    absent = [
        (file, test)
        for tests in ENTRIES.values()
        for file, test in tests
        if f"def {test}(" not in (Path(__file__).parent / file).read_text()
    ]

    assert absent == []
