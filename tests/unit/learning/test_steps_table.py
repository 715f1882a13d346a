"""A hospital's table: it comes back as it was written, and each mistake is named by row and column."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from secure_frl.errors import ConfigError, DataRefused, InvalidParameter
from secure_frl.learning.steps_table import StepsTable, read_steps, write_steps
from secure_frl.learning.trajectories import Trajectories

Columns = dict[str, list[Any]]
ACTIONS = 3


def _episodes(**changes: Any) -> Trajectories:
    """Return three stays of 2, 1 and 3 steps; the last one was cut."""
    steps = np.array([[True, True, False], [True, False, False], [True, True, True]])
    fields: dict[str, Any] = {
        "observations": np.where(steps, np.arange(9).reshape(3, 3), 0),
        "actions": np.where(steps, [[0, 1, 0], [2, 0, 0], [1, 1, 2]], 0),
        "allowed": None,
        "rewards": np.where(steps, [[0.5, 1.0, 0.0]] * 3, 0).astype(np.float32),
        "log_behaviour": None,
        "steps": steps,
        "terminated": np.array([True, True, False]),
        "final_observations": np.array([50, 60, 70]),
        "persons": np.arange(3, dtype=np.uint64),
    }
    return Trajectories(**{**fields, **changes})


PATIENTS = ("7", "8", "7")  # two stays of one patient


def _read(path: Path, max_steps: int = 3) -> StepsTable:
    return read_steps(path, max_steps=max_steps, person_of=int)


def _spoilt(tmp_path: Path, change: Callable[[Columns], None]) -> Path:
    """Write the table, change its columns, write it again as plain Parquet."""
    path = tmp_path / "site-01.parquet"
    logged = np.where(_episodes().steps, np.log(0.5), 0).astype(np.float32)
    write_steps(path, _episodes(log_behaviour=logged), PATIENTS, is_simulated=True)
    columns = parquet.read_table(path).to_pydict()
    change(columns)
    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "site-01.parquet"
    logged = np.where(_episodes().steps, np.log(0.25), 0).astype(np.float32)
    mask = np.zeros((3, 3, ACTIONS), dtype=np.bool_)
    mask[_episodes().steps] = [True, False, True]
    written = _episodes(log_behaviour=logged, allowed=mask)

    write_steps(path, written, PATIENTS, is_simulated=False)
    table = _read(path)

    assert not table.is_simulated
    found = table.trajectories
    for name in ("observations", "actions", "rewards", "log_behaviour", "steps", "terminated", "allowed"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name), err_msg=name)
    assert found.persons.tolist() == [7, 8, 7]
    assert found.final_observations[2] == 70  # the cut stay is bootstrapped from there


def test_features_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "site-01.parquet"
    features = np.random.default_rng(0).normal(size=(3, 3, 12)).astype(np.float32)  # 12: the order is not that of text
    features[~_episodes().steps] = 0
    final = np.ones((3, 12), np.float32)

    write_steps(path, _episodes(observations=features, final_observations=final), PATIENTS, is_simulated=True)

    found = _read(path)
    assert found.is_simulated
    np.testing.assert_array_equal(found.trajectories.observations, features)
    np.testing.assert_array_equal(found.trajectories.final_observations[2], final[2])


def _set(column: str, row: int, value: Any) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[column][row] = value

    return change


def _swap_rows(columns: Columns) -> None:
    for values in columns.values():
        values[2], values[3] = values[3], values[2]  # the second stay is now inside the third one


def _double_a_row(columns: Columns) -> None:
    for values in columns.values():
        values.insert(1, values[0])


def _no_utf8() -> Any:  # Any: pyarrow has no types
    import pyarrow

    return pyarrow.Array.from_buffers(pyarrow.string(), 7, pyarrow.array([b"\xff"] * 7).buffers())


def _without_the_last_observation(columns: Columns) -> None:
    for values in columns.values():
        del values[-1]


def _without_steps(columns: Columns) -> None:
    _set("action", 2, None)(columns)


# rows of the table: 0 1 | 2 | 3 4 5 and 6, the observation after the cut
@pytest.mark.parametrize(
    ("change", "where"),
    [
        (_set("reward", 1, float("nan")), "row 2, column reward"),
        (_set("reward", 4, float("inf")), "row 5, column reward"),
        (_set("reward", 4, 1e300), "row 5, column reward"),  # infinite as float32
        (_set("reward", 3, None), "row 4, column reward"),
        (_set("reward", 6, 1.0), "row 7, column reward"),
        (_set("action", 0, None), "row 1, column action"),
        (_without_steps, "row 3, column action"),
        (_set("state", 3, None), "row 4, column state"),
        (_set("t", 4, 2), "row 5, column t"),
        (_set("t", 4, 0), "row 5, column t"),
        (_set("stay_id", 5, 0), "row 6, column stay_id"),
        (_set("patient_id", 2, None), "row 3, column patient_id"),
        (_swap_rows, "row 5, column stay_id"),
        (_double_a_row, "row 2, column t"),
        (_set("terminated", 0, True), "row 1, column terminated"),
        (_set("terminated", 5, True), "row 6, column terminated"),
        (_set("terminated", 1, False), "row 2, column terminated"),
        (_set("truncated", 4, True), "row 5, column truncated"),
        (_without_the_last_observation, "row 6, column action"),
        (_set("behaviour_probability", 0, 0.0), "row 1, column behaviour_probability"),
        (_set("behaviour_probability", 0, 1.5), "row 1, column behaviour_probability"),
        (_set("behaviour_probability", 0, float("nan")), "row 1, column behaviour_probability"),
    ],
)
def test_a_mistake_is_named_by_row_and_column(change: Callable[[Columns], None], where: str, tmp_path: Path) -> None:
    path = _spoilt(tmp_path, change)

    with pytest.raises(DataRefused, match=where):
        _read(path)


def test_an_unspoilt_table_of_plain_parquet_is_read_as_records_of_people(tmp_path: Path) -> None:
    table = _read(_spoilt(tmp_path, lambda columns: None))

    assert table.trajectories.count == 3
    assert not table.is_simulated  # nothing says that it is


def test_a_stay_that_is_too_long_is_refused_and_not_cut(tmp_path: Path) -> None:
    path = _spoilt(tmp_path, lambda columns: None)

    with pytest.raises(DataRefused, match=r"row 4, column t: expected a stay of at most data.max_steps = 2"):
        _read(path, max_steps=2)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda columns: columns.update(name=["Ada"] * 7), "unknown: name"),
        (lambda columns: columns.pop("reward"), "Missing: reward"),
        (lambda columns: columns.update(feature_age=[1.0] * 7), "either state or feature_"),
        (lambda columns: columns.update(action=["x"] * 7), "expected integers, found string"),
        (lambda columns: columns.update(patient_id=[0.5] * 7), "expected text or integers, found double"),
        (lambda columns: columns.update(allowed=[1] * 7), "expected lists of booleans, found int64"),
        (lambda columns: columns.update(patient_id=_no_utf8()), "patient_id: expected UTF-8, found other bytes"),
        (lambda columns: [values.clear() for values in columns.values()], "expected"),
    ],
)
def test_columns_that_do_not_fit_are_refused(change: Callable[[Columns], Any], word: str, tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match=word):
        _read(_spoilt(tmp_path, change))


def test_a_message_holds_no_value_and_no_patient(tmp_path: Path) -> None:
    path = _spoilt(tmp_path, lambda columns: columns.update(patient_id=["AdaLovelace"] * 7, t=[0, 98765] + [0] * 5))

    with pytest.raises(DataRefused) as refused:
        _read(path)

    assert "Ada" not in str(refused.value)
    assert "98765" not in str(refused.value)


def test_masks_of_another_width_are_refused(tmp_path: Path) -> None:
    ragged = [[True, True]] * 4 + [[True]] * 2 + [None]

    with pytest.raises(DataRefused, match="row 5, column allowed"):
        _read(_spoilt(tmp_path, lambda columns: columns.update(allowed=ragged)))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"patient_id,stay_id\n1,2\n"])
def test_a_file_that_is_no_parquet_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "site-01.parquet").write_bytes(content)

    for path in (tmp_path / "site-01.parquet", tmp_path / "site-02.parquet"):
        with pytest.raises(DataRefused, match="expected a Parquet file"):
            _read(path)


def test_a_table_of_a_newer_format_is_refused_whole(tmp_path: Path) -> None:
    path = _spoilt(tmp_path, lambda columns: None)
    newer = parquet.read_table(path).replace_schema_metadata({b"secure_frl.format": b"secure_frl/steps/v2"})
    parquet.write_table(newer, path)

    with pytest.raises(DataRefused, match="the version of secure-frl that wrote it"):
        _read(path)


def test_episodes_that_are_none_are_not_written(tmp_path: Path) -> None:
    gap = _episodes().steps.copy()
    gap[2] = [True, False, True]
    none = _episodes().steps.copy()
    none[1] = False

    for episodes, patients in (
        (_episodes(steps=gap), PATIENTS),
        (_episodes(steps=none), PATIENTS),
        (_episodes(), PATIENTS[:2]),
    ):
        with pytest.raises(InvalidParameter):
            write_steps(tmp_path / "site-01.parquet", episodes, patients, is_simulated=True)


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(ConfigError, match=r"secure-frl\[parquet\]"):
        _read(tmp_path / "site-01.parquet")


def test_a_table_holds_what_it_must_and_nothing_more(tmp_path: Path) -> None:
    write_steps(tmp_path / "site-01.parquet", _episodes(), PATIENTS, is_simulated=True)

    table = parquet.read_table(tmp_path / "site-01.parquet")

    assert table.column_names == [
        *("patient_id", "stay_id", "t", "state", "action", "reward", "terminated", "truncated"),
    ]
    assert table.schema.metadata == {b"secure_frl.format": b"secure_frl/steps/v1", b"secure_frl.simulated": b"true"}
