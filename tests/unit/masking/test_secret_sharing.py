"""Secret sharing: exact, hiding below the threshold, uniform coefficients, edge word 65536."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from drawn_schedules import examples
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from secure_frl.errors import InvalidParameter, MalformedMessage
from secure_frl.masking import secret_sharing
from secure_frl.masking.secret_sharing import check_shares, combine, is_share, split
from secure_frl.randomness import rehearsal_source, system_source
from secure_frl.wire.messages import ReturnedShares, decode_body, encode_body
from secure_frl.wire.records import Share, pack_records, unpack_records

Q = 65_537


def evaluate(coefficients: list[int], point: int) -> int:
    """Reference in Python integers."""
    return sum(c * point**power for power, c in enumerate(coefficients)) % Q


def words_of(share: bytes) -> np.ndarray:
    return np.frombuffer(share, "<u4")


class FixedWords:
    """A random source that gives chosen words of 32 bits, and none a second time."""

    is_rehearsal = True

    def __init__(self, words: list[int]) -> None:
        self._bytes = np.array(words, "<u4").tobytes()

    def take(self, count: int) -> bytes:
        assert self._bytes, "more is asked for than was given"
        taken, self._bytes = self._bytes[:count].ljust(count, b"\xff"), self._bytes[count:]
        return taken


def test_the_polynomial_is_the_design_example():
    # 771 + 5x + 7x^2 mod 65537 at 1, 2, 65536 is 783, 809, 773 (secure_aggregation.md, section 9)
    secret = (771).to_bytes(2, "little") * 16

    shares = split(secret, 3, (0, 1, 65_535), FixedWords([5] * 16 + [7] * 16))

    assert [set(words_of(share).tolist()) for share in shares.values()] == [{783}, {809}, {773}]


@pytest.mark.parametrize(("n", "t"), [(3, 2), (5, 4), (10, 6), (100, 67)])
def test_any_threshold_shares_rebuild_the_secret_and_agree_with_integers(n, t):
    secret = bytes(range(200, 232))
    shares = split(secret, t, tuple(range(n)), system_source())
    generator = np.random.default_rng(7)

    for _ in range(5):
        chosen = sorted(generator.choice(n, t, replace=False).tolist())
        assert combine({site: shares[site] for site in chosen}) == secret
    fewer = dict(itertools.islice(shares.items(), t - 1))
    assert combine_or_none(fewer) != secret


def combine_or_none(shares):
    try:
        return combine(shares)
    except MalformedMessage:
        return None


def test_the_matrix_product_is_exact_at_the_largest_words_and_threshold():
    t = 100
    coefficients = [[65_535] * 16] + [[65_536] * 16] * (t - 1)
    shares = split(b"\xff" * 32, t, tuple(range(100)), FixedWords([65_536] * 16 * (t - 1)))

    for site in (0, 1, 50, 99):
        expected = evaluate([row[0] for row in coefficients], site + 1)
        assert set(words_of(shares[site]).tolist()) == {expected}


def test_fewer_than_threshold_shares_are_uniform_whatever_the_secret():
    # 4,000 splits of two fixed secrets at t = 3; two shares' first words in 16 bins each (256 cells);
    # chi-square at 1e-6 / 2 on either side, seed 11; control: the coefficients halved fail the same test
    def cells(secret: bytes, halve: bool) -> float:
        source = rehearsal_source(11, secret.hex(), str(halve))
        counts = np.zeros((16, 16))
        for _ in range(4000 // 16):
            shares = {site: words_of(share) for site, share in split(secret, 3, (0, 1), source).items()}
            if halve:
                shares = {site: share // 2 for site, share in shares.items()}
            one, two = (np.minimum(shares[site] * 16 // Q, 15) for site in (0, 1))
            np.add.at(counts, (one, two), 1)
        return stats.chisquare(counts.ravel()).pvalue

    assert cells(bytes(32), halve=False) > 1e-6
    assert cells(b"\xff" * 32, halve=False) > 1e-6
    assert cells(bytes(32), halve=True) < 1e-6


def test_coefficients_are_uniform_over_the_whole_field_and_a_remainder_would_not_be():
    # 17-bit words modulo 65537 hit 0..65534 twice as often as 65535 and 65536: the shortage at the top is what a
    # remainder leaves. 2^22 draws, 65,537 cells: expected 64 each. Statistic: draws in the top two cells against
    # Binomial(2^22, 2/65537), two-sided at 1e-6, and a chi-square over cells, seed 5.
    count = 1 << 22
    drawn = secret_sharing._uniform(count, rehearsal_source(5, "coefficients")).astype(np.int64)
    words = np.frombuffer(rehearsal_source(5, "remainder").take(4 * count), "<u4") & 0x1FFFF
    remainder = (words % Q).astype(np.int64)

    def verdict(values: np.ndarray) -> float:
        top = int((values >= Q - 2).sum())
        return float(stats.binomtest(top, count, 2 / Q).pvalue)

    assert verdict(drawn) > 1e-6
    assert stats.chisquare(np.bincount(drawn, minlength=Q)).pvalue > 1e-6
    assert drawn.max() == Q - 1
    assert verdict(remainder) < 1e-6


def test_a_small_field_shows_perfect_hiding(monkeypatch):
    # Z_5, t = 2, every secret word and every coefficient: each share value occurs once for each secret
    monkeypatch.setattr(secret_sharing, "PRIME", 5)
    secret_sharing._powers.cache_clear()

    for word in range(5):
        shares = [int(split(bytes([word, 0]) * 16, 2, (2,), FixedWords([slope] * 16))[2][0]) for slope in range(5)]
        assert sorted(shares) == [0, 1, 2, 3, 4]
    secret_sharing._powers.cache_clear()


def test_word_65536_travels_as_a_share_and_is_refused_as_a_secret():
    share = np.full(16, 65_536, "<u4").tobytes()

    assert is_share(share).tolist() == [True]
    with pytest.raises(MalformedMessage):
        combine({0: share})  # t = 1: the share is the secret
    with pytest.raises(MalformedMessage):
        check_shares(np.full(16, 65_537, "<u4").tobytes())


WORD = st.sampled_from([0, 1, 65_535, 65_536]) | st.integers(0, 65_536)


@given(
    rows=st.lists(st.lists(WORD, min_size=16, max_size=16), min_size=1, max_size=6),
    holders=st.lists(st.integers(0, 65_534), min_size=6, max_size=6, unique=True),
    beyond=st.integers(65_537, 2**32 - 1),
)
@example(rows=[[65_535] * 16, [1] * 16], holders=[0, 1, 2, 3, 4, 65_534], beyond=65_537)  # shares 65536, 0, ...
@example(rows=[[65_536] + [7] * 15, [0] * 16], holders=[5, 4, 3, 2, 1, 0], beyond=2**17 - 1)
@examples(100)
def test_11_shares_of_any_polynomials_travel_whole_and_rebuild_a_secret_but_where_it_has_a_word_65536(
    rows, holders, beyond
):
    shares = {
        site: np.array([evaluate(list(column), site + 1) for column in zip(*rows, strict=True)], "<u4").tobytes()
        for site in holders
    }
    packed = pack_records(Share(site, share) for site, share in shares.items())
    arrived = decode_body(ReturnedShares, encode_body(ReturnedShares(packed, b"")))
    check_shares(b"".join(shares.values()))
    assert dict(unpack_records(Share, arrived.of_seeds)) == shares
    with pytest.raises(MalformedMessage):
        check_shares(shares[holders[0]] + shares[holders[1]][:-4] + beyond.to_bytes(4, "little"))

    rebuilding = {site: shares[site] for site in holders[: len(rows)]}
    if 65_536 in rows[0]:
        with pytest.raises(MalformedMessage):
            combine(rebuilding)
    else:
        secret = np.array(rows[0], "<u2").tobytes()
        assert combine(rebuilding) == secret
        assert split(secret, len(rows), holders, FixedWords([*itertools.chain(*rows[1:])])) == shares


@given(st.lists(WORD | st.integers(0, 2**32 - 1), max_size=80))
@examples(50)
def test_11_a_coefficient_is_a_drawn_word_of_the_field_as_it_was_and_no_other_word_becomes_one(words):
    kept = [word % 2**17 for word in words if word % 2**17 < Q]

    assert secret_sharing._uniform(len(kept), FixedWords(words)).tolist() == kept


@pytest.mark.parametrize("size", [1, 63, 65])
def test_shares_of_another_size_are_refused(size):
    with pytest.raises(MalformedMessage):
        check_shares(bytes(size))


def test_secrets_of_another_size_are_refused():
    with pytest.raises(InvalidParameter):
        split(bytes(31), 2, (0, 1), system_source())
