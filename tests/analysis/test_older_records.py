"""Records of older schemas give the tables that they gave: older_records/ was written by the versions of the program that wrote them,
and is kept forever. Two trials at epochs 3 and 6, LPIPS 0.5 - 0.2 n at the second; pictures of noise 0 are 0.01 lower, of noise 1 higher."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from analysis.cost import cost, failures
from analysis.curves import learning_curves, survival
from analysis.load import load_study_records
from analysis.pareto import pareto_front
from analysis.prompt_groups import label_notes
from analysis.prompts import seen_and_unseen
from analysis.selection import best_set, paired_comparisons
from analysis.tables import ranked_trials
from sweep.records import EVALUATIONS, TRIALS

OLDER = Path(__file__).with_name("older_records")


@pytest.fixture(params=[1, 2])
def records(request):
    return load_study_records(OLDER / f"schema_{request.param}")


def test_these_records_lack_columns_of_today():
    def columns(version, table):
        return set(pq.read_schema(next((OLDER / f"schema_{version}" / "records" / table).glob("*.parquet"))).names)

    assert "sampled" not in columns(1, "trials") and "sampled" in columns(2, "trials")
    assert "intervals" not in columns(2, "evaluations") and "seed_objectives" not in columns(2, "trials")
    assert columns(2, "trials") < set(TRIALS.columns) and columns(1, "evaluations") < set(EVALUATIONS.columns)


def test_their_trials_are_ranked_paired_and_named(records):
    ranked = ranked_trials(records).set_index("trial")
    assert ranked.loc["t0001", ["lpips", "fid", "vs_baseline"]].tolist() == pytest.approx([0.3, 30.0, -0.2])
    assert ranked["rank_number"].dropna().to_dict() == {"t0001": 1, "t0000": 2}
    assert best_set(records)["in_set"].tolist() == [True, False]
    assert paired_comparisons(records)[["trial", "n"]].to_numpy().tolist() == [["t0001", 4]]


def test_their_curves_survival_cost_and_failures_are_there(records):
    assert learning_curves(records)[["training", "epoch"]].to_numpy().tolist() == [["t0000", 3], ["t0000", 6], ["t0001", 3], ["t0001", 6]]
    assert learning_curves(records)["lpips"].tolist() == pytest.approx([0.6, 0.5, 0.4, 0.3])
    assert survival(records)["n_reached"].tolist() == [2, 2] and failures(records)["reason"].tolist() == ["loss is NaN"]
    assert cost(records).set_index("work").loc["evaluation", "device_seconds"] == 12.0
    assert pareto_front(records)["trial"].tolist() == ["t0001"]


def test_the_seen_prompts_that_they_declare_label_nothing(records):
    assert seen_and_unseen(records).empty and records.images["seen"].isna().all()
    assert "`python -m sweep rescore schema_2`" in label_notes("schema_2", records.evaluations)[0]
