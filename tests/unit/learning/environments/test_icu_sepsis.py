"""The vectorised ICU-Sepsis against its published tables."""

from __future__ import annotations

import hashlib
import importlib.util
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from secure_frl.errors import EvidenceRefused, InvalidParameter, UnexpectedState
from secure_frl.learning.environments import icu_sepsis
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, admissible_actions, load_tables


def _row(state: int, action: int) -> np.ndarray:
    """Return the next-state distribution of any action, from the stored rows and the rule for inadmissible ones."""
    tables = load_tables()
    pairs = [tuple(pair) for pair in np.argwhere(tables.admissible[:713])]

    def stored(pair: tuple[int, int]) -> np.ndarray:
        index = pairs.index(pair)
        row = np.zeros(716)
        part = slice(tables.row_starts[index], tables.row_starts[index + 1])
        row[tables.next_states[part]] = tables.probabilities[part]
        return row

    if tables.admissible[state, action]:
        return stored((state, action))
    return np.mean([stored((state, int(a))) for a in np.flatnonzero(tables.admissible[state])], axis=0)


def test_tables_have_the_published_size() -> None:
    tables = load_tables()

    # The published model: 2,238 admissible pairs and 476 states with a choice among the live ones.
    assert tables.row_starts.size - 1 == 2238
    assert int((tables.admissible[:713].sum(axis=1) > 1).sum()) == 476
    assert tables.admissible.shape == (716, 25)


def test_every_stored_row_is_a_distribution() -> None:
    tables = load_tables()

    totals = np.add.reduceat(tables.probabilities, tables.row_starts[:-1])

    assert np.abs(totals - 1).max() < 1e-12
    assert tables.probabilities.min() > 0
    assert abs(tables.initial.sum() - 1) < 1e-12
    assert np.abs(tables.expert.sum(axis=1) - 1).max() < 1e-12


def test_tables_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="read-only"):
        admissible_actions()[0, 0] = True


def test_altered_tables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icu_sepsis, "TABLES_SHA256", "0" * 64)
    load_tables.cache_clear()

    with pytest.raises(EvidenceRefused, match="sha256"):
        load_tables()

    load_tables.cache_clear()


def test_licence_and_provenance_ship_beside_the_tables() -> None:
    folder = resources.files("secure_frl.learning.environments").joinpath("data")

    assert "Permission is hereby granted" in folder.joinpath("LICENSE-icu-sepsis.txt").read_text()
    assert icu_sepsis.TABLES_SHA256 in folder.joinpath("README.md").read_text()


def test_written_tables_have_the_same_bytes_as_the_shipped_ones(tmp_path: Path) -> None:
    script = Path(__file__).parents[4] / "examples" / "icu_sepsis" / "build_tables.py"
    spec = importlib.util.spec_from_file_location("build_tables", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shipped = resources.files("secure_frl.learning.environments").joinpath("data/icu_sepsis.npz")
    with resources.as_file(shipped) as path, np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}

    digest = module.write(arrays, tmp_path / "again.npz")

    assert digest == icu_sepsis.TABLES_SHA256
    assert digest == hashlib.sha256((tmp_path / "again.npz").read_bytes()).hexdigest()


def test_rebuild_refuses_other_tables(tmp_path: Path) -> None:
    script = Path(__file__).parents[4] / "examples" / "icu_sepsis" / "build_tables.py"
    spec = importlib.util.spec_from_file_location("build_tables", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "dynamics.npz").write_bytes(b"other")
    (tmp_path / "admissible_actions.txt").write_bytes(b"other")

    with pytest.raises(SystemExit, match=r"icu-sepsis 2\.0\.1"):
        module.read_published(tmp_path)


def _chi_square(counts: np.ndarray, expected: np.ndarray) -> tuple[float, int]:
    kept = expected >= 5
    observed = np.append(counts[kept], counts[~kept].sum())
    wanted = np.append(expected[kept], expected[~kept].sum())
    used = wanted > 0
    return float((((observed - wanted) ** 2)[used] / wanted[used]).sum()), int(used.sum()) - 1


def _limit(degrees: int) -> float:
    """Return a chi-square quantile beyond 1 - 1e-7: Laurent and Massart 2000, Lemma 1, with x = ln 1e7."""
    x = np.log(1e7)
    return float(degrees + 2 * np.sqrt(degrees * x) + 2 * x)


def test_the_guide_changes_no_draw() -> None:
    """Around every edge, where a guide could err, and at random: the same state as a search of the whole array."""
    sampler = icu_sepsis.sampler_of(load_tables())
    generator = np.random.default_rng(2)
    rows = np.searchsorted(np.arange(1, sampler.edges[-1] + 1), sampler.edges)
    near = np.floor((sampler.edges - rows) * 2**32)
    words = [near + offset for offset in (-1.5, -0.5, 0.5, 1.5)] + [generator.integers(0, 2**32, rows.size) + 0.5]
    treated = np.zeros(int(rows[-1]) + 1, dtype=np.int64)
    treated[sampler.row_of[: 713 * 25]] = np.arange(713 * 25)  # a pair of each row

    for drawn in words:
        uniform = drawn * 2.0**-32
        fine = (uniform > 0) & (uniform < 1)
        state, action = np.divmod(treated[rows[fine]], 25)
        searched = sampler.targets[np.searchsorted(sampler.edges, rows[fine] + uniform[fine])]
        assert np.array_equal(icu_sepsis.treat(state, action, uniform[fine]), searched)
    assert (sampler.guide >= 0).mean() > 0.8  # it is a guide: most draws need no search


@pytest.mark.statistical
def test_next_states_follow_the_tables() -> None:
    """Seed 5, 40,000 draws for each of six pairs, three of them inadmissible; false alarm below 6e-7 in all."""
    admissible = admissible_actions()
    states = [3, 100, 512]
    for state in states:
        for action in (int(admissible[state].argmax()), int((~admissible[state]).argmax())):
            environment = IcuSepsis(40_000)
            environment.reset(np.random.default_rng(5))
            environment._states[:] = state

            landed = environment.step(np.full(40_000, action))[0]

            counts = np.bincount(landed, minlength=716)
            assert counts[_row(state, action) == 0].sum() == 0
            statistic, degrees = _chi_square(counts, 40_000 * _row(state, action))
            assert statistic < _limit(degrees)
            # Control: the same draws against another action's row are told apart.
            other = _row(state, int(np.flatnonzero(admissible[state])[-1]) if state != 3 else 24)
            if not np.allclose(other, _row(state, action)):
                moved = counts[other == 0].sum() > 0 or _chi_square(counts, 40_000 * other)[0] > _limit(degrees)
                assert moved


@pytest.mark.statistical
def test_first_states_follow_the_tables() -> None:
    """Seed 6, 200,000 draws; false alarm below 1e-7. Control: a uniform start is told apart."""
    counts = np.bincount(IcuSepsis(200_000).reset(np.random.default_rng(6)), minlength=716)
    initial = load_tables().initial

    statistic, degrees = _chi_square(counts, 200_000 * initial)

    assert statistic < _limit(degrees)
    uniform = np.where(initial > 0, 1.0 / (initial > 0).sum(), 0.0)
    assert _chi_square(counts, 200_000 * uniform)[0] > _limit(degrees)


def test_reward_is_one_exactly_on_survival() -> None:
    environment = IcuSepsis(5_000)
    environment.reset(np.random.default_rng(1))

    states, reward, ended, cut = environment.step(np.full(5_000, 7))

    assert np.array_equal(reward, (states == 714).astype(np.float32))
    assert np.array_equal(ended, states >= 713)
    assert not cut.any()
    assert 0 < ended.sum() < 5_000


def test_an_episode_that_is_over_stays_as_it_is() -> None:
    environment = IcuSepsis(5_000)
    environment.reset(np.random.default_rng(1))
    states, _, over, _ = environment.step(np.full(5_000, 7))

    later, reward, ended, cut = environment.step(np.full(5_000, 7))

    assert np.array_equal(later[over], states[over])
    assert not reward[over].any()
    assert not ended[over].any()
    assert not cut[over].any()


def test_cut_marks_running_episodes_at_max_steps_only() -> None:
    environment = IcuSepsis(2_000, max_steps=2)
    environment.reset(np.random.default_rng(2))
    first = environment.step(np.full(2_000, 7))

    second = environment.step(np.full(2_000, 7))

    assert not first[3].any()
    assert np.array_equal(second[3], ~(first[2] | second[2]))
    assert second[3].any()


def test_what_happens_in_one_copy_does_not_depend_on_the_actions_of_another() -> None:
    results = []
    for others in (3, 19):
        environment = IcuSepsis(64)
        environment.reset(np.random.default_rng(9))
        actions = np.full(64, others)
        actions[5] = 7
        path = [environment.step(actions)[0][5] for _ in range(20)]
        results.append(path)

    assert results[0] == results[1]


def test_misuse_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="max_steps"):
        IcuSepsis(10, max_steps=0)
    with pytest.raises(UnexpectedState, match="reset"):
        IcuSepsis(10).step(np.zeros(10, dtype=np.int64))


def test_an_empty_environment_has_no_patients() -> None:
    environment = IcuSepsis(0)

    assert environment.reset(np.random.default_rng(0)).shape == (0,)
    assert environment.step(np.zeros(0, dtype=np.int64))[0].shape == (0,)
