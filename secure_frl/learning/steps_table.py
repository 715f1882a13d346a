"""Logged trajectories as a Parquet file, one row a step: how a hospital brings data, and how a simulator writes them.

| column | type | meaning |
|---|---|---|
| `patient_id` | text or integer | whose stay it is; hashed with the site's key as it is read, never kept |
| `stay_id` | text or integer | one episode of that patient; its rows stand together, in the order of `t` |
| `t` | integer | 0, 1, 2 ... inside a stay |
| `state`, or `feature_...` | integer; float | a tabular state, or any number of feature columns, in the file's order |
| `action`, `reward` | integer; float | empty only in the row after a truncated stay, which has the last observation |
| `terminated`, `truncated` | bool | exactly one of them is true, in the last step of a stay |
| `behaviour_probability` | float, optional | of the logged action, above 0, at most 1 |
| `allowed` | list of bool, optional | one entry an action: which ones could have been taken |

Reading is strict: the first thing that is wrong is refused by row and column. It happens before a site joins, and the
message is for that site's own eyes; it holds no value of the table. pyarrow is an optional dependency, imported when
a table is read or written. Only plain column types are taken, so nothing in a file is code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import ConfigError, DataRefused, InvalidParameter
from secure_frl.learning.trajectories import Trajectories

FORMAT = "secure_frl/steps/v1"
SUFFIX = ".parquet"  # a site's file is its name with this
FEATURE = "feature_"  # how the name of a feature column begins
_FORMAT_KEY, _SIMULATED_KEY = b"secure_frl.format", b"secure_frl.simulated"
_REQUIRED = ("patient_id", "stay_id", "t", "action", "reward", "terminated", "truncated")
_OPTIONAL = ("state", "behaviour_probability", "allowed")

PersonOf = Callable[[str], int]  # a patient_id -> the site's keyed hash of it, below 2^64


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StepsTable:
    """What a file held. Never leaves the site."""

    trajectories: Trajectories  # one a stay
    is_simulated: bool  # the file says that nobody stands behind it; only such data may be rehearsed with


def read_steps(path: Path, *, max_steps: int, person_of: PersonOf) -> StepsTable:
    """Read a steps table.

    max_steps: the longest stay that the study allows; a longer one is refused, never cut: the site's own export
    decides where. person_of: called once a patient.
    Raises DataRefused for a file that cannot be read or joined, naming row (from 1) and column; ConfigError without
    pyarrow.
    """
    table = _load(path)
    columns = _Columns(table, path.name)
    stays = columns.stays()
    is_step = columns.steps(stays)
    counts = np.bincount(stays.of_row[is_step], minlength=stays.starts.size)
    if (counts > max_steps).any():
        columns.refuse(stays.starts[counts > max_steps], "t", f"a stay of at most data.max_steps = {max_steps} steps")
    persons = np.array([person_of(name) for name in columns.patient_names], dtype=np.uint64)[columns.patients]
    metadata = table.schema.metadata or {}
    trajectories = columns.padded(stays, is_step, counts, persons[stays.starts])
    return StepsTable(trajectories, metadata.get(_SIMULATED_KEY) == b"true")


def write_steps(path: Path, trajectories: Trajectories, patients: Sequence[str], *, is_simulated: bool) -> None:
    """Write trajectories as a steps table that `read_steps` takes.

    patients: one patient_id a trajectory, [B]. is_simulated: marks the file as made-up data, which may be rehearsed
    with; never say so of records of people.
    Raises InvalidParameter for another number of patients, or an episode without steps or with a gap.
    """
    steps, lengths = trajectories.steps, trajectories.lengths
    width = steps.shape[1]
    if len(patients) != trajectories.count or not np.array_equal(steps, np.arange(width) < lengths[:, None]):
        raise InvalidParameter(
            f"expected {trajectories.count} patients and episodes of steps without a gap, got {len(patients)} patients "
            "or a gap. Pass one patient_id a trajectory."
        )
    if (lengths < 1).any():
        raise InvalidParameter("expected at least one step an episode, got an episode of none. Leave it out.")
    arrow, parquet = _pyarrow()
    rows = lengths + ~trajectories.terminated  # a cut episode has one row more: what was seen after its last step
    stay = np.repeat(np.arange(trajectories.count), rows)
    t = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
    is_step = t < lengths[stay]
    at = np.minimum(t, width - 1)
    last = is_step & (t == lengths[stay] - 1)
    observed = trajectories.observations[stay, at]
    observed[~is_step] = trajectories.final_observations[stay[~is_step]]
    columns = {
        "patient_id": arrow.array(np.array(patients, dtype=object)[stay], type=arrow.string()),
        "stay_id": arrow.array(stay, type=arrow.int64()),
        "t": arrow.array(t, type=arrow.int32()),
    }
    if observed.ndim == 1:
        columns["state"] = arrow.array(observed, type=arrow.int64())
    else:
        columns |= {
            f"{FEATURE}{i}": arrow.array(observed[:, i], type=arrow.float32()) for i in range(observed.shape[1])
        }
    columns["action"] = arrow.array(trajectories.actions[stay, at], type=arrow.int32(), mask=~is_step)
    columns["reward"] = arrow.array(trajectories.rewards[stay, at], type=arrow.float32(), mask=~is_step)
    columns["terminated"] = arrow.array(last & trajectories.terminated[stay])
    columns["truncated"] = arrow.array(last & ~trajectories.terminated[stay])
    if trajectories.log_behaviour is not None:
        probability = np.exp(trajectories.log_behaviour[stay, at].astype(np.float64)).astype(np.float32)
        columns["behaviour_probability"] = arrow.array(probability, type=arrow.float32(), mask=~is_step)
    if trajectories.allowed is not None:
        lists = [
            row if step else None for row, step in zip(trajectories.allowed[stay, at].tolist(), is_step, strict=True)
        ]
        columns["allowed"] = arrow.array(lists, type=arrow.list_(arrow.bool_()))
    marks = {_FORMAT_KEY: FORMAT.encode(), _SIMULATED_KEY: b"true" if is_simulated else b"false"}
    parquet.write_table(arrow.table(columns).replace_schema_metadata(marks), path)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Stays:
    """Which rows belong together."""

    of_row: NDArray[np.int64]  # [rows]: 0..B-1
    starts: NDArray[np.int64]  # [B]: first row of each
    ends: NDArray[np.int64]  # [B]: last row of each
    t: NDArray[np.int64]  # [rows]: place inside the stay


class _Columns:
    """The columns of one table as arrays, each checked when it is taken."""

    def __init__(self, table: Any, name: str) -> None:  # Any: pyarrow has no types
        self._table, self._name, self._rows = table, name, int(table.num_rows)
        self._check_names()
        self.patients, self.patient_names = self._codes("patient_id")

    def refuse(self, rows: NDArray[np.int64], column: str, expected: str) -> None:
        """Raise DataRefused for the first of the rows (from 0)."""
        raise DataRefused(
            f"{self._name}, row {int(rows[0]) + 1}, column {column}: expected {expected}, found another. "
            f"{rows.size} rows are so: correct the export of this table."
        )

    def _check_names(self) -> None:
        names = list(self._table.column_names)
        features = [name for name in names if name.startswith(FEATURE)]
        unknown = sorted(set(names) - {*_REQUIRED, *_OPTIONAL, *features})
        missing = [name for name in _REQUIRED if name not in names]
        if unknown or missing or len(set(names)) < len(names) or ("state" in names) == bool(features):
            raise DataRefused(
                f"{self._name}: expected the columns {', '.join(_REQUIRED)}, either state or {FEATURE}... ones, and "
                f"perhaps behaviour_probability and allowed. Missing: {', '.join(missing) or 'none'}; unknown: "
                f"{', '.join(unknown)[:200] or 'none'}. Write the table with these columns only."
            )
        if not self._rows:
            raise DataRefused(f"{self._name}: expected at least one row, found none. Export at least one stay.")

    def _column(self, name: str, kind: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return values (0 where empty) and which rows have one. kind: "iuf" letters of NumPy, or "b"."""
        found = self._table.column(name).combine_chunks()
        has_value = np.asarray(found.is_valid())
        arrow = _pyarrow()[0]
        is_kind = {
            "i": arrow.types.is_integer(found.type),
            "f": arrow.types.is_floating(found.type) or arrow.types.is_integer(found.type),
            "b": arrow.types.is_boolean(found.type),
        }[kind]
        if not is_kind:
            expected = {"i": "integers", "f": "numbers", "b": "booleans"}[kind]
            raise DataRefused(
                f"{self._name}, column {name}: expected {expected}, found {str(found.type)[:40]}. Convert the column."
            )
        filled = found.fill_null(False if kind == "b" else 0)
        values = filled.to_numpy(zero_copy_only=False)
        if kind == "i" and values.dtype == np.uint64 and (values >> np.uint64(63)).any():
            self.refuse(np.flatnonzero(values >> np.uint64(63)), name, "integers below 2^63")
        return values.astype({"i": np.int64, "f": np.float64, "b": np.bool_}[kind]), has_value

    def _codes(self, name: str) -> tuple[NDArray[np.int64], list[str]]:
        """Return a number a row, and the text that each number stands for."""
        arrow = _pyarrow()[0]
        found = self._table.column(name).combine_chunks()
        kinds = arrow.types
        if not (kinds.is_integer(found.type) or kinds.is_string(found.type) or kinds.is_large_string(found.type)):
            raise DataRefused(
                f"{self._name}, column {name}: expected text or integers, found {str(found.type)[:40]}. Convert it."
            )
        empty = np.flatnonzero(~np.asarray(found.is_valid()))
        if empty.size:
            self.refuse(empty, name, "a value in every row")
        encoded = found.dictionary_encode()
        try:
            names = [str(value) for value in encoded.dictionary.to_pylist()]
        except UnicodeDecodeError:  # its message would show a byte of the table
            raise DataRefused(f"{self._name}, column {name}: expected UTF-8, found other bytes. Convert it.") from None
        return encoded.indices.to_numpy().astype(np.int64), names

    def _whole(self, name: str, kind: str) -> NDArray[Any]:
        values, has_value = self._column(name, kind)
        if not has_value.all():
            self.refuse(np.flatnonzero(~has_value), name, "a value in every row")
        return values

    def stays(self) -> _Stays:
        """Return which rows form a stay. Refuses stays that are scattered or doubled, and gaps in t."""
        stay, _ = self._codes("stay_id")
        pair = self.patients * (int(stay.max()) + 1) + stay
        first = np.flatnonzero(np.r_[True, pair[1:] != pair[:-1]])
        _, seen_first = np.unique(pair[first], return_index=True)
        if seen_first.size < first.size:
            again = np.setdiff1d(np.arange(first.size), seen_first)
            self.refuse(first[again], "stay_id", "the rows of a stay together, and each stay once")
        of_row = np.repeat(np.arange(first.size), np.diff(np.r_[first, self._rows]))
        expected = np.arange(self._rows) - first[of_row]
        t = self._whole("t", "i")
        if (t != expected).any():
            self.refuse(np.flatnonzero(t != expected), "t", "0, 1, 2 ... inside a stay, without gap or duplicate")
        return _Stays(of_row, first, np.r_[first[1:], self._rows] - 1, t)

    def steps(self, stays: _Stays) -> NDArray[np.bool_]:
        """Return which rows are steps, bool [rows]: all but the last observation of a truncated stay."""
        _, is_step = self._column("action", "i")
        allowed_empty = np.zeros(self._rows, dtype=np.bool_)
        allowed_empty[stays.ends] = stays.t[stays.ends] > 0
        if (~is_step & ~allowed_empty).any():
            self.refuse(np.flatnonzero(~is_step & ~allowed_empty), "action", "an action in every step")
        terminated, truncated = (self._column(name, "b")[0] for name in ("terminated", "truncated"))
        has_rest = ~is_step[stays.ends]
        last = np.zeros(self._rows, dtype=np.bool_)
        last[stays.ends - has_rest] = True
        for name, marks in (("terminated", terminated), ("truncated", truncated)):
            if (marks & ~last).any():
                self.refuse(np.flatnonzero(marks & ~last), name, "true in the last step of a stay only")
        if (last & (terminated == truncated)).any():
            wrong = np.flatnonzero(last & (terminated == truncated))
            self.refuse(wrong, "terminated", "exactly one of terminated and truncated in the last step of a stay")
        if (truncated[stays.ends - has_rest] != has_rest).any():
            wrong = stays.ends[truncated[stays.ends - has_rest] != has_rest]
            self.refuse(wrong, "action", "one more row, with the last observation only, after a truncated stay alone")
        return is_step

    def padded(
        self, stays: _Stays, is_step: NDArray[np.bool_], counts: NDArray[np.int64], persons: NDArray[np.uint64]
    ) -> Trajectories:
        """Return the stays as arrays padded with zeros."""
        shape = (stays.starts.size, int(counts.max()))
        at = (stays.of_row[is_step], stays.t[is_step])
        observed = self._observations()

        def spread(values: NDArray[Any]) -> NDArray[Any]:  # Any: the dtype of each column stays
            whole = np.zeros((*shape, *values.shape[1:]), dtype=values.dtype)
            whole[at] = values[is_step]
            return whole

        terminated = self._column("terminated", "b")[0]
        return Trajectories(
            observations=spread(observed),
            actions=spread(self._in_steps("action", "i", is_step)),
            allowed=self._allowed(is_step, spread),
            rewards=spread(self._in_steps("reward", "f", is_step).astype(np.float32)),
            log_behaviour=self._log_behaviour(is_step, spread),
            steps=spread(is_step),
            terminated=terminated[stays.ends],
            final_observations=observed[stays.ends],
            persons=persons,
        )

    def _observations(self) -> NDArray[Any]:
        """Return int64 [rows] states or float32 [rows, D] features; also of rows that are no step."""
        names = [name for name in self._table.column_names if name.startswith(FEATURE)]
        if not names:
            return self._whole("state", "i")
        with np.errstate(over="ignore"):
            features = np.stack([self._whole(name, "f").astype(np.float32) for name in names], axis=1)
        for column, values in zip(names, features.T, strict=True):
            self._finite(values, column)
        return features

    def _in_steps(self, name: str, kind: str, is_step: NDArray[np.bool_]) -> NDArray[Any]:
        values, has_value = self._column(name, kind)
        if (has_value != is_step).any():
            self.refuse(np.flatnonzero(has_value != is_step), name, "a value in every step, and in no other row")
        if kind == "f":
            with np.errstate(over="ignore"):
                self._finite(values.astype(np.float32), name)
        return values

    def _finite(self, values: NDArray[np.float32], name: str) -> None:
        if not np.isfinite(values).all():
            self.refuse(np.flatnonzero(~np.isfinite(values)), name, "a finite number")

    def _log_behaviour(self, is_step: NDArray[np.bool_], spread: Any) -> NDArray[np.float32] | None:
        if "behaviour_probability" not in self._table.column_names:
            return None
        values = self._in_steps("behaviour_probability", "f", is_step)
        outside = is_step & ~((values > 0) & (values <= 1))
        if outside.any():
            self.refuse(np.flatnonzero(outside), "behaviour_probability", "a probability above 0, at most 1")
        return np.asarray(spread(np.log(np.where(is_step, values, 1.0)).astype(np.float32)), dtype=np.float32)

    def _allowed(self, is_step: NDArray[np.bool_], spread: Any) -> NDArray[np.bool_] | None:
        if "allowed" not in self._table.column_names:
            return None
        column, kinds = self._table.column("allowed"), _pyarrow()[0].types
        if not (
            kinds.is_list(column.type) or kinds.is_large_list(column.type) or kinds.is_fixed_size_list(column.type)
        ):
            raise DataRefused(
                f"{self._name}, column allowed: expected lists of booleans, found {str(column.type)[:40]}. Convert it."
            )
        lists = column.to_pylist()
        width = next((len(row) for row in lists if row), 0)
        wrong = [
            row
            for row, (found, step) in enumerate(zip(lists, is_step.tolist(), strict=True))
            if step and (found is None or len(found) != width or not all(type(entry) is bool for entry in found))
        ]
        if wrong or not width:
            self.refuse(np.array(wrong or [0]), "allowed", "a list of booleans in every step, all of one length")
        dense = np.array([row if step else [False] * width for row, step in zip(lists, is_step.tolist(), strict=True)])
        return np.asarray(spread(dense.astype(np.bool_)), dtype=np.bool_)


def _load(path: Path) -> Any:  # Any: pyarrow has no types
    arrow, parquet = _pyarrow()
    try:
        table = parquet.ParquetFile(path).read()
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise DataRefused(
            f"{path.name}: expected a Parquet file, cannot read one. Check data.path: a relative one "
            "starts at the folder in which the command runs."
        ) from error
    found = (table.schema.metadata or {}).get(_FORMAT_KEY, FORMAT.encode())
    if found != FORMAT.encode():
        raise DataRefused(
            f"{path.name}: expected a steps table of format {FORMAT}, found {found[:60]!r}. "
            "Read it with the version of secure-frl that wrote it."
        )
    return table


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ConfigError(
            "steps tables are Parquet files, and pyarrow is not installed. "
            "Install it: pip install -c constraints.txt 'secure-frl[parquet]'."
        ) from error
    return pyarrow, parquet
