"""Too few pictures, or photographs to compare them with, are refused by plan and launch: no trial fails for what is known beforehand."""

from types import SimpleNamespace

import pytest
from ray import tune

from sweep.errors import StudyError
from sweep.objective import Objective
from sweep.picture_counts import LEAST_HELDOUT, LEAST_OF_METRIC, LEAST_PICTURES, require_photographs, require_pictures
from sweep.study import Epochs, Row, Study
from tests.sweep.fakes import OBJECTIVE
from tests.sweep.test_preconditions import ended, sets, study_file  # noqa: F401  the latter is a fixture


def a_study(**changes) -> Study:
    return Study(**{"name": "s", "space": {"rank": tune.choice([4, 8])}, "samples": 2, "epochs": Epochs(max=2), "objective": OBJECTIVE, **changes})


ONE = {"prompts": ["{trigger}"], "images_per_prompt": 1}


@pytest.mark.parametrize(
    "study",
    [
        a_study(fixed=ONE),
        a_study(fixed={"prompts": ["{trigger}"]}, space={"images_per_prompt": tune.choice([1, 4])}),
        a_study(fixed={"images_per_prompt": 1}, space={"prompts": tune.choice([["{trigger}"], ["{trigger}", "{trigger}, smile"]])}),
        a_study(fixed={"prompts": ["{trigger}"]}, fan_out={"images_per_prompt": [4, 1]}),
        a_study(space={}, samples=None, rows=[Row({"rank": 4}), Row({"rank": 4, **ONE})]),
    ],
)
def test_one_picture_is_refused_wherever_the_study_says_it(study):
    with pytest.raises(StudyError, match="at least 2 pictures.*1 prompts with 1 .* make 1.*images_per_prompt=2"):
        require_pictures(study)


def test_two_pictures_are_enough_for_all_but_the_metrics_that_need_more():
    require_pictures(a_study(fixed={"prompts": ["{trigger}"], "images_per_prompt": 2}))
    far = a_study(fixed={"prompts": ["{trigger}"], "images_per_prompt": 9}, objective=Objective(fid_inf=1.0, scales={"fid_inf": 200.0}))
    with pytest.raises(StudyError, match="at least 10 pictures for `fid_inf`.*make 9.*images_per_prompt=10"):
        require_pictures(far)


@pytest.mark.parametrize(("metric", "least"), [("fid_heldout", 2), ("lpips_heldout", 2), ("heldout_loss", 1), ("lpips", 0)])
def test_an_objective_of_held_out_images_needs_them(metric, least):
    study = a_study(objective=Objective(**{metric: 1.0}))
    for n in range(3):
        subject = SimpleNamespace(train=[0] * 5, heldout=[0] * n)
        if n < least:
            with pytest.raises(StudyError, match=f"`{metric}`, which needs at least {least} held-out .* has {n}"):
                require_photographs(study, subject)
        else:
            require_photographs(study, subject)
    with pytest.raises(StudyError, match="at least 2 training images.* has 1"):
        require_photographs(study, SimpleNamespace(train=[0], heldout=[0, 0]))


def test_the_numbers_are_those_of_what_computes_the_metrics():
    import numpy as np
    import torch

    from trainables import metrics, scores
    from trainables.errors import EvaluationFailed

    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(LEAST_PICTURES, 3)))
    for distance in (metrics.frechet_distance, metrics.kernel_distance):
        assert np.isfinite(distance(vectors, vectors))
        with pytest.raises(EvaluationFailed):
            distance(vectors, vectors[1:])
    assert LEAST_OF_METRIC == {"fid_inf": metrics.LEAST_FOR_INFINITY} and set(LEAST_HELDOUT.values()) == {scores.LEAST_HELDOUT}


def test_plan_and_launch_refuse_it_in_one_line(study_file, capsys):  # noqa: F811
    one = "fixed={'prompts': ['{trigger}'], 'images_per_prompt': 1}, samples=5"
    (study_file.parent / "one.py").write_text(study_file.read_text().replace("samples=5", one))
    for command in ("plan", "launch"):
        code, errors, _ = ended(capsys, command, study_file.parent / "one.py")
        assert code == 2 and len(errors) == 1 and "at least 2 pictures" in errors[0]
        code, errors, _ = ended(capsys, "plan", study_file.parent / "one.py", *sets("images_per_prompt=2"))
        assert (code, errors) == (0, [])
