"""Who holds a CKKS key reads what: the four views, and the key out of decryptions that keep their noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from secure_frl.ckks.envelopes import pack_chunks
from secure_frl.encoding.lanes import to_ring_vector
from secure_frl.encoding.slots import to_slots
from secure_frl.masking.contexts import chunk_plan
from secure_frl.privacy.planning import sum_constants
from secure_frl.study import Study
from threat_models.adversaries.ciphertext_bytes import ByteClassifier
from threat_models.adversaries.key_compromise import KeyCompromise
from threat_models.blind_coordinators import CuriousKeeper, Notes, victim_of
from threat_models.defences import CKKS, CKKS_MASKING, Defence, changed, defended
from threat_models.evaluation import Effort
from threat_models.evaluations import ind_cpa_d, key_compromise
from threat_models.evaluations.column_support import REFERENCE
from threat_models.laboratory import Memory, Recording, rehearse, view_of
from threat_models.public import public_of
from threat_models.results import Verdict, judge
from threat_models.threat import View
from threat_models.truth import Truth

pytestmark = pytest.mark.threats


@pytest.mark.parametrize("defence", [CKKS, CKKS_MASKING], ids=lambda one: one.name)
def test_a_key_opens_updates_under_ckks_and_uniform_words_under_masks(
    tiny: Callable[..., Study], defence: Defence
) -> None:
    reference = changed(tiny(), REFERENCE, {"training.rounds": 2, "policy.hidden": [4]})
    attacked, notes = defended(reference, defence, clip_norm=0.05), Notes()
    recording = rehearse(attacked, make_keeper=partial(CuriousKeeper, notes=notes, turns_in=2), may_stop=True)
    adversary = KeyCompromise()
    adversary.prepare(public_of(attacked), np.random.default_rng(0))
    together = view_of(recording, View.COALITION, (0,))
    together = replace(together, secrets={**together.secrets, **notes})
    guess = adversary.run(together)
    length = public_of(attacked).length

    def alike(name: str, number: int, site: int) -> float:
        truth = recording.truth.updates[number, site]
        return abs(float(np.corrcoef(guess[f"vector/{name}"], truth)[0, 1]))

    victim = victim_of(2, attacked.sites.count)
    found = [alike("upload/1/1", 1, 1), alike("upload/1/2", 1, 2), alike("total/2", 2, victim)]
    if defence is CKKS:
        assert min(found) > 0.999
    else:
        assert max(found) < 5 / np.sqrt(length)
    alone = adversary.run(replace(view_of(recording, View.COORDINATOR), secrets=dict(notes)))
    read = {name for name in alone if not name.startswith("vector/")}
    sites = range(attacked.sites.count)
    assert read == {f"bytes/{number}/{site}" for number in (1, 2) for site in sites}  # no key opens anything
    blind = [np.corrcoef(alone[f"vector/bytes/1/{site}"], recording.truth.updates[1, site])[0, 1] for site in sites]
    assert max(map(abs, blind)) < 5 / np.sqrt(length)
    for values in recording.truth.updates.values():
        values += 1  # what really happened, and no byte of the view
    again = adversary.run(together)
    assert all(np.array_equal(again[name], guess[name]) for name in guess)


def test_whatever_is_read_without_a_key_counts_against_the_cell_of_who_should_read_nothing(
    tiny: Callable[..., Study],
) -> None:
    (row,) = (row for row in key_compromise.ROWS[CKKS.name] if row.guesses == "bytes")
    recording = Recording(tiny(), (), Memory(), Truth(updates={(1, 2): np.zeros(3, np.int64)}), 1, ())
    read = {name: np.ones(3) for name in ("bytes/1/0", "upload/1/2", "vector/bytes/1/0", "vector/upload/1/2")}

    assert list(key_compromise._places(row, {}, recording)) == []
    assert list(key_compromise._places(row, read, recording)) == [("bytes/1/0", 1, (0,)), ("upload/1/2", 1, (2,))]


@pytest.mark.parametrize("bits", [0, 64])  # one limb, and several
def test_bodies_that_nobody_had_encrypted_are_read_whole_without_a_key(tiny: Callable[..., Study], bits: int) -> None:
    sizes = {"training.rounds": 1, "policy.hidden": [4], "protection.modulus_bits": bits}
    attacked = defended(changed(tiny(), REFERENCE, sizes), CKKS, clip_norm=0.05)
    recording, effort, notes = rehearse(attacked), Effort(quick=True), Notes()
    known = key_compromise._Known.of(attacked, effort)
    constants = sum_constants(attacked)
    for (number, site), integers in recording.truth.updates.items():
        words = to_ring_vector(integers, constants).words
        slots = to_slots(words, chunk_plan(constants))
        notes[f"ciphertexts/{number}/{site}"] = pack_chunks([one.astype("<i8").tobytes() for one in slots])
    guess = key_compromise._guess(key_compromise._alone(recording, notes), known.public, effort)

    row = key_compromise.ROWS[CKKS.name][0]
    cell = key_compromise._cell(CKKS, row, guess, recording, known, effort, range(1, 2))
    assert cell.figures["least_correlation"] > 0.999999
    assert judge([cell]) == [Verdict.FAILS]


def test_raw_reals_give_the_whole_key_and_the_workers_integers_give_no_word_of_it(tiny: Callable[..., Study]) -> None:
    raw, integers = ind_cpa_d.measure(tiny(), Effort(quick=True))

    assert (raw.value, raw.figures["words"]) == (1.0, 1.0)
    assert (integers.value, integers.figures["words"], integers.figures["noise_steps"]) == (0.0, 0.0, 0.0)
    assert raw.figures["noise_steps"] > 0


def test_the_byte_classifier_learns_what_there_is_to_learn() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2 == 1
    features = rng.normal(size=(200, 257))
    features[labels, 7] += 3.0
    classifier = ByteClassifier()
    classifier.learn(features[:100], labels[:100])
    scores = classifier.score(features[100:])

    assert scores[labels[100:]].mean() > scores[~labels[100:]].mean() + 1
