"""Scales: one study file at two sizes, which of them holds, and what the command line changes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray import tune

from sweep.comparison import require_comparable
from sweep.errors import IncomparableStudyError, StudyError
from sweep.plan import make_plan, render_plan
from sweep.scale import Scale, at_scale, chosen_scale
from sweep.study import Study, load_study

BODY = """
from sweep import Epochs, Scale, Study
study = Study(
    aliases={"sd15": "embedded:base"},
    rows=[{"train_model": "sd15", "infer_model": "sd15"}, {"train_model": "sd15", "infer_model": "sd15", "epochs": 100, "learning_rate": 1e-4}],
    epochs=Epochs(max=300, rungs=(30, 40, 300)),
    fixed={"learning_rate": 5e-5, "steps": 60, "rank": 8},
    scales={"embedded": Scale(epochs=1 / 25, learning_rate=20, fixed={"steps": 20})},
)
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(BODY)
    return path


def numbers(study: Study, row: int = 0) -> tuple:
    train, rungs, evaluation = study.split(study.rows[row].configuration)
    return train.learning_rate, rungs, evaluation.steps


def test_the_text_encoders_learning_rate_is_scaled_with_the_other():
    fixed = {"learning_rate": 5e-5, "text_encoder_learning_rate": 1e-5, "train_text_encoder": True}
    train, *_ = at_scale(Study(rows=[{"rank": 4}], fixed=fixed, scales={"embedded": Scale(learning_rate=20)}), "embedded").split({})
    assert (train.learning_rate, train.text_encoder_learning_rate) == (1e-3, 2e-4)


def test_a_scale_multiplies_every_length_and_learning_rate_and_replaces_fixed_values(file):
    study = load_study(file)
    assert numbers(study) == (1e-3, (1, 2, 12), 20) and numbers(study, 1) == (2e-3, (1, 2, 4), 20)
    assert study.split({})[0].rank == 8 and study.scale == "embedded"
    assert study.scale_text == "embedded: epochs / 25, learning_rate x 20, steps=20"


def test_another_model_or_scale_full_keeps_the_numbers_of_the_file(file):
    for sets in ({"scale": "full"}, {"alias.sd15": "/data/sd15"}, {"model": "sd21"}, {"infer_model": "/data/rv"}):
        study = load_study(file, sets)
        assert numbers(study) == (5e-5, (30, 40, 300), 60) and numbers(study, 1)[:2] == (1e-4, (30, 40, 100)), sets
    forced = load_study(file, {"alias.sd15": "/data/sd15", "scale": "embedded"})
    assert numbers(forced) == (1e-3, (1, 2, 12), 20)


def test_what_set_gives_is_not_rescaled_and_left_out_of_the_words(file):
    study = load_study(file, {"epochs": "5", "steps": "7"})
    assert numbers(study) == (1e-3, (5,), 7) and study.scale_text == "embedded: learning_rate x 20"


def test_a_plan_and_the_description_say_the_scale(file):
    study = load_study(file)
    assert "At scale embedded: epochs / 25, learning_rate x 20, steps=20." in render_plan(make_plan(study))
    assert study.describe()["scale"] == study.scale_text


def test_a_study_without_scales_is_as_it_stands():
    study = Study(epochs=7)
    assert at_scale(study, chosen_scale(study)) == study


def test_start_points_and_the_baseline_are_scaled_with_the_rest():
    space = {"learning_rate": tune.choice([1e-4])}
    with pytest.raises(StudyError, match="'embedded' multiplies `learning_rate`, but the study searches it"):
        at_scale(Study(space=space, scales={"embedded": Scale(learning_rate=2)}), "embedded")
    with pytest.raises(StudyError, match="'embedded' multiplies `text_encoder_learning_rate`, but the study searches it"):
        space = {"text_encoder_learning_rate": tune.choice([1e-5])}
        at_scale(Study(space=space, fixed={"learning_rate": 1e-4}, scales={"embedded": Scale(learning_rate=2)}), "embedded")
    study = Study(rows=[{"epochs": 10}, {"epochs": 20}], baseline={"epochs": 20}, scales={"embedded": Scale(epochs=0.5)})
    assert [row.configuration["epochs"] for row in at_scale(study, "embedded").listed] == [10, 5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scale(epochs=0), "`epochs` by a positive number, but it is 0"),
        (lambda: Scale(fixed={"learning_rate": 1e-3}), "`learning_rate`.*0.001.*Scale"),
        (lambda: Scale(fixed={"stesp": 3}), "`stesp`.*Did you mean `steps`"),
        (lambda: Study(scales={"embedded": {"epochs": 0.1}}), "`scales`.*'embedded'.*Scale\\("),
        (lambda: Study(scales={"full": Scale()}), "other than auto and full"),
        (lambda: Study(scale="smal", scales={"small": Scale()}), "'smal'. Did you mean `small`"),
        (lambda: at_scale(Study(scales={"embedded": Scale(learning_rate=2)}), "embedded"), "states none"),
    ],
)
def test_a_wrong_scale_says_the_value_and_the_way_out(make, message):
    with pytest.raises(StudyError, match=message):
        make()


def test_two_scales_of_a_study_do_not_share_records(file):
    with pytest.raises(IncomparableStudyError, match="`epochs`.*--name"):
        require_comparable(load_study(file).describe(), load_study(file, {"scale": "full"}).describe())


def test_an_alias_may_move_to_another_folder_but_not_to_another_model():
    def described(alias: dict, content: dict) -> dict:
        return {**Study(rows=[{"train_model": "sd15"}], aliases=alias).describe(), "content": content}

    old = described({"sd15": "/a"}, {"model /a": "1"})
    assert require_comparable(old, described({"sd15": "/b"}, {"model /b": "1"}))
    named = described({}, {"model sd15 with vae x": "1"})
    for other in (described({"sd15": "/a"}, {"model /a": "2"}), described({"sd15": "/b"}, {"model /b": "3"})):
        with pytest.raises(IncomparableStudyError, match="the model called sd15` was \"1\""):
            require_comparable(named if other["aliases"] == {"sd15": "/a"} else old, other)
