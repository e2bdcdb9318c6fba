"""What of a study is damaged or missing on disk, and what makes it whole again. Reads; changes nothing, and imports no torch.

Every kind of file that a study has is looked at: its description and source, launches and requests, the parts of its records, pictures,
adapters, optimiser states, and what is kept of frozen networks. sweep/repair.py mends what is found."""

from __future__ import annotations

import ast
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from pathlib import Path
from typing import Any

from sweep.control import read_wishes
from sweep.disk import NO_ADAPTER, STATE, WEIGHTS
from sweep.errors import StudyError
from sweep.folder import ADAPTERS, StudyFolder
from sweep.launches import read_launches
from sweep.messages import PHOTOGRAPHS
from sweep.record_files import read_view
from sweep.records import EVALUATIONS, IMAGES, TRIALS, Records, as_rows
from sweep.searcher import FAIL, trial_id
from sweep.study_file import read_source
from trainables import checksums
from trainables.storage import Place

CHECKED_AT_A_GLANCE = 256 << 20
"""Bytes of adapters and pictures that `sweep status` reads; `sweep repair` reads all."""

_PNG = b"\x89PNG\r\n\x1a\n"
_OF_A_FILE = "file:"  # how training keys of adapters begin that were not trained here


class Remedy(Enum):
    """What makes a damaged or missing part whole again, in the order in which it is done."""

    DESCRIPTION = "written again from study.py, its subject and models taken as they are now"
    SOURCE = "copied again from the study's file"
    LAUNCHES = "begun anew: budgets count from now on, and what --set and options gave before is to be given again"
    FORGOTTEN = "not needed, or made again when it is needed"
    TRIED = "tried again: trials under their numbers, with what is stored of them"
    SCORED = "made and scored again"
    TRAINED = "trained again"
    BY_HAND = "not made here: score the file again with `sweep score FILE --study NAME`"


@dataclass(frozen=True)
class Damage:
    """One part of a study that is damaged, or missing. `files` are those of it that are there."""

    part: str  # as a person finds it
    is_missing: bool
    remedy: Remedy
    files: tuple[Place, ...] = ()
    evaluation_keys: frozenset[str] = frozenset()  # to be computed again
    adapter: tuple[str, int] | None = None  # training key and epoch, to be trained again

    @property
    def text(self) -> str:
        return f"{self.part} is {'missing' if self.is_missing else 'damaged'}"


@dataclass(frozen=True)
class Checkup:
    """All damage that was found, and how many bytes of adapters and pictures were not read."""

    damages: tuple[Damage, ...]
    n_bytes_unread: int = 0

    def still_in(self, now: Checkup) -> Checkup:
        """Of this damage, what is found now, too."""
        found = set(now.damages)
        left = tuple(damage for damage in self.damages if damage in found)
        return Checkup(left, now.n_bytes_unread)


def check_study(folder: StudyFolder, *, most_bytes: int | None = None) -> Checkup:
    """Look at all that the study has. `most_bytes`: of adapters, states and pictures; beyond it only whether they are there.

    Raises:
        RecordsError: the records are of a newer version."""
    reader, damaged = _Reader(most_bytes), Records(folder.root).damaged_parts()
    rows = _Rows.of(folder, damaged)
    found = [*_of_texts(folder), *_of_parts(damaged), *_of_records(rows), *_of_adapters(folder, rows, reader)]
    return Checkup((*found, *_of_pictures(folder, rows, reader), *_of_caches(folder, reader)), reader.n_bytes_unread)


def is_whole_png(content: bytes) -> bool:
    """Whether the chunks of a PNG have their checksums, from its signature to its end."""
    at, kind = len(_PNG), b""
    while content.startswith(_PNG) and at + 12 <= len(content) and kind != b"IEND":
        length = int.from_bytes(content[at : at + 4], "big")
        kind, end = content[at + 4 : at + 8], at + 8 + length
        if zlib.crc32(content[at + 4 : end]).to_bytes(4, "big") != content[end : end + 4]:
            return False
        at = end + 4
    return kind == b"IEND" and at == len(content)


# ---- private


class _Reader:
    """Reads files to their ends until so many bytes are read; then it only counts."""

    def __init__(self, most_bytes: int | None) -> None:
        self._left = most_bytes
        self.n_bytes_unread = 0

    def is_damaged(self, file: Place, check: Callable[[Place], bool]) -> bool:
        n_bytes = file.stat().st_size
        if n_bytes == 0:
            return True
        if self._left is not None and (n_bytes > self._left or not isinstance(file, Path)):
            self.n_bytes_unread += n_bytes
            return False
        if self._left is not None:
            self._left -= n_bytes
        try:
            return check(file)
        except OSError:  # a part of the disk that cannot be read
            return True


def _sealed_is_damaged(file: Place) -> bool:
    return checksums.is_damaged(file if isinstance(file, Path) else BytesIO(file.read_bytes())) or not _is_safetensors(file)


def _is_safetensors(file: Place) -> bool:
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import load

    try:
        if not isinstance(file, Path):
            load(file.read_bytes())
            return True
        with safe_open(file, framework="np"):
            return True
    except (SafetensorError, ValueError, KeyError):
        return False


def _of_texts(folder: StudyFolder) -> Iterator[Damage]:
    for path, read, remedy in (
        (folder.description, folder.read_description, Remedy.DESCRIPTION),
        (folder.source, lambda: _require_python(folder.source), Remedy.SOURCE),
        (folder.launches, lambda: read_launches(folder.launches), Remedy.LAUNCHES),
        (folder.control, lambda: read_wishes(folder.control), Remedy.FORGOTTEN),
        (folder.pack_size, lambda: _require_object(folder.pack_size), Remedy.FORGOTTEN),
    ):
        is_needed = remedy in (Remedy.DESCRIPTION, Remedy.SOURCE)
        if not path.exists():
            if is_needed:
                yield Damage(path.name, True, remedy)
            continue
        try:
            read()
        except (OSError, StudyError):
            yield Damage(path.name, False, remedy, (path,))


def _require_python(path: Place) -> None:
    try:
        is_empty = not ast.parse(read_source(path)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # ValueError: a null byte
        raise StudyError(f"A study file must be valid Python, but {path} is not: {error}.") from error
    if is_empty:
        raise StudyError(f"A study file must define a study, but {path} is empty.")


def _require_object(path: Path) -> None:
    if read_view(path) is None:
        raise StudyError(f"{path} must be a JSON object, but it is not.")


def _of_parts(damaged: Iterable[Place]) -> Iterator[Damage]:
    for part in damaged:
        remedy = Remedy.TRIED if part.parent.name == TRIALS.name else Remedy.SCORED
        yield Damage(f"records/{part.parent.name}/{part.name}", False, remedy, (part,))


def _of_records(rows: _Rows) -> Iterator[Damage]:
    trials, evaluations, images = rows.trials, rows.evaluations, rows.images
    numbers, are_numbered = {row["number"] for row in trials}, all(row["trial"] == trial_id(row["number"]) for row in trials)
    for number in sorted(set(range(max(numbers, default=-1))) - numbers):
        yield Damage(f"trial {trial_id(number)}" if are_numbered else f"trial number {number}", True, Remedy.TRIED)
    scored = {key for row in trials if row["state"] != FAIL for _, _, *keys in row["rung_values"] or [] for key in keys}
    for key in sorted(scored - {row["evaluation_key"] for row in evaluations}):
        yield Damage(f"evaluation {key}", True, Remedy.SCORED, evaluation_keys=frozenset([key]))
    n_rows = Counter(row["evaluation_key"] for row in images)
    for row in evaluations:
        key, n_images = row["evaluation_key"], row["n_images"]
        if n_images is not None and n_rows[key] != n_images:
            yield Damage(f"image rows of evaluation {key}", True, _again(row), evaluation_keys=frozenset([key]))


def _of_pictures(folder: StudyFolder, rows: _Rows, reader: _Reader) -> Iterator[Damage]:
    by_key = {row["evaluation_key"]: row for row in rows.evaluations}
    paths: dict[str, list[str]] = defaultdict(list)
    for row in rows.images:
        if row["path"] is not None and row["evaluation_key"] in by_key:
            paths[row["evaluation_key"]].append(row["path"])
    for key, own in paths.items():
        there = _names_below(folder.root / "pictures" / key)
        lost = [path for path in own if path.rpartition("/")[2] not in there]
        files = [folder.root / path for path in own if path not in lost]
        bad = [file for file in files if reader.is_damaged(file, lambda file: not is_whole_png(file.read_bytes()))]
        again = {"remedy": _again(by_key[key]), "evaluation_keys": frozenset([key])}
        if lost:
            yield Damage(f"{len(lost)} of {len(own)} pictures in pictures/{key}", True, **again)
        for file in bad:
            yield Damage(f"pictures/{key}/{file.name}", False, files=(file,), **again)


def _of_adapters(folder: StudyFolder, rows: _Rows, reader: _Reader) -> Iterator[Damage]:
    wanted = {(row["training_key"], int(row["epoch"] or 0)) for row in rows.evaluations if _is_trained_here(row["training_key"])}
    for key, epoch in sorted(wanted):
        part = f"{ADAPTERS}/{key}/epoch-{epoch:05d}"
        stores = [place / key / f"epoch-{epoch:05d}" for place in (folder.adapters, folder.root / ADAPTERS)]
        stored = next((store for store in stores if (store / WEIGHTS).exists()), None)
        if stored is None:
            yield Damage(f"{part}/{WEIGHTS}", True, Remedy.TRAINED, adapter=(key, epoch))
        elif reader.is_damaged(stored / WEIGHTS, _sealed_is_damaged):
            yield Damage(f"{part}/{WEIGHTS}", False, Remedy.TRAINED, (stored / WEIGHTS,), adapter=(key, epoch))
    for key in sorted({key for key, _ in wanted}):
        for state in sorted((folder.adapters / key).glob(f"epoch-*/{STATE}")):
            if reader.is_damaged(state, _sealed_is_damaged):
                yield Damage(f"{ADAPTERS}/{key}/{state.parent.name}/{STATE}", False, Remedy.FORGOTTEN, (state,))


def _of_caches(folder: StudyFolder, reader: _Reader) -> Iterator[Damage]:
    files = sorted(folder.latents.glob("*.safetensors")) if folder.latents.is_dir() else []
    for file in files:
        if reader.is_damaged(file, _sealed_is_damaged):
            yield Damage(f"{folder.latents.name}/{file.name}", False, Remedy.FORGOTTEN, (file,))


@dataclass(frozen=True)
class _Rows:
    """What can be read of the records."""

    trials: list[dict[str, Any]]  # the latest row of each
    evaluations: list[dict[str, Any]]
    images: list[dict[str, Any]]

    @classmethod
    def of(cls, folder: StudyFolder, damaged: Collection[Place]) -> _Rows:
        records = Records(folder.root, leave_out=damaged)
        # In this order: of a study that runs, what a row refers to was written before it.
        trials, evaluations = as_rows(records.latest_trials(), TRIALS), as_rows(records.evaluations(), EVALUATIONS)
        return cls(trials, evaluations, as_rows(records.images()[["evaluation_key", "index", "path"]], IMAGES))


def _again(row: Mapping[str, Any]) -> Remedy:
    is_of_a_file = (row["training_key"] or _OF_A_FILE).startswith(_OF_A_FILE)
    return Remedy.BY_HAND if is_of_a_file else Remedy.SCORED


def _is_trained_here(training_key: str | None) -> bool:
    if not training_key or training_key in (NO_ADAPTER, PHOTOGRAPHS):
        return False
    return not training_key.startswith(_OF_A_FILE)


def _names_below(folder: Place) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
