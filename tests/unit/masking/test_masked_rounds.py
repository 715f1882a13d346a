"""Whole epochs and rounds over real frames: exact sums, losses, ratchet, restarts."""

from __future__ import annotations

import numpy as np
import pytest

from secure_frl.errors import LocalProtocolError, RoundAborted, TooFewShares, TooFewSurvivors, UnexpectedState


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_sum_of_all_sites_is_exact_and_every_site_follows(federation, n):
    parties = federation(n)
    machine = parties.begin(parties.open())

    total = parties.drive(machine)
    parties.publish(machine)

    assert total.integers.tolist() == parties.plain_sum(range(n)).tolist()
    assert total.contributors == tuple(range(n))
    assert tuple(machine.followers) == tuple(range(n))
    assert [host.closed[-1] for host in parties.hosts] == ["summed"] * n
    assert all(host.total.integers.tolist() == total.integers.tolist() for host in parties.hosts)
    assert parties.errors == {}


@pytest.mark.parametrize(
    ("lost", "survivors"),
    [
        ({"R0": [2, 7]}, [0, 1, 3, 4, 5, 6, 8, 9]),
        ({"R1p": [2, 7]}, [0, 1, 3, 4, 5, 6, 8, 9]),
        ({"R0": [9], "R1p": [0]}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"R3a": [1, 4]}, list(range(10))),
        ({"R3c": [1, 4]}, list(range(10))),
        ({"R1p": [2, 7], "R3a": [3], "R3c": [8]}, [0, 1, 3, 4, 5, 6, 8, 9]),
        ({"R1p": [2, 7], "R3c": [3, 8]}, [0, 1, 3, 4, 5, 6, 8, 9]),
    ],
)
def test_the_sum_of_ten_sites_with_two_lost_before_and_two_after_is_the_survivors_sum(federation, lost, survivors):
    parties = federation(10)

    total = parties.drive(parties.begin(parties.open()), lost)

    assert total.integers.tolist() == parties.plain_sum(survivors).tolist()
    assert list(total.contributors) == survivors


@pytest.mark.parametrize("bits", [15, 32, 33, 64])
def test_a_sum_at_the_edge_of_the_budget_is_exact_at_both_ends(federation, bits):
    largest = 2 ** (bits - 1) - 1
    parties = federation(5, modulus_bits=bits, bound=largest // 5, noise_bound=largest % 5)
    parties.values = np.full((5, 17), largest // 5, np.int64) * np.where(np.arange(17) % 2, 1, -1)
    parties.values[0] += np.where(np.arange(17) % 2, 1, -1) * (largest % 5)  # the noise, all of it on one site
    for site, host in enumerate(parties.hosts):
        host.values = parties.values[site]
    machine = parties.begin(parties.open())

    total = parties.drive(machine)
    parties.publish(machine)

    assert total.integers.tolist() == [-largest if i % 2 == 0 else largest for i in range(17)]
    assert all(host.total.integers.tolist() == total.integers.tolist() for host in parties.hosts)
    sizes = {len(frame) for _, _, frame in parties.frames if frame[4] == 19}
    assert sizes == {152 + (4 if bits <= 32 else 8) * 21 + 16}


@pytest.mark.parametrize(("bits", "bad"), [(31, 2**31), (33, 2**33), (63, 2**63)])
def test_a_word_of_2_to_the_w_is_refused(federation, bits, bad, monkeypatch):
    parties = federation(5, modulus_bits=bits)
    monkeypatch.setattr("secure_frl.masking.site_attempt.reduce_", lambda words, width: words.__setitem__(3, bad))
    machine = parties.begin(parties.open())
    parties.exchange(machine)
    machine.close_stage()

    parties.exchange(machine)

    assert parties.errors == {site: ["MalformedMessage"] for site in range(5)}


@pytest.mark.parametrize("lost", [{"R1p": [2, 7], "R3c": [3, 8, 9]}, {"R1p": [2, 7], "R3a": [3, 8, 9]}])
def test_a_third_loss_after_the_masked_input_gives_no_sum_and_the_next_round_works(federation, lost):
    parties = federation(10)
    epoch = parties.open()
    machine = parties.begin(epoch)

    with pytest.raises(TooFewShares):
        parties.drive(machine, lost)

    with pytest.raises(UnexpectedState):
        machine.outcome()
    total = parties.drive(parties.begin(epoch, 2))
    assert total.integers.tolist() == parties.plain_sum(range(10)).tolist()


@pytest.mark.parametrize("stage", ["R0", "R1p"])
def test_a_third_loss_before_the_masked_input_gives_no_sum(federation, stage):
    parties = federation(10)

    with pytest.raises(TooFewSurvivors):
        parties.drive(parties.begin(parties.open()), {stage: [1, 2, 3]})


def test_rounds_of_one_epoch_use_new_channel_keys_and_skip_numbers(federation):
    parties = federation(3)
    epoch = parties.open()
    keys, model = [], b"first model"

    for number in (1, 2, 5):
        machine = parties.begin(epoch, number)
        total = parties.drive(machine)
        keys.append(epoch.channels.key(0))
        assert total.integers.tolist() == parties.plain_sum(range(3)).tolist()
        parties.publish(machine, model)
        model = parties.hosts[0].model

    assert len(set(keys)) == 3
    assert {len(host.contexts) for host in parties.hosts} == {3}


def test_an_older_round_cannot_begin_again_at_the_coordinator(federation):
    parties = federation(3)
    epoch = parties.open()
    parties.drive(parties.begin(epoch, 2))

    with pytest.raises(LocalProtocolError):
        parties.begin(epoch, 1)
    with pytest.raises(LocalProtocolError):  # survivors were named in round 2: no other attempt of it
        parties.begin(epoch, 2, 1)


def test_a_second_attempt_before_survivors_are_named_uses_new_vectors_and_is_exact(federation):
    parties = federation(5)
    epoch = parties.open()
    with pytest.raises(RoundAborted):
        parties.drive(parties.begin(epoch), {"R1p": [0, 1]})
    parties.values[:] = parties.values[::-1].copy()

    total = parties.drive(parties.begin(epoch, 1, 1))

    assert total.integers.tolist() == parties.plain_sum(range(5)).tolist()
    assert parties.hosts[2].closed == ["unknown"]  # the first attempt's input had left
    assert [context.attempt for context in parties.hosts[2].contexts] == [0, 1]


def test_a_restarted_site_is_lost_for_the_round_and_joins_the_next_epoch(federation):
    parties = federation(5)
    epoch = parties.open()
    machine = parties.begin(epoch)
    parties.exchange(machine)
    parties.restart(3)
    machine.close_stage()
    parties.exchange(machine)
    machine.close_stage()

    assert parties.errors == {3: ["Refused"]}
    assert machine.excluded == {3: "AlreadyAnswered"}
    for _ in range(2):
        parties.exchange(machine)
        machine.close_stage()
    assert machine.outcome().contributors == (0, 1, 2, 4)
    second = parties.open(epoch=2, first_round=2)
    total = parties.drive(parties.begin(second, 2))
    assert total.contributors == (0, 1, 2, 3, 4)


def test_a_site_that_missed_the_sum_takes_the_model_with_the_next_announcement(federation):
    parties = federation(5)
    epoch = parties.open()
    machine = parties.begin(epoch)
    parties.drive(machine)
    parties.wire = lambda direction, site, frame: None if site == 4 else frame
    parties.publish(machine)
    parties.wire = lambda direction, site, frame: frame
    assert tuple(machine.followers) == (0, 1, 2, 3)

    without = parties.begin(epoch, 2)
    parties.exchange(without)
    assert without.excluded == {4: "ModelMissing"}

    model = parties.hosts[0].model
    second = parties.begin(epoch, 2, 1, models={4: model})
    total = parties.drive(second)
    assert total.contributors == (0, 1, 2, 3, 4)
    assert parties.hosts[4].model == model


def test_a_lost_site_still_learns_the_sum(federation):
    parties = federation(5)
    machine = parties.begin(parties.open())
    parties.drive(machine, {"R1p": [2]})
    parties.publish(machine)

    assert tuple(machine.followers) == (0, 1, 2, 3, 4)
    assert parties.hosts[2].model == parties.hosts[0].model


def test_a_late_frame_and_a_repeated_frame_change_nothing(federation):
    parties = federation(5)
    machine = parties.begin(parties.open())
    parties.exchange(machine)
    machine.close_stage()
    requests = dict(machine.requests())
    replies = {site: parties.sites[site].handle(frame) for site, frame in requests.items()}
    assert parties.sites[0].handle(requests[0]) == replies[0]  # identical request, identical bytes
    for site in (0, 1, 2, 3):
        machine.receive(site, replies[site])
        machine.receive(site, replies[site])
    machine.close_stage()

    with pytest.raises(Exception, match="one answer"):
        machine.receive(4, replies[4])
    for _ in range(2):
        parties.exchange(machine)
        machine.close_stage()

    assert machine.outcome().integers.tolist() == parties.plain_sum([0, 1, 2, 3]).tolist()


@pytest.mark.parametrize("seed", range(12))
def test_random_losses_give_the_exact_sum_or_an_abort_never_another_sum(federation, seed):
    generator = np.random.default_rng(seed)
    parties = federation(10, seed=seed)
    lost = {
        stage: generator.choice(10, generator.integers(0, 3), replace=False).tolist()
        for stage in ("R0", "R1p", "R3a", "R3c")
    }
    machine = parties.begin(parties.open())
    before = set(lost["R0"]) | set(lost["R1p"])
    after = (set(lost["R3a"]) | set(lost["R3c"])) - before
    must_complete = len(before) <= 2 and 10 - len(before) - len(after) >= 6

    try:
        total = parties.drive(machine, lost)
    except RoundAborted:
        assert not must_complete
    else:
        assert total.integers.tolist() == parties.plain_sum(set(range(10)) - before).tolist()
        assert must_complete
