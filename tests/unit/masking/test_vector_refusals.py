"""What the published vectors say must be refused: messages by both ends, constants, shares."""

from __future__ import annotations

import pytest
from vector_parties import (
    BECOMES,
    TO_SITE,
    Parties,
    cases,
    constants_of,
    dialogue,
    h,
    load,
    requests_before,
    steps_of,
)

from secure_frl.errors import PeerError, RoundAborted, SecureFrlError
from secure_frl.masking import contexts, secret_sharing
from secure_frl.masking.refusals import CODES
from secure_frl.secure_sum import SiteId
from secure_frl.wire.envelope import read_header
from secure_frl.wire.messages import MessageType, RefusalCode, encode_body


@pytest.mark.parametrize("case", [case for name in TO_SITE for case in cases(name)])
def test_a_site_answers_each_case_or_refuses_it_by_its_name(case):
    base = load(case["base"])
    parties = Parties(base)
    site = parties.site(0)
    for request in requests_before(base, case["after"]):
        site.handle(request)
    if case.get("restarts"):
        site = parties.site(0)
    parties.clock = float(case.get("clock_s", parties.clock))

    for step in dialogue(case):
        parties.vector_fails, before = step.get("vector") == "fails", site.state_name

        reply = site.handle(h(step["request"]))

        assert reply.hex() == step["reply"]
        if "error" in step and step["error"] != "BadShare":
            assert reply[152:154] == encode_body(RefusalCode(CODES.index(step["error"])))
        elif step is case:
            assert (read_header(reply).type == MessageType.BAD_SHARE) == ("error" in case)
            assert read_header(reply).type != MessageType.REFUSAL
        if "then" in step:
            assert site.state_name in BECOMES.get(step["then"], {before})


@pytest.mark.parametrize("case", cases("bad_to_coordinator"))
def test_the_coordinator_names_each_bad_reply_and_what_it_ends(case):
    base = load(load("bad_to_coordinator")["base"])
    changed = {(item["stage"], item["site"]): item["reply"] for item in case["replies"]}

    for stage, machine in Parties(base).stages():
        list(machine.requests())
        for i, step in steps_of(base, stage).items():
            reply = changed.get((stage, i), step["reply"] if step["arrives"] else None)
            if reply is None:
                continue
            if (stage, i) in changed and "site" in case:
                with pytest.raises(PeerError):
                    machine.receive(SiteId(i), h(reply))
            else:
                machine.receive(SiteId(i), h(reply))
        if (stage, case.get("site")) in changed:
            assert machine.excluded == {case["site"]: case["error"]}
            return
        if case.get("abort_at") == stage:
            with pytest.raises(RoundAborted) as caught:
                machine.close_stage()
            assert type(caught.value).__name__ == case["error"]
            return
        machine.close_stage()
    raise AssertionError("the case came to no end")


@pytest.mark.parametrize("case", cases("bad_constants"))
def test_no_site_signs_bad_constants(case):
    with pytest.raises(SecureFrlError) as caught:
        contexts.check_constants(constants_of(case["constants"]))

    assert type(caught.value).__name__ == case["error"]


@pytest.mark.parametrize("case", cases("bad_shares"))
def test_bad_shares_are_malformed(case):
    def read() -> None:
        if "share" in case:
            secret_sharing.check_shares(h(case["share"]))
        else:
            shares = {SiteId(int(i)): h(share) for i, share in case["rebuild"].items()}
            secret_sharing.combine(shares)

    with pytest.raises(SecureFrlError) as caught:
        read()

    assert type(caught.value).__name__ == case["error"]


def test_every_refusal_that_one_message_can_cause_has_a_vector():
    # the other codes come from the site's own host, books or disk: no message decides about them
    hosts = {"SiteFailed", "BudgetExhausted", "CharterViolation", "PolicyForbids", "StaleLedger", "LedgerCorrupt"}
    found = {case["error"] for case in load("bad_to_site")["cases"]}

    elsewhere = {"UnexpectedState", "KeySuspect"}  # the latter where sums are encrypted
    assert found - {"BadShare"} == set(CODES) - hosts - elsewhere
