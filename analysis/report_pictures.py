"""Which pictures the report embeds, as small values: thumbnails are made within one budget, so the most telling are asked for first.

A picture is a row of `PICTURE_FIELDS`; prompts, seeds and training images are numbers of lists that are written once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.controls import controls_of
from analysis.extremes import extremes_of
from analysis.grids import trigger_of, without_trigger
from analysis.image_sets import ImageSets
from analysis.load import StudyRecords
from analysis.pictures import Thumbnails, subject_folder
from analysis.training_images import TrainingImages

N_FIRST_ROWS = 5
N_EXTREMES = 4
N_WHOLE_SETS = 10
"""The best trials in rank, whose pictures are all embedded (up to MOST_OF_A_SET) before the others have more than one."""

N_COMPARED = 300
"""Trials, the best in rank, that have their first picture in the file before any has its second."""

MOST_OF_A_SET = 40
_COLUMNS = ["evaluation_key", "index", "prompt", "seed", "lpips", "lpips_nearest", "nearest_reference", "is_copy", "path"]
PICTURE_FIELDS = ("at", "prompt", "seed", "lpips", "nearest", "nearest_lpips", "is_copy", "by_pixels")


class ReportPictures:
    """The embedded pictures of a study's image sets. `ranked` is analysis.tables.ranked_trials'."""

    def __init__(self, records: StudyRecords, sets: ImageSets, ranked: pd.DataFrame, thumbnails: Thumbnails) -> None:
        self._records, self._sets, self._thumbnails = records, sets, thumbnails
        self._training = TrainingImages(subject_folder(records))
        self._controls = controls_of(records.evaluations)
        self._prompts, self._seeds, self._references = _Numbers(), _Numbers(), _Numbers()
        self._reference_at: list[int | None] = []
        self._made: dict[str, dict[int, list[Any]]] = {}
        self._keys = _keys_of(ranked[ranked["rank_number"].notna()])
        self._others = _keys_of(ranked[ranked["rank_number"].isna()])
        self._rungs = _keys_of(_rungs_of(records, ranked["trial"].head(N_COMPARED)))
        self._rows = _Candidates(records.images, [*self._keys, *self._others, *self._rungs, *self._controls.values()])
        self.first = self._first_rows(ranked)
        self.extremes = self._extremes(ranked)
        self._embed_more()

    def numbers(self) -> dict[str, Any]:
        """All that the page needs of pictures: `sets` by evaluation key, what their numbers mean, and which set is whose control."""
        kept = {key: [made[index] for index in sorted(made)] for key, made in self._made.items() if made}
        prompts = self._prompts.names
        trigger = trigger_of(self._records)
        bare = {prompt: without_trigger(prompt, trigger, prompts) for prompt in prompts}
        return {
            "fields": PICTURE_FIELDS,
            "sets": kept,
            "sizes": {key: self._sets.n_images(key) for key in kept},
            "controls": {key: control for key, control in self._controls.items() if key in kept and control in kept},
            "prompts": prompts,
            "seeds": self._seeds.names,
            "references": [{"name": name, "at": at} for name, at in zip(self._references.names, self._reference_at)],
            "bare": {self._prompts.of(prompt): self._prompts.of(other) for prompt, other in bare.items() if other is not None},
        }

    @property
    def n_not_shown(self) -> int:
        """Images of the trials in the table that are not in the file."""
        return sum(self._sets.n_images(key) - len(self._made.get(key, ())) for key in dict.fromkeys([*self._keys, *self._others]))

    def _first_rows(self, ranked: pd.DataFrame) -> list[dict[str, Any]]:
        """One row per trial: no adapter, the baseline, then the best; a picture per prompt, all of one seed where the set has it."""
        baseline = ranked[ranked["label.baseline"].eq(True)] if "label.baseline" in ranked else ranked.iloc[:0]
        like = [self._controls[key] for key in self._keys[:1] if key in self._controls]
        controls = ranked[ranked["is_control"] & ranked["evaluation_key"].isin(like)]  # one made otherwise would compare two things at once
        best = ranked[ranked["rank_number"].notna()].head(N_FIRST_ROWS)
        found = []
        for row in pd.concat([controls, baseline, best]).drop_duplicates("trial").to_dict("records"):
            name = "No adapter" if row["is_control"] else "Baseline" if row.get("label.baseline") is True else f"Rank {row['rank_number']}"
            pictures = [self._picture(image) for key in _first_key(row["evaluation_keys"]) for image in self._rows.of(key) if image["turn"] == 0]
            found.append({"name": name, "trial": None if row["is_control"] else row["trial"], "images": pictures})
        return [row for row in found if row["images"]]

    def _extremes(self, ranked: pd.DataFrame) -> dict[str, list[list[Any]]]:
        """The pictures of the best trial, under all its training seeds, that are closest to the subject,
        and those furthest from it."""
        own = ranked.loc[ranked["rank_number"].eq(1), "evaluation_keys"]
        keys = [key for one in own if isinstance(one, tuple) for key in one]
        closest, furthest = extremes_of(self._sets.rows_of(keys), N_EXTREMES)
        return {end: [self._picture(row) for row in rows.to_dict("records")] for end, rows in (("best", closest), ("worst", furthest))}

    def _embed_more(self) -> None:
        """The first picture of many trials, all of the best ones, controls, other rungs; then one more of each after the other."""
        controls = list(dict.fromkeys(self._controls[key] for key in self._keys if key in self._controls))
        self._embed(self._keys[:N_COMPARED], slice(1))
        self._embed(self._keys[:N_WHOLE_SETS], slice(MOST_OF_A_SET))
        self._embed([*controls, *self._rungs], slice(1))
        for nth in range(MOST_OF_A_SET):
            self._embed(dict.fromkeys([*self._keys, *controls, *self._others, *self._rungs]), slice(nth, nth + 1))

    def _embed(self, keys: Iterable[str], which: slice) -> None:
        for key in keys:
            if self._thumbnails.is_closed:
                return
            for row in self._rows.of(key, which):
                self._picture(row)

    def _picture(self, row: Mapping[str, Any]) -> list[Any]:
        """The picture's values in the order of PICTURE_FIELDS. Those that are in the file are made once and kept."""
        made = self._made.setdefault(row["evaluation_key"], {})
        if row["index"] in made:
            return made[row["index"]]
        stored = isinstance(row["path"], str) and row["path"]
        at = self._thumbnails.number_of(self._records.folder / row["path"]) if stored else None
        name, by_pixels = self._nearest(row) if at is not None else (None, False)
        named = [self._prompts.of(str(row["prompt"])), self._seeds.of(str(row["seed"])), row["lpips"]]
        picture = [at, *named, self._reference(name), row["lpips_nearest"], int(row["is_copy"] is True), int(by_pixels)]
        if at is not None:
            made[row["index"]] = picture
        return picture

    def _nearest(self, row: Mapping[str, Any]) -> tuple[str | None, bool]:
        recorded = row["nearest_reference"]
        if isinstance(recorded, str) and recorded:
            return recorded, False
        return self._training.nearest_by_pixels(self._records.folder / row["path"]), True

    def _reference(self, name: str | None) -> int | None:
        if name is None:
            return None
        number = self._references.of(name)
        if number == len(self._reference_at):
            file = self._training.file_of(name)
            self._reference_at.append(None if file is None else self._thumbnails.number_of(file))
        return number


class _Candidates:
    """Up to MOST_OF_A_SET stored pictures of each image set, one of each prompt first. Columns as lists: a frame for every set takes a minute."""

    def __init__(self, images: pd.DataFrame, keys: Iterable[str]) -> None:
        own = images.loc[images["evaluation_key"].isin(set(keys)) & images["path"].notna(), _COLUMNS]
        own = own.assign(turn=own.groupby(["evaluation_key", "prompt"], sort=False).cumcount())
        own = own.sort_values(["evaluation_key", "turn", "index"], kind="stable")
        own = own[own.groupby("evaluation_key", sort=False).cumcount() < MOST_OF_A_SET]
        self._columns = {name: own[name].astype(object).tolist() for name in own}
        names, starts = np.unique(self._columns["evaluation_key"] or np.empty(0, object), return_index=True)
        self._places = dict(zip(names.tolist(), zip(starts.tolist(), [*starts[1:].tolist(), len(own)])))

    def of(self, key: str, which: slice = slice(None)) -> list[dict[str, Any]]:
        start, end = self._places.get(key, (0, 0))
        return [{name: column[place] for name, column in self._columns.items()} for place in range(start, end)[which]]


class _Numbers:
    """Names in the order in which they were first asked for."""

    def __init__(self) -> None:
        self._by_name: dict[str, int] = {}

    def of(self, name: str) -> int:
        return self._by_name.setdefault(name, len(self._by_name))

    @property
    def names(self) -> list[str]:
        return list(self._by_name)


def _rungs_of(records: StudyRecords, trials: pd.Series) -> pd.DataFrame:
    """The rungs of these trials, in their order."""
    order = {trial: place for place, trial in enumerate(trials)}
    own = records.rungs[records.rungs["trial"].isin(order)]
    return own.assign(place=own["trial"].map(order)).sort_values(["place", "epoch"], kind="stable")


def _keys_of(rows: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(key for keys in rows["evaluation_keys"] for key in _first_key(keys)))


def _first_key(keys: object) -> tuple[str, ...]:
    """The image set of the first training seed, where there is one."""
    return keys[:1] if isinstance(keys, tuple) else ()
