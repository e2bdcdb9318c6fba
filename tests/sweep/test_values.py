"""Whatever a study file may hold: it is refused when the study is loaded, or JSON, Optuna, the
records and a relaunch carry it."""

import datetime
import decimal
import enum
import fractions
import json
from pathlib import Path

import numpy as np
import pytest
from ray import tune

from sweep.comparison import SAME, compare_studies
from sweep.errors import StudyError
from sweep.record_schema import TRIALS, as_arrow
from sweep.searcher import COMPLETE, Searcher
from sweep.space import nearest
from sweep.study import Row, Study
from sweep.trial_rows import Trial, past_of, trial_of_row, trial_row
from sweep.values import carried, with_prompts_read
from trainables.config import EvalConfig, Prompt


class Rank(enum.IntEnum):
    LOW = 4


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no words")


def ring() -> list:
    ring: list = []
    ring.append(ring)
    return ring


VALUES = {
    "whole number": 16,
    "number": 2.5,
    "numpy whole number": np.int64(16),
    "numpy number": np.float32(2.5),
    "true": True,
    "none": None,
    "text": "v2",
    "path": Path("embedded:base"),
    "date": datetime.date(2026, 1, 2),
    "enum": Rank.LOW,
    "prompts": (Prompt(text="{trigger}, smile"), Prompt(text="{trigger}", seen=False)),
    "texts": ["{trigger}"],
    "array of texts": np.array(["{trigger}", "{trigger}, smile"]),
    "dict prompts": [{"text": "{trigger}", "seen": False}],
    "wrong dict prompts": [{"text": 5}],
    "nan": float("nan"),
    "infinity": float("inf"),
    "object": object(),
    "unprintable": Unprintable(),
    "set": {16},
    "bytes": b"v2",
    "function": nearest,
    "ring": ring(),
    "half a pair": "\ud800",
    "tuple keys": {("a", "b"): 1},
    "decimal": decimal.Decimal("2.5"),
    "fraction": fractions.Fraction(5, 2),
    "complex": 1j,
    "huge": 10**400,
    "domain": tune.uniform(1.0, 2.0),
}
PARAMETERS = (
    "rank",
    "alpha",
    "caption",
    "train_model",
    "flip",
    "min_snr_gamma",
    "prior_images",
    "train_seed",
    "prompts",
    "negative_prompt",
    "infer_vae",
)
PLACES = {
    "fixed": lambda name, value: {"fixed": {name: value}},
    "choice": lambda name, value: {"space": {name: tune.choice([value])}, "samples": 2},
    "start": lambda name, value: {
        "space": {name: tune.choice([value])},
        "try_first": [{name: value}],
        "samples": 2,
    },
    "grid": lambda name, value: {"space": {name: tune.grid_search([value])}, "sampler": "grid"},
    "rows": lambda name, value: {"rows": [{name: value}, Row({name: value})]},
    "baseline": lambda name, value: {"baseline": {name: value}},
    "fan-out": lambda name, value: {"fan_out": {name: [value]}},
    "by run": lambda name, value: {
        "space": lambda trial: {name: value, "dropout": trial.suggest_float("dropout", 0.0, 0.5)},
        "samples": 2,
    },
    "chosen by run": lambda name, value: {
        "space": lambda trial: {name: trial.suggest_categorical(name, [value])},
        "samples": 2,
    },
    "label": lambda name, value: {"rows": [{"labels": {name: value}}, Row({}, {name: [value]})]},
}


def test_what_a_study_may_hold_is_refused_at_load_or_carried_through_records_and_relaunch(tmp_path):
    accepted = []
    for place, study_of in PLACES.items():
        for kind, value in VALUES.items():
            for name in PARAMETERS:
                try:
                    study = Study(name="s", **study_of(name, value))
                except StudyError as error:
                    assert "\n" not in str(error)
                    continue
                accepted.append((place, kind))
                _require_carried(study, tmp_path / "optuna.journal")
    # By hand: no value is accepted nowhere that suits a parameter, and none that suits none is
    # accepted.
    assert {
        ("choice", "prompts"),
        ("grid", "texts"),
        ("rows", "dict prompts"),
        ("label", "date"),
        ("by run", "array of texts"),
    } <= set(accepted)
    never = {
        "nan",
        "infinity",
        "object",
        "unprintable",
        "set",
        "bytes",
        "function",
        "ring",
        "half a pair",
        "tuple keys",
        "decimal",
        "complex",
        "domain",
    }
    assert not never & {kind for _, kind in accepted}


def _require_carried(study: Study, journal: Path) -> None:
    description = study.describe()
    written = json.loads(json.dumps(description, allow_nan=False))
    assert {verdict for _, verdict, *_ in compare_studies(written, study.describe())} == {SAME}
    searcher, past = Searcher(study, journal=journal), []
    while (suggestion := searcher.ask()) is not None:
        configs = study.split(suggestion.configuration)
        trial = Trial(
            suggestion.trial,
            suggestion.number,
            dict(suggestion.configuration),
            dict(suggestion.labels),
            dict(suggestion.sampled),
        )
        trial.state, trial.rungs = COMPLETE, [(3, 0.5, "key")]
        row = as_arrow(TRIALS, [{**trial_row(trial, "s"), "updated_at": 0.0}]).to_pylist()[0]
        read = {
            name: json.loads(text)
            if TRIALS.columns[name].dtype == "json" and text is not None
            else text
            for name, text in row.items()
        }
        past.append(trial_of_row(read))
        assert study.split(past[-1].configuration) == configs and past[-1].labels == json.loads(
            json.dumps(suggestion.labels)
        )
        searcher.report(suggestion.trial, 3, 0.5)
        searcher.finish(suggestion.trial, COMPLETE, value=0.5)
    assert len(past) == study.n_trials and Searcher(study, past=map(past_of, past)).ask() is None


def test_a_study_file_with_a_value_that_cannot_be_carried_says_where_it_stands():
    with pytest.raises(
        StudyError, match=r"a label in `rows` holds \{16\}, a set\. Write it as one of these"
    ):
        Study(rows=[{"labels": {"note": {16}}}])
    with pytest.raises(StudyError, match=r"`fixed`, `rank`, holds .*Decimal"):
        Study(fixed={"rank": decimal.Decimal(16)})


def test_prompts_of_older_records_are_those_that_were_meant():
    prompts = (Prompt(text="it's {trigger}"), Prompt(text='"{trigger}", seen=True)', seen=False))
    older = {"prompts": [str(prompt) for prompt in prompts], "rank": 4}
    read = with_prompts_read(older)
    assert (
        EvalConfig(prompts=read["prompts"]).prompts == prompts
        and read["prompts"] == carried(prompts, "")
        and read["rank"] == 4
    )
    assert with_prompts_read({"prompts": ["{trigger}, Prompt"]}) == {
        "prompts": ["{trigger}, Prompt"]
    }


def test_numbers_and_paths_of_other_types_are_the_same_configuration():
    plain = Study(
        fixed={"rank": 16, "alpha": 2.5, "train_model": "embedded:base"}, subject="embedded:subject"
    )
    other = Study(
        fixed={
            "rank": np.int64(16),
            "alpha": np.float32(2.5),
            "train_model": Path("embedded:base"),
        },
        subject=Path("embedded:subject"),
    )
    assert other.describe() == plain.describe()
