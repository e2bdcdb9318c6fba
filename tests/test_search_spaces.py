"""The shipped studies: each loads, plans, and asks for what its first lines say."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from sweep.keys import Keys
from sweep.plan import make_plan
from sweep.study import Study, load_study
from tests.sweep.fakes import FakeContent

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "search_spaces").glob("*.py"))
REAL = {"model": "/data/sd15"}


def shipped(name: str, sets: dict[str, str] | None = None) -> Study:
    return load_study(ROOT / "search_spaces" / f"{name}.py", sets)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_shipped_study_opens_with_its_question_and_plans_at_both_scales(file):
    assert "?" in ast.get_docstring(ast.parse(file.read_text())).splitlines()[0]
    small, full = (make_plan(load_study(file, sets)) for sets in ({}, {"scale": "full"}))
    assert 0 < small.costs.epochs_trained <= full.costs.epochs_trained and small.costs.trainings == full.costs.trainings
    assert small.costs.epochs_trained <= 200, "it ends within minutes on the built-in pair"


@pytest.fixture
def published() -> pd.DataFrame:
    return pd.read_csv(ROOT / "analysis" / "paper_tables.csv")


def test_the_paper_is_24_labelled_rows_from_4_trainings_and_experiment_0(published):
    study = shipped("paper")
    keys = [Keys(study, FakeContent()).subscription("t", row.configuration).training_key for row in study.rows]
    in_tables = [row for row in study.rows if "table" in row.labels]
    assert len(in_tables) == 24 and len(set(keys[1:])) == 4 and len(set(keys)) == 5
    assert study.rows[0].labels["experiment"] == 0 and study.rows[0].configuration["epochs"] == 4
    names = ["table", "experiment", "train_model", "infer_model", "caption", "guidance"]
    ours = {tuple({**row.configuration, **row.labels}[name] for name in names) for row in in_tables}
    assert ours == set(published[names].itertuples(index=False, name=None))


def test_the_paper_keeps_its_published_protocol_at_full_scale():
    study = shipped("paper", {"alias.sd15": "/data/sd15", "alias.realistic-vision": "/data/rv", "subject": "/data/me"})
    train, rungs, evaluation = study.split(study.rows[1].configuration)
    assert (train.rank, train.alpha, train.dropout, train.batch, train.learning_rate) == (32, 16.0, 0.1, 2, 5e-5)
    assert (rungs, train.train_model, train.subject) == ((300,), "/data/rv", "/data/me")
    assert (len(evaluation.prompts), evaluation.images_per_prompt, evaluation.steps) == (5, 4, 60)
    assert "distorted face" in evaluation.negative_prompt and {prompt.seen for prompt in evaluation.prompts} == {True, False}
    assert study.split(study.rows[0].configuration)[1] == (100,) and study.reduction_factor is None
    assert study.backbones == {"perceptual": "lpips:alex", "pooled": "inception"}


def test_the_paper_on_the_built_in_pair_is_at_the_stated_embedded_scale():
    study = shipped("paper")
    train, rungs, evaluation = study.split(study.rows[1].configuration)
    assert (train.train_model, train.learning_rate, rungs, evaluation.steps) == ("embedded:realistic", 1e-3, (12,), 20)
    assert "epochs / 25, learning_rate x 20, steps=20" in study.scale_text
    full = shipped("paper", {"scale": "full"})
    assert full.split(full.rows[1].configuration)[0].learning_rate == 5e-5 and full.rungs == (300,)


def test_every_ratio_of_rank_and_alpha_is_listed_at_the_base_rate_and_at_the_rate_that_makes_up_for_it():
    rows = shipped("rank_alpha", REAL).rows
    for row in rows:
        rank, alpha, rate = (row.configuration[name] for name in ("rank", "alpha", "learning_rate"))
        assert row.labels["alpha/rank"] == alpha / rank
        assert rate == pytest.approx(1e-4 if row.labels["rate"] == "base" else 1e-4 / (alpha / rank) ** 0.5)
    assert Counter(row.configuration["rank"] for row in rows) == dict.fromkeys((4, 8, 16, 32), 5)


def test_guidance_and_negative_prompts_are_evaluations_of_one_training():
    for name in ("guidance", "negative_prompts"):
        assert make_plan(shipped(name)).costs.trainings == 1


def test_long_epochs_reach_from_100_to_1000_at_full_scale():
    assert shipped("long_epochs", REAL).rungs == (100, 200, 300, 400, 700, 1000) and shipped("long_epochs").rungs[-1] == 40


def test_the_conditional_space_gives_a_parameter_only_where_its_branch_is_taken():
    drawn = shipped("conditional").telling_configurations("min_snr_gamma")
    assert {("dropout" in c, c["rank"] > 8) for c in drawn} == {(True, True), (False, False)}
    assert any("min_snr_gamma" in c for c in drawn) and not any({"min_snr_gamma", "noise_offset"} <= set(c) for c in drawn)
