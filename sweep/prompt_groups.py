"""Whether a study's objective can be had: metrics of seen or of unseen prompts need pictures of
such prompts under each caption version."""

from __future__ import annotations

from collections.abc import Iterator

from sweep.errors import StudyError
from sweep.study import Study
from trainables.config import EvalConfig
from trainables.seen_prompts import seen_prompts
from trainables.subject import Subject

LEAST_PICTURES = {"fid": 2, "kid": 2}
"""Of fewer pictures of a group there is no distance between distributions; of all other metrics one
picture is enough."""


def require_prompt_groups(study: Study, subject: Subject) -> None:
    """Raises: StudyError where a metric that the study optimises has no value under one of its
    caption versions."""
    wanted = [
        (metric, *metric.rsplit("_", 1))
        for metric in dict.fromkeys((*study.objective.weights, *study.pareto))
        if metric.endswith(("_seen", "_unseen"))
    ]
    if not wanted:
        return
    for version, evaluation in _combinations(study):
        if version not in subject.caption_versions:  # said elsewhere
            continue
        seen = seen_prompts([prompt.text for prompt in evaluation.prompts], subject)[version]
        for metric, name, group in wanted:
            n_pictures = seen.count(group == "seen") * evaluation.images_per_prompt
            if n_pictures < (least := LEAST_PICTURES.get(name, 1)):
                raise StudyError(
                    f"The study optimises `{metric}`, which needs {least} or more pictures of "
                    f"{group} prompts, but of its "
                    f"{len(seen)} prompts {seen.count(True)} are seen in the captions {version}, "
                    f"which leaves {n_pictures}. "
                    f"Use another metric or other prompts, or leave {version} out, e.g. with --set "
                    "caption=VERSION."
                )


def _combinations(study: Study) -> Iterator[tuple[str, EvalConfig]]:
    """Caption versions with the evaluations that judge them, each that can be told beforehand."""
    of_captions, of_prompts = (
        study.telling_configurations(name) for name in ("caption", "prompts")
    )
    merged = (
        []
        if study.rows
        else [{**prompts, **captions} for prompts in of_prompts for captions in of_captions]
    )
    for configuration in (*of_captions, *of_prompts, *merged):
        train, _, evaluation = study.split(configuration)
        yield train.caption, evaluation
