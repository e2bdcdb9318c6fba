"""A study as its folder tells of it, when its file may be long gone: subject, protocol and objective, and the adapters of its trials.

Reads records and study.json. Whoever runs a study knows all of this from the study itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.errors import StudyError
from sweep.folder import ADAPTERS, StudyFolder
from sweep.keys import FilesContent, name_of_model
from sweep.launches import read_launches
from sweep.objective import Objective
from sweep.parameters import MODEL_PARAMETERS, expand
from sweep.records import EVALUATIONS, TRIALS, Records, as_rows
from sweep.searcher import FAIL
from sweep.space import nearest
from sweep.values import with_prompts_read
from trainables.config import EVAL_PARAMETERS, TRAIN_PARAMETERS, EvalConfig, TrainConfig
from trainables.model_sources import MOVED_NAMES, SHORT_NAMES
from trainables.storage import Place, home_expanded
from trainables.subject import Subject, load_subject

if TYPE_CHECKING:
    from trainables.lora import Adapter


@dataclass(frozen=True)
class ChosenAdapter:
    """An adapter of a study: whose it is, what it was trained with, and the evaluation of its trial at that epoch."""

    study: str
    trial: Mapping[str, Any]  # its latest row
    training_key: str
    epoch: int
    train: TrainConfig
    evaluation: EvalConfig
    scores: Mapping[str, Any] | None  # the evaluation's row; None where this epoch was not scored
    store: Place
    locate: Callable[[str, str | None], tuple[str, str | None]] = field(compare=False)  # RecordedStudy.located

    @property
    def base(self) -> tuple[str, str | None]:
        """The model and VAE that it was trained on, as this process finds them. Raises: StudyError, ModelError."""
        return self.locate(self.train.train_model, self.train.train_vae)

    @property
    def scored_on(self) -> tuple[str, str | None]:
        """The model and VAE that it was scored on, as this process finds them. Raises: StudyError, ModelError."""
        return self.locate(self.evaluation.infer_model, self.evaluation.infer_vae)

    @property
    def name(self) -> str:
        """A name that no other adapter has, for files and for web UIs."""
        return f"{self.study}-{self.trial['trial']}-e{self.epoch}-{self.training_key[:6]}"

    def load(self) -> Adapter:
        """Raises: AdapterError if it is damaged."""
        from trainables.adapters import AdapterStore

        return AdapterStore(self.store).load_adapter(self.training_key, self.epoch)


class RecordedStudy:
    """The study in a folder. Reading it is cheap; the subject is read when it is asked for."""

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        self.name = folder.root.name
        self.description: dict[str, Any] = folder.read_description()

    @cached_property
    def subject(self) -> Subject:
        """The subject, whose images must be those that the study had.

        Raises:
            SubjectError: it cannot be read.  StudyError: its images have changed."""
        name = self.description["subject"]
        subject = load_subject(self._subject_place)
        if subject.reference_digest != self.description["content"][f"images of {name}"]:
            raise StudyError(
                self._elsewhere("photographs", name)
                if self._is_found_by_chance(self._subject_place)
                else f"Pictures are scored against the images that the study had, but those of {name} have changed since. "
                f"Restore them, or launch the study under another --name."
            )
        return subject

    @property
    def trigger(self) -> str:
        """The subject's trigger word, whatever has become of its images. Raises: SubjectError: the subject cannot be read."""
        place = self._subject_place
        # A folder that merely has the name must have the images, too.
        return self.subject.trigger if self._is_found_by_chance(place) else load_subject(place).trigger

    @property
    def objective(self) -> Objective:
        recorded = self.description["objective"]
        scales = {tuple(name.split("@", 1)) if "@" in name else name: scale for name, scale in recorded["scales"].items()}
        return Objective(scales=scales, **recorded["weights"])

    @property
    def backbones(self) -> dict[str, str]:
        """The feature networks that scored it, by kind."""
        return {kind: self.description["fixed"][kind] for kind in ("perceptual", "pooled")}

    @property
    def metrics(self) -> tuple[str, ...]:
        asked = (text.partition("=") for text in self.description.get("metrics", ()))
        return tuple(f"{name}={self._place_of(place)}" if place else name for name, _, place in asked)

    @cached_property
    def directory(self) -> Path | None:
        """Where the study was launched: relative names in it are meant from there. None where nothing says it."""
        known = self.description.get("directory") or read_launches(self.folder.launches).request.directory
        return Path(known) if known else None

    def located(self, model: str, vae: str | None) -> tuple[str, str | None]:
        """A model of the study and its VAE as this process finds them, whatever folder it runs in.

        Raises:
            StudyError: what lies here under such a name is something else than the study had.  ModelError: it cannot be read."""
        places = self._place_of(model), None if vae is None else self._place_of(vae)
        doubtful = [place for place in places if place is not None and self._is_found_by_chance(place)]
        if doubtful:
            known = self.description["content"].get(name_of_model(model, vae))
            if FilesContent().model_digest(*places) != known:
                raise StudyError(self._elsewhere("models", doubtful[0]))
        return places

    @property
    def _subject_place(self) -> str:
        place = self._place_of(self.description["subject"])
        if self.directory is None or place.startswith("embedded:") or home_expanded(place).exists():
            return place
        return str(self.directory / home_expanded(place))  # it is nowhere; this is where it was

    def _place_of(self, name: str) -> str:
        """The whole path of what a launch found under a relative name, or the name itself."""
        plain = SHORT_NAMES.get(name) or MOVED_NAMES.get(name, name)
        if name.startswith("embedded:") or self.directory is None:
            return name
        there = self.directory / home_expanded(plain)
        return str(there) if there.exists() else name

    def _is_found_by_chance(self, place: str) -> bool:
        """Whether this process's own folder has something of that relative name, and that of the launch has not."""
        path = home_expanded(SHORT_NAMES.get(place, place))
        return not place.startswith("embedded:") and not path.is_absolute() and path.exists()

    def _elsewhere(self, what: str, name: str) -> str:
        meant_from = f"{self.directory}, where it is no more" if self.directory else "a folder that is not recorded"
        return (
            f"A study's {what} are those that it was launched with. {name} is meant from {meant_from}, and what is called "
            f"so in {Path.cwd()} has another content. Restore it, or run this where the study was launched."
        )

    @cached_property
    def trials(self) -> list[dict[str, Any]]:
        """The latest row of every trial."""
        return as_rows(Records(self.folder.root).latest_trials(), TRIALS)

    @cached_property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """The evaluations' rows by key."""
        return {row["evaluation_key"]: row for row in as_rows(Records(self.folder.root).evaluations(), EVALUATIONS)}

    def best_trial(self) -> dict[str, Any] | None:
        """The row of the trial with the lowest objective; None where none is scored."""
        scored = [row for row in self.trials if row["objective"] is not None and row["state"] != FAIL]
        return min(scored, key=lambda row: row["objective"], default=None)

    def trial(self, trial_id: str | None) -> dict[str, Any]:
        """The row of that trial, or of the best one.

        Raises:
            StudyError: there is none."""
        if trial_id is None:
            if (best := self.best_trial()) is None:
                raise StudyError(f"The best trial is known once one is scored, but of {self.name} none is. Launch it, or go on with it.")
            return best
        found = next((row for row in self.trials if row["trial"] == trial_id), None)
        if found is None:
            ids = [row["trial"] for row in self.trials]
            known = f"Its {len(ids)} trials begin with {ids[0]}." if ids else "It has none yet."
            raise StudyError(f"`--trial` must be a trial of {self.name}, but {trial_id!r} is none.{nearest(trial_id, ids)} {known}")
        return found

    def choose(self, trial_id: str | None, epoch: int | None = None) -> ChosenAdapter:
        """The adapter of that trial, or of the best one, at that epoch, or at its best one. Of several training seeds, the best seed's.

        Raises:
            StudyError: there is no such trial, or it has no adapter at that epoch."""
        row = self.trial(trial_id)
        chosen_epoch = row["best_epoch"] if epoch is None else epoch
        if chosen_epoch is None:
            raise StudyError(f"A trial's best epoch is known once it is scored, but {row['trial']} is not ({row['reason'] or row['state']}). Use --epoch.")
        scored = self._evaluations_at(row, chosen_epoch)
        seed, best = min(scored.items(), key=_by_objective, default=(0, None))
        key = best["training_key"] if best else row["training_key"]
        train, evaluation = self.configs_of(row)
        if best:
            train = replace(train, train_seed=train.train_seed + seed)
            evaluation = EvalConfig(**best["configuration"])
        store = self._store_with(row, key, chosen_epoch)
        return ChosenAdapter(self.name, row, key, int(chosen_epoch), train, evaluation, best, store, self.located)

    def configs_of(self, row: Mapping[str, Any]) -> tuple[TrainConfig, EvalConfig]:
        """What a trial trains, under its first seed, and how it is evaluated."""
        values = {**self.description["fixed"], **expand(with_prompts_read(row["configuration"] or {})), "subject": self.description["subject"]}
        aliases = self.description.get("aliases", {})
        values |= {name: aliases.get(values[name], values[name]) for name in MODEL_PARAMETERS if isinstance(values.get(name), str)}
        train = {name: values[name] for name in TRAIN_PARAMETERS if name in values}
        return TrainConfig(**train), EvalConfig(**{name: values[name] for name in EVAL_PARAMETERS if name in values})

    def _evaluations_at(self, row: Mapping[str, Any], epoch: int) -> dict[int, dict[str, Any]]:
        """The evaluations of a trial's rung by the number of the training seed, from 0; those that
        the records lack are left out."""
        keys = next((keys for at, _, *keys in row["rung_values"] or [] if at == epoch), [])
        known = self.evaluations
        return {seed: known[key] for seed, key in enumerate(keys) if key in known}

    def _store_with(self, row: Mapping[str, Any], key: str | None, epoch: int) -> Place:
        from trainables.adapters import AdapterStore

        places = (self.folder.adapters, self.folder.root / ADAPTERS)  # the second one after `sweep trial --again`
        stored = {place: AdapterStore(place).epochs(key) for place in places} if key else {}
        if place := next((place for place in stored if epoch in stored[place]), None):
            return place
        epochs = sorted({e for found in stored.values() for e in found})
        there = f"at epochs {', '.join(map(str, epochs))}" if epochs else "nowhere"
        way_out = "Use --epoch with one of these." if epochs else "Launch the study again to train it."
        raise StudyError(f"An adapter must be stored to be used, but that of {row['trial']} is stored {there}, not at {epoch}. {way_out}")


def _by_objective(of_seed: tuple[int, Mapping[str, Any]]) -> tuple[bool, float]:
    objective = of_seed[1]["objective"]
    return objective is None, objective or 0.0
