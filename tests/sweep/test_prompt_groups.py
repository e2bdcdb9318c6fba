"""Objectives over seen or unseen prompts: possible where every caption version of the study has such prompts."""

import pytest
from ray import tune

from sweep.cli import main
from sweep.errors import StudyError
from sweep.keys import Keys
from sweep.prompt_groups import require_prompt_groups
from sweep.study import Objective, Study

STUDY = """
from ray import tune
from sweep import Objective, Study
study = Study(name="s", subject="embedded:subject", space={"caption": tune.choice(["v1", "v2"])}, objective=Objective(lpips_seen=1.0), samples=4)
"""


def a_study(metric, captions, *, subject="embedded:subject", **changes):
    return Study(
        name="s",
        subject=subject,
        space={"caption": tune.choice(captions)},
        objective=Objective(**{metric: 1.0}),
        samples=4,
        **changes,
    )


@pytest.mark.parametrize(
    "metric, captions, says",
    [
        ("lpips_seen", ["v1"], "`lpips_seen`.* of seen prompts.*captions v1, which leaves 0"),
        ("lpips_unseen", ["v1"], None),  # v1 has seen no words at all
        ("fid_seen", ["v2"], None),
        ("kid_unseen", ["v2"], None),
        ("lpips_seen", ["v2", "v1"], "captions v1"),
        ("dinov2_seen", ["v4"], "captions v4"),
    ],
)
def test_an_objective_over_a_group_that_a_version_lacks_is_refused(metric, captions, says):
    study = a_study(metric, captions, metrics=("dinov2",) if metric.startswith("dinov2") else ())
    subject = Keys(study).content.subject(study.subject)
    if says is None:
        require_prompt_groups(study, subject)
        return
    with pytest.raises(StudyError, match=says) as caught:
        require_prompt_groups(study, subject)
    assert "\n" not in str(caught.value)


def test_a_distance_needs_two_pictures_of_a_group():
    one = {"prompts": ("{trigger}, smile", "a word that nobody wrote"), "images_per_prompt": 1}
    for metric, refused in (("lpips_unseen", False), ("kid_unseen", True)):
        study = a_study(metric, ["v2"], fixed=one)
        subject = Keys(study).content.subject(study.subject)
        if refused:
            with pytest.raises(
                StudyError, match="needs 2 or more pictures of unseen prompts.*leaves 1"
            ):
                require_prompt_groups(study, subject)
        else:
            require_prompt_groups(study, subject)


def test_prompts_that_are_searched_are_each_looked_at():
    prompts = tune.choice([("{trigger}, smile", "{trigger} on the moon"), ("{trigger}, smile",)])
    study = Study(
        name="s",
        subject="embedded:subject",
        space={"prompts": prompts},
        fixed={"caption": "v2"},
        objective=Objective(lpips_unseen=1.0),
        samples=4,
    )
    with pytest.raises(StudyError, match="of its 1 prompts 1 are seen"):
        require_prompt_groups(study, Keys(study).content.subject(study.subject))


def test_plan_refuses_it_and_the_way_out_leads_out(tmp_path, capsys):
    file = tmp_path / "s.py"
    file.write_text(STUDY)
    assert main(["plan", str(file), "--storage", str(tmp_path)]) == 2
    assert "`lpips_seen`" in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert main(["plan", str(file), "--storage", str(tmp_path), "--set", "caption=v2"]) == 0
