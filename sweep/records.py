"""The three tables of a study, trials, evaluations and images, as parquet parts in its folder or store: append, read, compact.

A record that an `append_` returned from is on disk. Parts are written under a temporary name and renamed, and named by their
keys: a reader never meets half a part, and writing twice is writing once. Nothing here knows what a study or a training is."""

from __future__ import annotations

import errno
import io
import itertools
import json
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from sweep.causes import cause_of_old_reason
from sweep.errors import LeaseLostError, RecordsError, SweepError
from sweep.interrupting import sigterm_interrupts
from sweep.objective import best_of, more_is_better
from sweep.record_files import LEADS_OUT, in_commands, remove, write_atomically, write_pictures
from sweep.record_schema import (
    EVALUATIONS,
    IMAGES,
    METRIC_COLUMNS,
    NO_ADAPTER,
    SCHEMA_VERSION,
    SIMILARITIES,
    TABLES,
    TRIALS,
    Column,
    Table,
    as_arrow,
    state_word,
)
from sweep.seed_scatter import Component, SeedScatter, half_width, p_value
from trainables import checksums
from trainables.mean_intervals import CONFIDENCE, N_RESAMPLES, bounds_of_means, resample_weights
from trainables.storage import Place, StorePath, line_of, patiently, place, reason_of, require_plain_name

__all__ = [
    "CONFIDENCE",
    "Component",
    "EVALUATIONS",
    "IMAGES",
    "METRIC_COLUMNS",
    "NO_ADAPTER",
    "N_RESAMPLES",
    "SCHEMA_VERSION",
    "SIMILARITIES",
    "SeedScatter",
    "TABLES",
    "TRIALS",
    "Place",
    "Records",
    "RecordsError",
    "SweepError",
    "as_rows",
    "best_of",
    "bounds_of_means",
    "half_width",
    "in_commands",
    "line_of",
    "more_is_better",
    "p_value",
    "place",
    "resample_weights",
    "sigterm_interrupts",
    "state_word",
]

MOST_PARTS = 1000
"""How many parts of a table one writer leaves before it merges them."""

_COMPACT = "compact-"
_READ_ATTEMPTS = 5


class Records:
    """The records in one study's folder. Reading works while others write, and in a folder that was copied elsewhere.

    A part is complete before it has its name, so a damaged one means that a disk or a copy failed. Reading then raises rather
    than let a ranking change silently; skip_damaged=True reads the rest, with a warning for each part."""

    def __init__(
        self,
        study_dir: str | Place,
        *,
        skip_damaged: bool = False,
        leave_out: Collection[Place] = (),
        launch: str = "",
        guard: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`launch`: whose rows of trials are written, so that two launches never write the same part; ids sort by the time at which launches
        began. `leave_out`: parts that are not read. `guard` is called before anything is written, and raises where another launch has the study now."""
        self.study_dir = place(study_dir)
        self._launch, self._guard = launch, guard
        self._skip_damaged, self._leave_out = skip_damaged, leave_out
        self._clock = clock
        self._sequences: dict[str, int] = {}
        self._n_written: Counter[str] = Counter()

    def append_trial(self, row: Mapping[str, Any]) -> None:
        """One state of a trial. `sequence` and `updated_at` are filled in where they are missing.

        Raises:
            RecordsError: an unknown column, or a folder that cannot be written."""
        trial = str(row["trial"])
        sequence = row["sequence"] if "sequence" in row else self._next_sequence(trial)
        self._sequences[trial] = sequence
        full = {"updated_at": self._clock(), "schema_version": SCHEMA_VERSION, **row, "sequence": sequence}
        name = f"{trial}-{sequence:06d}"
        name = f"{name}-{self._launch}" if self._launch else name
        self._write_part(TRIALS, name, [full])
        if self._launch:
            self._take_back_if_lost(self._folder(TRIALS) / f"{name}.parquet")

    def append_evaluation(
        self, row: Mapping[str, Any], image_rows: Sequence[Mapping[str, Any]] = (), pictures: np.ndarray | None = None
    ) -> None:  # pictures (n, h, w, 3) uint8
        """Pictures, then image rows, then the evaluation row: without the last, none of it is read.

        `index` and `path` of image rows are filled in; metrics without a column of their own go to `further_metrics`.

        Raises:
            RecordsError: an unknown column, pictures without rows, or a folder that cannot be written."""
        key = str(row["evaluation_key"])
        if pictures is not None and len(pictures) != len(image_rows):
            raise RecordsError(f"Every picture has an image row, but evaluation {key} gives {len(pictures)} and {len(image_rows)}.")
        self._guard()
        paths = write_pictures(self.study_dir, key, pictures) if pictures is not None else [None] * len(image_rows)
        images = [
            {"index": index, "path": path, **image, "evaluation_key": key}
            for index, (image, path) in enumerate(zip(image_rows, paths, strict=True))
        ]
        if images:
            self._write_part(IMAGES, key, images)
        stamps = {"created_at": self._clock(), "schema_version": SCHEMA_VERSION}
        self._write_part(EVALUATIONS, key, [_with_further_metrics({**stamps, **row})])

    def trials(self) -> pd.DataFrame:
        """One row per state change of a trial, by trial number and sequence."""
        trials = self._read(TRIALS).sort_values(["number", "trial", "sequence"], kind="stable", ignore_index=True)
        return trials.assign(cause=_causes_of(trials))

    def latest_trials(self) -> pd.DataFrame:
        """One row per trial: its latest state, by trial number."""
        return self.trials().drop_duplicates("trial", keep="last", ignore_index=True)

    def evaluations(self) -> pd.DataFrame:
        """One row per image set, in the order in which they were made."""
        return self._read(EVALUATIONS).sort_values(["created_at", "evaluation_key"], kind="stable", ignore_index=True)

    def evaluation(self, evaluation_key: str) -> dict[str, Any] | None:
        """One evaluation's row as `as_rows` gives it, or None; cheap while its part has not been compacted."""
        part = self._folder(EVALUATIONS) / f"{evaluation_key}.parquet"
        try:
            frame = _frame(self._read_files(EVALUATIONS, [part]), EVALUATIONS)
        except FileNotFoundError:  # compacted, or never written
            frame = self.evaluations()
        rows = as_rows(frame[frame["evaluation_key"] == evaluation_key], EVALUATIONS)
        return rows[-1] if rows else None

    def images(self) -> pd.DataFrame:
        """One row per generated image of a finished evaluation."""
        images = self._read(IMAGES)
        finished = images["evaluation_key"].isin(self._read(EVALUATIONS)["evaluation_key"])
        return images[finished].sort_values(["evaluation_key", "index"], kind="stable", ignore_index=True)

    def damaged_parts(self) -> list[Place]:
        """The parts of all tables that cannot be read, by table and name.

        Raises:
            RecordsError: the records are of a newer version, or somebody has tampered with them."""
        return [part for table in (TRIALS, EVALUATIONS, IMAGES) for part in self._parts(table) if self._is_damaged(table, part)]

    def compact(self, *, least_parts: int = 2) -> None:
        """Merge the parts of every table that has at least so many into one. May be killed at any point, and run beside readers,
        writers and other compactions: the merged part is there before the others go, and what is in two parts is read once."""
        for table in (TRIALS, IMAGES, EVALUATIONS):
            self._compact(table, least_parts)

    # -- private -----------------------------------------------------------------------------------------------------

    def _take_back_if_lost(self, part: Place) -> None:
        """A process may sleep between the guard and the write. Nobody else writes this part."""
        try:
            self._guard()
        except LeaseLostError:
            remove([part])
            raise
        except RecordsError:  # the storage does not answer just now, but the row is there
            return

    def _folder(self, table: Table) -> Place:
        return self.study_dir / "records" / table.name

    def _parts(self, table: Table) -> list[Place]:
        """Compacted parts first: where a key is in two parts, the single one was written later; of
        two single ones, the later launch's."""
        folder = self._folder(table)
        try:
            parts = sorted(folder.glob("*.parquet"), key=lambda part: (not _is_compact(part), part.stem))
        except OSError as error:
            raise RecordsError(f"The records must be readable, but {folder} is not: {reason_of(error)}.") from error
        left_out = {str(part) for part in self._leave_out}
        return [part for part in parts if not part.name.startswith(".") and str(part) not in left_out]

    def _compact(self, table: Table, least_parts: int) -> None:
        parts = self._parts(table)
        if table is IMAGES:  # rows of an evaluation that is just being written stay as they are
            finished = set(self._read(EVALUATIONS)["evaluation_key"])
            parts = [part for part in parts if _is_compact(part) or part.stem in finished]
        if len(parts) < max(2, least_parts):
            return
        try:
            merged = _once(self._read_files(table, parts), table)
        except FileNotFoundError:  # another process compacts the same
            return
        number = max((int(part.stem.removeprefix(_COMPACT).partition("-")[0]) for part in parts if _is_compact(part)), default=0) + 1
        # Two compactions at once may merge different parts: under one name the second would replace rows that only the first had.
        self._write_table(table, f"{_COMPACT}{number:06d}-{uuid.uuid4().hex[:8]}", merged)
        remove(parts)

    def _next_sequence(self, trial: str) -> int:
        if trial not in self._sequences:
            known = self._read(TRIALS)
            self._sequences = {**known.groupby("trial")["sequence"].max().astype(int).to_dict(), **self._sequences}
        return self._sequences.get(trial, -1) + 1

    def _write_part(self, table: Table, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        require_plain_name(name, f"The key of a row of {table.name}")
        self._guard()
        self._write_table(table, name, _within_the_study(as_arrow(table, rows), table))
        self._n_written[table.name] += 1
        if self._n_written[table.name] % MOST_PARTS == 0:
            self._compact(table, MOST_PARTS)

    def _write_table(self, table: Table, name: str, rows: pa.Table) -> None:
        content = part_bytes(rows)
        write_atomically(self._folder(table) / f"{name}.parquet", lambda file: file.write(content))

    def _read(self, table: Table) -> pd.DataFrame:
        for attempt in itertools.count(1):
            parts = self._parts(table)
            try:
                rows = self._read_files(table, parts)
            except FileNotFoundError:  # compacted away between listing and reading: list again
                if attempt == _READ_ATTEMPTS:
                    raise
                continue
            # A listing that a compaction overlapped may have missed both the merged part, not there yet, and a part that just went.
            if attempt == _READ_ATTEMPTS or self._compacted(table) == {part.name for part in parts if _is_compact(part)}:
                return _frame(_once(rows, table), table)
        raise AssertionError

    def _compacted(self, table: Table) -> set[str]:
        return {part.name for part in self._folder(table).glob(f"{_COMPACT}*.parquet")}

    def _read_files(self, table: Table, parts: Sequence[Place]) -> pa.Table:
        if not parts:
            return table.schema.empty_table()
        try:
            _require_intact(parts)
            return _checked(patiently(lambda: _table_of(table, parts), str(parts[0].parent)), table)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException):  # one of them is damaged: find out which
            return _checked(pa.concat_tables(self._each_readable(table, parts)), table)

    def _is_damaged(self, table: Table, part: Place) -> bool:
        try:
            if not isinstance(part, Path) and checksums.is_damaged(io.BytesIO(part.read_bytes())):
                return True
            _require_intact([part])
            rows = patiently(lambda: _table_of(table, [part]), str(part))
        except FileNotFoundError:  # compacted away meanwhile
            return False
        except (OSError, pa.ArrowException):
            return True
        frame = _frame(_checked(rows, table), table)
        try:
            as_rows(frame, table, shared=True)
        except RecordsError:
            return True
        return any(frame[name].isna().any() for name in table.needed)

    def _each_readable(self, table: Table, parts: Iterable[Place]) -> Iterable[pa.Table]:
        yield table.schema.empty_table()
        for part in parts:
            try:
                _require_intact([part])
                yield _table_of(table, [part])
            except FileNotFoundError:
                raise
            except (OSError, pa.ArrowException) as error:
                message = f"A part of the records must be readable parquet, but {part} is damaged ({_size_text(part)})."
                if not self._skip_damaged:
                    raise RecordsError(
                        f"{message} Restore it, or use `sweep repair {in_commands(self.study_dir)}`, which computes what it held again."
                    ) from error
                warnings.warn(f"{message} It was left out.", stacklevel=2)


def _size_text(part: Place) -> str:
    try:
        return f"{part.stat().st_size} bytes"
    except OSError as error:
        return reason_of(error)


def part_bytes(rows: pa.Table) -> bytes:
    """A part of the records as a file, with its checksum."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, rows.schema, compression="zstd") as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({checksums.NAME: checksums.BLANK})
    return checksums.sealed(buffer.getvalue())


def as_rows(frame: pd.DataFrame, table: Table, *, shared: bool = False) -> list[dict[str, Any]]:
    """The frame's rows as dictionaries: json columns decoded, what is missing (NaN too) as None.

    shared: equal json becomes one object in all rows, much faster; for those who change none of them."""
    names = [name for name in frame.columns if name in table.columns]
    json_of = cache(json.loads) if shared else json.loads
    columns = [_cells(frame[name], table.columns[name], json_of) for name in names]  # a column at once: of a study there are millions of cells
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _cells(values: pd.Series, column: Column, json_of: Callable[[str], Any]) -> list[Any]:
    missing = values.isna()
    if missing.all():
        return [None] * len(values)
    cells = values.tolist()
    if column.dtype == "json":
        try:
            return [None if gone else _of_kind(json_of(cell), column) for cell, gone in zip(cells, missing, strict=True)]
        except (ValueError, TypeError, RecursionError) as error:
            raise RecordsError(
                f"`{column.name}` of the records must be JSON of its kind, but a row is damaged: {error}. `sweep repair` with the "
                "study's name finds its part and computes it again."
            ) from error
    return [None if gone else cell for cell, gone in zip(cells, missing, strict=True)] if missing.any() else cells


def _of_kind(value: Any, column: Column) -> Any:
    """Raises: TypeError where it is not what this column holds."""
    if value is not None and not isinstance(value, list if column.is_list else dict):
        raise TypeError(f"it is {value!r:.60}")
    if column.name == "rung_values":
        for epoch, objective, *keys in value or []:
            if not isinstance(epoch, int) or not isinstance(objective, (int, float, type(None))) or not all(isinstance(k, str) for k in keys):
                raise TypeError(f"it is {value!r:.60}")
    return value


def _is_compact(part: Place) -> bool:
    return part.name.startswith(_COMPACT)


def _require_intact(parts: Sequence[Place]) -> None:
    """Raises: OSError where a part has another checksum than its content. Stores keep checksums of their own."""
    for part in parts:
        if isinstance(part, Path) and checksums.is_damaged(part):
            raise OSError(errno.EIO, "its content is not that of its checksum", str(part))


def _table_of(table: Table, parts: Sequence[Place]) -> pa.Table:
    """Raises: OSError or ArrowException where a part is damaged."""
    rows = _dataset(table, parts).to_table()
    rows.validate(full=True)  # texts of a damaged page need not be Unicode
    return rows


def _dataset(table: Table, parts: Sequence[Place]) -> ds.Dataset:
    if isinstance(parts[0], StorePath):
        return ds.dataset([part.key for part in parts], schema=table.schema, format="parquet", filesystem=parts[0].filesystem)
    return ds.dataset([str(part) for part in parts], schema=table.schema, format="parquet")


def _once(rows: pa.Table, table: Table) -> pa.Table:
    """Every key once: the row that was written last."""
    keys = pd.DataFrame({name: rows[name].to_numpy(zero_copy_only=False) for name in table.key})
    repeated = keys.duplicated(keep="last").to_numpy()
    return rows.filter(pa.array(~repeated)) if repeated.any() else rows


def _frame(rows: pa.Table, table: Table) -> pd.DataFrame:
    # A metric that is null and one that is NaN are told apart on disk; a frame has NaN for both. Integers stay integers.
    return rows.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get).reindex(columns=list(table.columns))


def _checked(rows: pa.Table, table: Table) -> pa.Table:
    if "schema_version" in table.columns and rows.num_rows:
        newest = pc.max(rows["schema_version"]).as_py() or 0
        if newest > SCHEMA_VERSION:
            raise RecordsError(f"These records are of schema {newest}, but this version reads up to {SCHEMA_VERSION}. Update the program.")
    return _within_the_study(rows, table)


def _within_the_study(rows: pa.Table, table: Table) -> pa.Table:
    """The rows, where no picture's path leads out of the study's folder: whoever reads it opens that file."""
    if "path" in table.columns and rows.num_rows:
        outside = rows.filter(pc.fill_null(pc.match_substring_regex(rows["path"].cast(pa.string()), LEADS_OUT), False))
        if outside.num_rows:
            raise RecordsError(
                f"A picture lies in its study's folder, but evaluation {outside['evaluation_key'][0]} of these records has the path "
                f"{outside['path'][0].as_py()!r}. Do not use records that somebody has tampered with."
            )
    return rows


def _causes_of(trials: pd.DataFrame) -> pd.Series:
    """By row of the trials, the cause of its end; of rows of schema 5 and older from the sentence that says it."""
    old = (trials["state"] == "FAIL") & trials["cause"].isna()
    said = [cause_of_old_reason(reason) for reason in trials.loc[old, "reason"].fillna("")]
    return trials["cause"].astype(object).mask(old, pd.Series(map(str, said), index=trials.index[old], dtype=object))


def _with_further_metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in row.items() if name in EVALUATIONS.columns}
    further = {
        name: value for name, value in row.items() if name not in known and isinstance(value, (int, float, np.floating, np.integer))
    }
    own = known.get("further_metrics") or {}
    merged = {**(json.loads(own) if isinstance(own, str) else own), **further}
    unknown = {name: value for name, value in row.items() if name not in known and name not in further}
    return {**known, **unknown, "further_metrics": merged}
