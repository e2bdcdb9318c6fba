"""What this version records of an image set and an earlier one did not, worked out from stored
pictures: nothing is generated or trained.

Which prompts are seen, from the captions that the study had, with the values of the two groups;
`face` over all pictures, those without a face as 0; what held-out photographs score. What a study
is ranked by stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweep.errors import EvaluationFailed, StudyError
from sweep.folder import StudyFolder
from sweep.keys import FilesContent, photographs_orders
from sweep.messages import PHOTOGRAPHS, EvaluationOrder
from sweep.record_schema import METRIC_COLUMNS
from sweep.recorded_study import RecordedStudy
from sweep.records import EVALUATIONS, IMAGES, Records, as_rows
from sweep.worker import evaluation_row, objective_of
from trainables.config import EvalConfig

if TYPE_CHECKING:
    from trainables.evaluate import Evaluator
    from trainables.scores import Scores

FACE = "face"
_GROUP_COLUMNS = tuple(name for name in METRIC_COLUMNS if name.endswith(("_seen", "_unseen")))


def update_records(
    folder: StudyFolder,
    *,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Complete the image sets of earlier versions; says how many there were.

    Raises:
        StudyError: the study is running, or its subject has changed.  RecordsError: a picture is
            damaged.  ModelError: a network is gone.
    """
    with folder.held() as hold:
        records = Records(folder.root, guard=hold.require)
        study = RecordedStudy(folder)
        images = {
            key: as_rows(group, IMAGES) for key, group in records.images().groupby(IMAGES.key[0])
        }
        every = as_rows(records.evaluations(), EVALUATIONS)
        rows = [
            row
            for row in every
            if row["evaluation_key"] in images and row["training_key"] != PHOTOGRAPHS
        ]
        old = [row for row in rows if row["seen_prompts"] is None or any(_lacks_faces(row))]
        photographs = [
            order
            for order in _photographs_of(study)
            if all(row["evaluation_key"] != order.key for row in every)
        ]
        if not (old or photographs):
            return 0
        evaluator = _evaluator(study, device)
        labelled = _labeller(study, evaluator) if old else None
        for done, row in enumerate(old):
            progress(done, len(old))
            image_rows = images[row["evaluation_key"]]
            row, image_rows = _with_every_face(row, image_rows)
            if row["seen_prompts"] is None:
                row, image_rows = labelled(row, image_rows)
            records.append_evaluation(row, image_rows)
        for order in photographs:
            records.append_evaluation(*_scored_photographs(study, order, evaluator, device))
        progress(len(old), len(old))
    return len(old) + len(photographs)


def _photographs_of(study: RecordedStudy) -> list[EvaluationOrder]:
    """What would be asked for of the held-out photographs beside the best trial."""
    best = study.best_trial()
    if best is None:
        return []
    _, evaluation = study.configs_of(best)
    # Relative names are meant from where the study was launched.
    return photographs_orders(
        study.subject,
        study.description["subject"],
        evaluation,
        lambda model, vae: FilesContent().resolution(*study.located(model, vae)),
    )


def _scored_photographs(
    study: RecordedStudy, order: EvaluationOrder, evaluator: Evaluator, device: str
) -> tuple[dict[str, Any], Sequence[Mapping[str, Any]]]:
    from sweep.device import scored_images
    from sweep.device_facts import device_kind

    result = evaluator.score_photographs(order.key, study.subject, order.config)
    if result.error is not None:
        raise EvaluationFailed(result.error)
    scored = scored_images(result, device_kind(device))
    return {
        **evaluation_row(order, scored),
        **objective_of(study.objective, scored),
    }, scored.image_rows


def _lacks_faces(row: Mapping[str, Any]) -> Iterator[str]:
    """The names of face similarities that leave pictures out."""
    for name, (*_, n) in (row["intervals"] or {}).items():
        if name.partition("@")[0] == FACE and n is not None and n < (row["n_images"] or 0):
            yield name


def _with_every_face(
    row: dict[str, Any], image_rows: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from trainables.scores import Scores

    for name in list(_lacks_faces(row)):
        image_rows = [
            {**image, "further_metrics": {name: 0.0, **(image["further_metrics"] or {})}}
            for image in image_rows
        ]
        scores = Scores()
        scores.add_mean(name, _of_pictures(image_rows)[name])
        row = {
            **row,
            "further_metrics": {**row["further_metrics"], **scores.values},
            "intervals": {**row["intervals"], **scores.intervals},
        }
    return row, image_rows


def _of_pictures(image_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:  # -> (n,) arrays
    """The values of each picture, of the metrics that all pictures have."""
    import numpy as np

    further = [image["further_metrics"] or {} for image in image_rows]
    names = [name for name in further[0] if all(name in own for own in further)]
    return {
        "lpips": np.array([image["lpips"] for image in image_rows]),
        **{name: np.array([own[name] for own in further]) for name in names},
    }


def _evaluator(study: RecordedStudy, device: str) -> Evaluator:
    import transformers

    from sweep.device_facts import device_kind
    from trainables.evaluate import Evaluator
    from trainables.frozen import FrozenWork

    transformers.utils.logging.disable_progress_bar()
    return Evaluator(FrozenWork(device_kind(device)), **study.backbones, further=study.metrics)


def _labeller(
    study: RecordedStudy, evaluator: Evaluator
) -> Callable[[dict, list[dict]], tuple[dict[str, Any], list[dict[str, Any]]]]:
    from sweep.rescoring import read_pictures

    subject, captions = _subject_of(study), _captions_of(study)
    best = study.best_trial()
    beside_controls = study.configs_of(best)[0].caption if best else None

    def labelled(
        row: dict[str, Any], image_rows: list[dict[str, Any]]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        in_order = sorted(image_rows, key=lambda image: image["index"])
        paths = [study.folder.root / image["path"] if image["path"] else None for image in in_order]
        has_pictures = row["pooled_backbone"] == evaluator.pooled.name and all(
            path is not None and path.exists() for path in paths
        )
        scores = evaluator.score_groups(
            _of_pictures(in_order),
            EvalConfig(**row["configuration"]),
            subject,
            caption=captions.get(row["training_key"], beside_controls),
            images=read_pictures(paths) if has_pictures else None,
        )
        return _labelled(row, scores), [
            {**image, **own} for image, own in zip(in_order, scores.image_rows, strict=True)
        ]

    return labelled


def _labelled(row: Mapping[str, Any], scores: Scores) -> dict[str, Any]:
    """The row with these groups, and without what it said of others."""
    kept = {
        name: value
        for name, value in (row["further_metrics"] or {}).items()
        if not _is_of_group(name)
    }
    intervals = {
        name: value for name, value in (row["intervals"] or {}).items() if not _is_of_group(name)
    }
    found = {**dict.fromkeys(_GROUP_COLUMNS), **scores.values}
    return {
        **row,
        **scores.facts,
        **{name: value for name, value in found.items() if name in METRIC_COLUMNS},
        "further_metrics": {
            **kept,
            **{name: value for name, value in found.items() if name not in METRIC_COLUMNS},
        },
        "intervals": {**intervals, **scores.intervals},
    }


def _is_of_group(name: str) -> bool:
    return name.partition("@")[0].endswith(("_seen", "_unseen"))


def _subject_of(study: RecordedStudy) -> Any:
    """Raises: StudyError if its captions are others than the study had."""
    subject, name = study.subject, study.description["subject"]
    for version in subject.caption_versions:
        known = study.description["content"].get(f"captions {version} of {name}")
        if known is not None and subject.training_digest(version) != known:
            raise StudyError(
                f"Which prompts are seen is worked out from the captions that the study had, but "
                f"those of {version} in {name} have changed since. "
                "Restore them, or launch the study under another --name."
            )
    return subject


def _captions_of(study: RecordedStudy) -> dict[str, str]:
    """The caption version of every training whose adapters were scored, by its key."""
    found = {}
    for trial in study.trials:
        version = study.configs_of(trial)[0].caption
        keys = [
            key
            for _, _, *keys in trial["rung_values"] or []
            for key in keys
            if key in study.evaluations
        ]
        found |= {study.evaluations[key]["training_key"]: version for key in keys}
        found |= {trial["training_key"]: version} if trial["training_key"] else {}
    return found
