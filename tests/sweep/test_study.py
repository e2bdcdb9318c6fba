"""Study files: what they may say, what a configuration means, what the command line changes, and what a wrong one is told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from ray import tune

from sweep.comparison import require_comparable
from sweep.errors import IncomparableStudyError, ModelError, ObjectiveError, StudyError
from sweep.keys import Keys
from sweep.objective import Objective
from sweep.space import choices_of
from sweep.study import Epochs, Row, Study, compare_studies, load_study
from sweep.study_file import parse_assignments
from trainables.config import EVAL_PARAMETERS, TRAIN_PARAMETERS

REPOSITORY = Path(__file__).parents[2]
SPACE = {"caption": tune.choice(["v1", "v2"]), "rank": tune.choice([4, 16]), "guidance": tune.choice([1.5, 3.0])}
EMBEDDED = {"perceptual": "embedded:perceptual", "pooled": "embedded:pooled"}
PAPER = {"perceptual": "lpips:alex", "pooled": "inception"}


def conditional_space(trial):
    rank = trial.suggest_categorical("rank", [4, 16])
    return {"rank": rank, **({"alpha": trial.suggest_float("alpha", 1.0, 8.0)} if rank == 4 else {})}


@pytest.fixture
def study_file(tmp_path):
    def write(body: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.write_text(f"from ray import tune\nfrom sweep import Epochs, Objective, Study\n{body}\n")
        return path

    return write


# -- names and values ----------------------------------------------------------------------------------------------------


def test_parameter_names_are_disjoint_across_training_evaluation_and_study():
    short_for_parameters = {"subject", "model"}
    study_fields = {f.name for f in fields(Study)} - short_for_parameters
    assert not set(TRAIN_PARAMETERS) & set(EVAL_PARAMETERS)
    assert not study_fields & (set(TRAIN_PARAMETERS) | set(EVAL_PARAMETERS))


@pytest.mark.parametrize("place", ["space", "fixed", "rows", "try_first", "baseline"])
def test_a_misspelt_parameter_is_refused_with_the_nearest_name(place):
    value = {"lerning_rate": tune.choice([1e-3]) if place == "space" else 1e-3}
    wrong = {place: [value] if place in ("rows", "try_first") else value}
    with pytest.raises(StudyError, match="lerning_rate.*Did you mean `learning_rate`"):
        Study(**wrong)


@pytest.mark.parametrize(
    ("name", "domain", "value"),
    [
        ("rank", tune.choice([8, 0]), "0"),
        ("alpha", tune.choice([-1]), "-1"),
        ("epochs", tune.choice([0, 3]), "0"),
        ("rank", tune.uniform(4, 16), "4"),
        ("dropout", tune.uniform(0.0, 1.0), "1.0"),
        ("lr_schedule", tune.choice(["cosin"]), "cosin"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused_when_the_study_is_made(name, domain, value):
    with pytest.raises(StudyError, match=f"`space` gives {name}=.*{value}"):
        Study(space={name: domain})


def test_the_ends_of_integer_ranges_are_read_as_ray_draws_them():
    Study(space={"rank": tune.randint(1, 9)}, try_first=[{"rank": 8}])
    with pytest.raises(StudyError, match="rank=9 is outside"):
        Study(space={"rank": tune.randint(1, 9)}, try_first=[{"rank": 9}])


@pytest.mark.parametrize(
    ("fields_of_study", "message"),
    [
        ({"space": SPACE, "fan_out": {"guidance": [1.5]}}, "`guidance` is in `fan_out` and in `space`"),
        ({"space": SPACE, "fixed": {"rank": 4}}, "`rank` is in `fixed` and in `space`"),
        ({"space": {"model": tune.choice(["a", "b"])}, "fixed": {"train_model": "c"}}, "`train_model` is in `fixed` and in `space`"),
        ({"space": SPACE, "rows": [{"rank": 4}]}, "has both"),
        ({"space": {"rank": [4, 8]}}, r"Use tune.choice\(\[4, 8\]\)"),
        ({"space": {"rank": 4}}, "Use fixed=.*'rank': 4"),
        ({"space": {"rank": tune.grid_search([4])}}, "needs sampler='grid'"),
        ({"space": {"dropout": tune.uniform(0.0, 0.5)}, "sampler": "grid"}, "`dropout` is a range"),
        ({"space": {"dropout": tune.randn(0.0, 0.5)}}, "`dropout` is a Float of another kind"),
        ({"space": SPACE, "try_first": [{"rank": 5}]}, "rank=5 is outside"),
        ({"space": SPACE, "try_first": [{"dropout": 0.0}]}, "`dropout` is not in it"),
        ({"space": SPACE, "baseline": {"rank": 4}}, "caption, guidance is missing"),
        ({"fan_out": {"rank": [4]}}, "`rank` is none"),
        ({"fan_out": {"guidance": 4.0}}, "list of values"),
        ({"fixed": {"subject": "me"}}, "one subject"),
        ({"fixed": {"epochs": 4}}, "Study\\(epochs=4\\)"),
        ({"name": "../x"}, "'../x'"),
        ({"sampler": "tpa"}, "Did you mean `tpe`"),
        ({"samples": 0}, "`samples`.*0"),
        ({"early_stopping": 1}, "greater than 1.*1"),
        ({"train_seeds": 3, "space": {"train_seed": tune.choice([0, 1])}}, "under 3 seeds, but `train_seed` is searched"),
        ({"train_seeds": 2, "rows": [{"train_seed": 4}]}, "under 2 seeds"),
        ({"train_seeds": 0}, "`train_seeds`.*0"),
        ({"epochs": 0}, "positive integers.*0"),
        ({"epochs": [6, 3]}, "increase"),
        ({"objective": {"lpips": 1}}, "must be an Objective"),
        ({"pareto": ("lpips", "fidd")}, "`pareto` knows no metric `fidd`.*Did you mean `fid`"),
        ({"pareto": ("lpips",)}, r"two or three different metrics, but it is \['lpips'\]"),
        ({"pareto": ("lpips", "lpips")}, "two or three different"),
        ({"pareto": 3}, "list of metrics, but it is 3"),
        ({"pareto": ("lpips", "dinov2")}, r"`pareto` uses `dinov2`.*metrics=\('dinov2',\)"),
        ({"pareto": ("lpips", "fid"), "early_stopping": 3}, "one order.*3 beside.*Leave it out"),
        ({"sampler": "nsga2"}, "names none. Use pareto="),
        ({"space": SPACE, "pareto": ("lpips", "epochs")}, "`epochs` only between trials of different lengths.*'epochs': tune.choice"),
    ],
)
def test_a_study_that_breaks_a_rule_says_which_value_and_the_way_out(fields_of_study, message):
    with pytest.raises(StudyError, match=message):
        Study(**fields_of_study)


def test_epochs_end_with_their_maximum_and_grow_geometrically():
    assert Epochs(max=12, rungs=(3, 6)).rungs == (3, 6, 12) == Epochs(max=12, rungs=(3, 6, 12)).rungs
    assert Epochs.geometric(300, first=33, factor=3).rungs == (33, 99, 297, 300)
    assert Epochs.geometric(10, first=1, factor=1.2).rungs == (1, 2, 3, 4, 5, 6, 7, 9, 10)
    assert Study(epochs=5).rungs == (5,) and Study(epochs=(2, 5)).rungs == (2, 5)


# -- what a configuration is ---------------------------------------------------------------------------------------------


def test_split_gives_each_value_to_its_owner_and_converts_numpy_numbers():
    import numpy as np

    train, rungs, evaluation = Study(space=SPACE).split({"caption": "v1", "rank": np.int64(4), "guidance": np.float64(3.0)})
    assert (train.caption, train.rank, evaluation.guidance, rungs) == ("v1", 4, 3.0, (3, 6, 12))
    assert type(train.rank) is int


def test_a_configuration_wins_over_fixed_and_a_long_name_over_its_short_one():
    study = Study(model="a", fixed={"rank": 8, "infer_model": "b"})
    train, _, evaluation = study.split({"rank": 2})
    assert (train.train_model, evaluation.infer_model, train.rank) == ("a", "b", 2)
    train, _, evaluation = study.split({"model": "c"})
    assert (train.train_model, evaluation.infer_model) == ("c", "c")


def test_a_sampled_length_passes_the_rungs_below_it():
    space = {"epochs": tune.choice([4, 8])}
    assert Study(space=space).split({"epochs": 8})[1] == (8,)
    assert Study(space=space, epochs=Epochs(max=8, rungs=(2, 4))).split({"epochs": 4})[1] == (2, 4)


def test_aliases_redirect_a_model_wherever_it_occurs():
    study = Study(space={"train_model": tune.choice(["sd15", "rv"])}, fan_out={"infer_model": ["rv", "sd15"]}, aliases={"sd15": "/data/sd"})
    train, _, evaluation = study.split({"train_model": "sd15"})
    assert (train.train_model, evaluation.infer_model) == ("/data/sd", "rv")
    assert [e.infer_model for e in study.fan_out_configs(evaluation)] == ["/data/sd"]


def test_fan_out_scores_every_combination_once():
    study = Study(fan_out={"guidance": [4.0, 6.0, 7.5], "negative_prompt": ["", "blurred"]})
    evaluation = study.split({})[2]
    all_of_them = [evaluation, *study.fan_out_configs(evaluation)]
    assert evaluation.guidance == 4.0 and len(set(all_of_them)) == len(all_of_them) == 6


def test_listed_rows_keep_their_labels_and_the_baseline_comes_first():
    study = Study(rows=[{"rank": 4, "labels": {"table": 4}}, {"rank": 8, "labels": {"table": 5}}], baseline={"rank": 8})
    assert study.kind == "rows" and study.n_trials == 2
    assert study.listed == (Row({"rank": 8}, {"table": 5, "baseline": True}), Row({"rank": 4}, {"table": 4}))


def test_rows_that_repeat_each_other_all_stay():
    assert Study(rows=[{"rank": 4, "labels": {"table": 4}}, {"rank": 4, "labels": {"table": 5}}]).n_trials == 2


def test_a_grid_is_the_product_of_its_choices_and_samples_cut_it_short():
    grid = {"rank": tune.grid_search([4, 8]), "caption": tune.choice(["v1", "v2"])}
    study = Study(space=grid, sampler="grid")
    assert [tuple(row.configuration.values()) for row in study.listed] == [(4, "v1"), (4, "v2"), (8, "v1"), (8, "v2")]
    assert Study(space=grid, sampler="grid", samples=3).n_trials == 3


def test_early_stopping_is_for_sampled_studies_unless_the_study_says_otherwise():
    assert Study(space=SPACE).reduction_factor == 3
    assert Study(rows=[{}]).reduction_factor is None
    assert Study(rows=[{}], early_stopping=2).reduction_factor == 2
    assert Study(space=SPACE, early_stopping="off").reduction_factor is None


def test_a_study_that_weighs_metrics_is_sampled_by_tpe_unless_another_is_asked_for_and_stops_nothing():
    study = Study(space=SPACE, pareto=["lpips", "dinov2_unseen"], metrics=("dinov2",))
    assert (study.sampler, study.reduction_factor, study.needed_metrics) == ("tpe", None, ("dinov2",))
    assert Study(space=SPACE, pareto=("lpips", "fid"), sampler="nsga2", early_stopping="off").sampler == "nsga2"
    by_set = Study(space=SPACE).with_overrides({"pareto": "lpips, fid"})
    assert (by_set.pareto, by_set.sampler) == (("lpips", "fid"), "tpe")
    assert Study(space={"epochs": tune.choice([3, 6])}, pareto=("lpips", "epochs")).pareto == ("lpips", "epochs")


def test_a_define_by_run_space_is_checked_by_drawing_from_it():
    Study(space=conditional_space)
    with pytest.raises(StudyError, match="`rnk`.*Did you mean `rank`"):
        Study(space=lambda trial: {"rnk": 4})
    with pytest.raises(StudyError, match="`rank` is in `fixed` and in `space`"):
        Study(space=conditional_space, fixed={"rank": 4})
    with pytest.raises(StudyError, match="returned None"):
        Study(space=lambda trial: None)


def test_the_telling_configurations_of_a_parameter_take_each_of_its_values_however_it_is_spelt():
    study = Study(space={"model": tune.choice(["a", "b"]), "rank": tune.choice([4, 8])})
    told = {study.split(configuration)[0].train_model for configuration in study.telling_configurations("train_model")}
    assert told == {"a", "b"} and study.telling_configurations("caption") == [{}]


def test_a_caption_version_that_the_subject_lacks_is_refused():
    study = Study(space={"caption": tune.choice(["v1", "v4"])})
    study.require_captions(["v1", "v4"])
    with pytest.raises(StudyError, match="'v4'.*has v1, v2"):
        study.require_captions(["v1", "v2"])
    with pytest.raises(StudyError, match="'v2'"):
        Study(rows=[{"rank": 4}]).require_captions(["v1"])
    Study(rows=[{"caption": "v1"}]).require_captions(["v1"])


# -- objective -----------------------------------------------------------------------------------------------------------


def test_the_objective_is_the_weighted_sum_of_metrics_over_their_scales():
    assert Objective(lpips=0.25, fid=0.75).value({"lpips": 0.8, "fid": 100.0}, PAPER) == pytest.approx(0.25 * 0.8 / 1 + 0.75 * 100 / 200)
    assert Objective(fid=1.0, scales={"fid": 50.0}).value({"fid": 100.0}, EMBEDDED) == 2.0
    assert Objective(fid=1.0, scales={("fid", "inception"): 25.0}).value({"fid": 100.0}, PAPER) == 4.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_gives_no_objective(value):
    with pytest.raises(ObjectiveError, match=f"`fid`.*{value}"):
        Objective().value({"lpips": 0.5, "fid": value}, PAPER)
    with pytest.raises(ObjectiveError, match="`lpips`.*fid"):
        Objective().value({"fid": 1.0}, PAPER)


def test_a_network_without_a_scale_is_refused_with_the_way_to_state_one():
    with pytest.raises(StudyError, match="`fid` over 'dino'.*scales="):
        Objective().value({"lpips": 0.5, "fid": 1.0}, {**PAPER, "pooled": "dino"})


def test_a_similarity_enters_the_objective_as_what_is_missing_to_1_and_needs_no_scale():
    objective = Objective(lpips=0.5, dinov2=0.25, clip_t_unseen=0.25, scales={"clip_t": 0.5})
    networks = {"perceptual": "lpips:alex", "dinov2": "facebook/dinov2-base sha256:0", "clip_t": "clip sha256:1"}
    values = {"lpips": 0.8, "dinov2": 0.6, "clip_t_unseen": 0.3}
    assert objective.value(values, networks) == pytest.approx(0.5 * 0.8 + 0.25 * 0.4 + 0.25 * 0.7 / 0.5)
    assert objective.value({**values, "dinov2": 0.7}, networks) < objective.value(values, networks)
    assert "0.25 * (1 - dinov2) / 1 (facebook/dinov2-base sha256:0)" in objective.describe(networks)
    assert objective.further_metrics == ("dinov2", "clip_t")


def test_groups_and_the_held_out_loss_may_be_in_an_objective():
    networks = {"perceptual": "embedded:perceptual", "pooled": "embedded:pooled"}
    objective = Objective(lpips_unseen=0.5, heldout_loss=0.5)
    assert objective.value({"lpips_unseen": 1.2, "heldout_loss": 0.1}, networks) == pytest.approx(0.5 + 0.05)
    assert objective.describe(networks) == "0.5 * lpips_unseen / 1.2 (embedded:perceptual) + 0.5 * heldout_loss / 1"


def test_further_metrics_are_named_once_and_those_of_the_objective_are_computed():
    assert Study(metrics="dinov2, clip_t=/w").metrics == ("dinov2", "clip_t=/w") == Study(metrics=["dinov2", "clip_t=/w"]).metrics
    with pytest.raises(StudyError, match="'dino'.*Did you mean dinov2"):
        Study(metrics=("dino",))
    with pytest.raises(StudyError, match="names dinov2 twice"):
        Study(metrics=("dinov2", "dinov2=/w"))
    with pytest.raises(StudyError, match=r"uses `face`.*metrics=\('face',\)"):
        Study(objective=Objective(face=1.0))


def test_further_metrics_may_be_added_but_those_of_the_objective_keep_their_network():
    assert "metrics" not in Study().describe()  # or the studies of before there were any would look changed
    assert changed(Study(name="s"), Study(name="s", metrics=("dinov2",))) == {"metrics": "extends"}
    objective = Objective(dinov2=1.0)
    old, new = (Study(name="s", metrics=(f"dinov2={place}",), objective=objective) for place in ("/a", "/b"))
    assert changed(old, new) == {"metrics": "extends", "fixed.metric dinov2": "incomparable"}


def test_a_launch_whose_objective_lacks_its_weights_is_refused_before_it_starts():
    with pytest.raises(ModelError, match="no /nowhere"):
        Keys(Study(metrics=("dinov2=/nowhere",), objective=Objective(dinov2=1.0))).check()
    Keys(Study(metrics=("dinov2=/nowhere",))).check()


def test_an_objective_of_unknown_metrics_or_wrong_weights_is_refused():
    with pytest.raises(StudyError, match="`lipps`.*Did you mean `lpips`"):
        Objective(lipps=1.0)
    with pytest.raises(StudyError, match="`fid`.*-1"):
        Objective(fid=-1)
    with pytest.raises(StudyError, match="diversity.*0.5"):
        Objective(lpips=1.0, diversity=0.5)


# -- files and the command line -------------------------------------------------------------------------------------------


def test_a_study_file_gives_its_name_its_source_and_leaves_nothing_behind(study_file):
    path = study_file("study = Study(space={'rank': tune.choice([4, 8])})", "first-try.py")
    modules = set(sys.modules)
    study = load_study(path)
    assert (study.name, study.source, study.file) == ("first-try", path.read_text(), str(path))
    assert not {name for name in set(sys.modules) - modules if "sweep_study" in name}
    assert [p.name for p in path.parent.iterdir()] == ["first-try.py"]


def test_what_is_wrong_with_a_study_file_is_said_in_one_line(study_file, tmp_path):
    study_file("study = Study()", "captions.py")
    with pytest.raises(StudyError, match="no .*caption.py.*Did you mean .*captions.py"):
        load_study(tmp_path / "caption.py")
    with pytest.raises(StudyError, match="is a folder"):
        load_study(tmp_path)
    with pytest.raises(StudyError, match=r"mine.py, line 4, raises ZeroDivisionError: division by zero"):
        load_study(study_file("\nx = 1 / 0"))
    with pytest.raises(StudyError, match=r"mine.py, line 3, raises TypeError: .*'sapce'. Did you mean `space`"):
        load_study(study_file("study = Study(sapce={})"))
    with pytest.raises(StudyError, match=r"mine.py, line 3: "):
        load_study(study_file("study = Study("))
    with pytest.raises(StudyError, match="defines none.*`study` is a dict"):
        load_study(study_file("study = {}"))
    with pytest.raises(StudyError, match="defines 2: a, b"):
        load_study(study_file("a = Study()\nb = Study(samples=2)"))
    with pytest.raises(StudyError, match=r"mine.py, line 3: `space` gives rank=0: `rank` must be a positive integer.*0"):
        load_study(study_file("study = Study(space={'rank': tune.choice([8, 0])})"))


def test_a_study_is_named_by_set_else_by_itself_else_by_its_file(study_file):
    file = study_file("study = Study(name='own')", "my study.py")
    assert load_study(file).name == "own" and load_study(file, {"name": "other"}).name == "other"
    unnamed = study_file("study = Study()", "my study.py")
    assert load_study(unnamed, {"name": "mine"}).name == "mine"
    with pytest.raises(StudyError, match="'my study'.*--name"):
        load_study(unnamed, {"name": ""})


def test_set_fixes_a_parameter_wherever_it_was_searched(study_file):
    path = study_file(
        "study = Study(space={'rank': tune.choice([4, 8]), 'caption': tune.choice(['v1', 'v2'])},"
        " try_first=[{'rank': 4, 'caption': 'v1'}], fan_out={'guidance': [1.0, 2.0]})"
    )
    study = load_study(path, {"rank": "16", "guidance": "3", "samples": "4", "epochs": "2,5", "subject": "2024", "early_stopping": "off"})
    assert set(study.space) == {"caption"} and study.fan_out == {} and study.try_first == (Row({"caption": "v1"}),)
    train, rungs, evaluation = study.split({})
    assert (train.rank, train.subject, evaluation.guidance, rungs) == (16, "2024", 3.0, (2, 5))
    assert study.n_trials == 4 and study.reduction_factor is None


def test_set_space_leaves_a_searched_parameter_the_choices_between_the_commas(study_file):
    path = study_file("study = Study(space={'rank': tune.choice([4, 8]), 'caption': tune.choice(['v1', 'v2', 'v3'])})")
    study = load_study(path, {"space.caption": "v1, v3", "space.rank": "2,4"})
    assert choices_of(study.space["caption"]) == ("v1", "v3") and choices_of(study.space["rank"]) == (2, 4)
    with pytest.raises(StudyError, match="space.captoin.*Did you mean `caption`"):
        load_study(path, {"space.captoin": "v1"})
    with pytest.raises(StudyError, match="rank.*0"):
        load_study(path, {"space.rank": "0,4"})
    with pytest.raises(StudyError, match="--set space.caption=v1,v2"):
        load_study(path).require_captions(("v1", "v2"))


def test_set_model_points_a_study_at_another_model_and_a_narrower_name_leaves_the_other_half():
    study = Study(space={"model": tune.choice(["a", "b"])}, fixed={"train_vae": "v"})
    train, _, evaluation = study.with_overrides({"model": "c"}).split({})
    assert (train.train_model, evaluation.infer_model) == ("c", "c")
    assert set(study.with_overrides({"train_model": "c"}).space) == {"infer_model"}
    assert study.with_overrides({"alias.b": "/data/b"}).split({"model": "b"})[0].train_model == "/data/b"
    with pytest.raises(StudyError, match="'sd51'.*a, b"):
        study.with_overrides({"alias.sd51": "/data"})


def test_set_reaches_into_a_define_by_run_space():
    study = Study(space=conditional_space).with_overrides({"rank": "16"})
    assert all("rank" not in configuration for configuration in study.telling_configurations("rank"))
    assert study.split({})[0].rank == 16 and "suggest_categorical" in study.describe()["space"]["define_by_run"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rnk", "4", "Did you mean `rank`"),
        ("samplse", "4", "Did you mean `samples`"),
        ("rank", "0", "`rank` must be a positive integer, but it is 0"),
        ("alpha", "-1", "`alpha`.*-1"),
        ("epochs", "0", "`epochs`.*0"),
        ("rank", "many", "`rank`.*'many'"),
        ("space", "{}", "part of the study file"),
    ],
)
def test_a_wrong_set_names_the_file_the_text_and_the_way_out(study_file, name, text, message):
    with pytest.raises(StudyError, match=f"mine.py with --set {name}=.*{message}"):
        load_study(study_file("study = Study()"), {name: text})


def test_assignments_need_a_name_and_an_equals_sign():
    assert parse_assignments(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    with pytest.raises(StudyError, match="'rank'.*--set rank=16"):
        parse_assignments(["rank"])


def test_the_shipped_study_loads_and_uses_every_caption_version():
    study = load_study(REPOSITORY / "search_spaces" / "captions.py")
    study.require_captions(["v1", "v2", "v3", "v4"])
    assert study.n_trials >= 12 and study.baseline and study.try_first and len(study.rungs) > 1


def test_importing_the_study_module_brings_neither_ray_nor_torch():
    code = "import sys, sweep.study, sweep.plan; print([m for m in ('ray', 'torch', 'optuna', 'diffusers', 'pandas') if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


# -- comparing -----------------------------------------------------------------------------------------------------------


def changed(old: Study, new: Study) -> dict[str, str]:
    return {field: verdict for field, verdict, _, _ in compare_studies(old.describe(), new.describe()) if verdict != "same"}


def test_a_description_is_json_and_equal_to_itself():
    description = Study(space=SPACE, baseline={"caption": "v1", "rank": 4, "guidance": 3.0}, epochs=(3, 6)).describe()
    assert json.loads(json.dumps(description)) == description
    assert {verdict for _, verdict, _, _ in compare_studies(description, description)} == {"same"}


def test_more_samples_another_budget_and_a_wider_space_extend_a_study():
    wider = {**SPACE, "rank": tune.choice([4, 16, 32])}
    old, new = Study(space=SPACE), Study(space=wider, samples=32, max_concurrent=2, budget_hours=1, fan_out={"negative_prompt": ["", "x"]})
    assert changed(old, new) == dict.fromkeys(["space", "samples", "max_concurrent", "budget_hours", "fan_out"], "extends")
    assert set(changed(old, old.with_overrides({"rank": "16"})).values()) == {"extends"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"subject": "me"}, "subject"),
        ({"model": "sd15"}, "fixed.train_model"),
        ({"fixed": {"steps": 60}}, "fixed.steps"),
        ({"fixed": {"prompts": ["{trigger}"]}}, "fixed.prompts"),
        ({"objective": Objective(lpips=1.0)}, "objective"),
        ({"epochs": 24}, "epochs"),
        ({"space": {**SPACE, "dropout": tune.choice([0.0, 0.1])}}, "fixed.dropout"),
    ],
)
def test_another_subject_model_protocol_or_objective_is_incomparable(change, field):
    old, new = Study(name="s", space=SPACE), Study(**{"name": "s", "space": SPACE, **change})
    assert changed(old, new)[field] == "incomparable"
    with pytest.raises(IncomparableStudyError, match=f"`{field}` was .* in s and is now .*--name"):
        require_comparable(old.describe(), new.describe())


def test_other_metrics_to_weigh_leave_the_records_comparable():
    plain, weighing = Study(space=SPACE), Study(space=SPACE, pareto=("lpips", "fid"))
    assert changed(plain, weighing) == dict.fromkeys(["pareto", "early_stopping"], "extends") == changed(weighing, plain)
    assert changed(weighing, Study(space=SPACE, pareto=("lpips", "kid"))) == {"pareto": "extends"}


def test_another_baseline_is_incomparable():
    rows = [{"caption": "v1", "rank": rank, "guidance": 3.0} for rank in (4, 16)]
    assert changed(Study(space=SPACE, baseline=rows[0]), Study(space=SPACE, baseline=rows[1]))["baseline"] == "incomparable"


def test_other_files_under_the_same_name_are_incomparable_and_further_ones_are_not():
    old = {**Study(name="s").describe(), "content": {"images of me": "1", "captions v2 of me": "a"}}
    more = {**Study(name="s").describe(), "content": {"images of me": "1", "captions v2 of me": "a", "captions v4 of me": "b"}}
    assert {v[0]: v[1] for v in compare_studies(old, more) if v[1] != "same"} == {"content of captions v4 of me": "extends"}
    with pytest.raises(IncomparableStudyError, match="`content of images of me` was \"1\" in s and is now \"2\".*--name"):
        require_comparable(old, {**old, "content": {**old["content"], "images of me": "2"}})
    assert {v[1] for v in compare_studies(Study().describe(), {**Study().describe(), "content": old["content"]})} == {"same", "extends"}


def test_a_fan_out_that_begins_with_another_value_than_before_is_incomparable():
    assert changed(Study(), Study(fan_out={"guidance": [7.5, 4.0]}))["fixed.guidance"] == "incomparable"


def test_rows_may_be_added_at_the_end_only():
    rows = [{"rank": 4}, {"rank": 8}]
    assert changed(Study(rows=rows), Study(rows=[*rows, {"rank": 16}]))["rows"] == "extends"
    assert changed(Study(rows=rows), Study(rows=rows[::-1]))["rows"] == "incomparable"


def test_embedded_models_are_scored_by_the_embedded_networks_and_others_by_the_published_ones():
    assert Study().backbones == {"perceptual": "embedded:perceptual", "pooled": "embedded:pooled"}
    assert Study(model="sd15", perceptual="lpips:vgg").backbones == {"perceptual": "lpips:vgg", "pooled": "inception"}
    with pytest.raises(StudyError, match="`pooled`.*'incepton'.*inception"):
        Study(pooled="incepton")


def test_a_narrowed_space_leaves_out_start_points_with_a_note_and_keeps_the_baseline():
    baseline = {"caption": "v2", "rank": 4, "guidance": 4.0}
    points = [{"caption": "v2"}, {"rank": 16}, {"caption": "v1", "rank": 4}]
    study = Study(space=SPACE, baseline=baseline, try_first=points)
    narrowed = study.with_overrides({"space.caption": "v1", "space.rank": "8,16"})
    assert [row.configuration for row in narrowed.try_first] == [{"rank": 16}]
    assert narrowed.baseline.configuration == baseline
    assert narrowed.notes == (
        "the start point with caption='v2' is left out, since `--set space.caption` leaves v1",
        "the start point with rank=4 is left out, since `--set space.rank` leaves 8, 16",
    )
    assert narrowed.listed[0].configuration == baseline and study.notes == ()


@pytest.mark.parametrize(
    ("fields_of_study", "message"),
    [
        (
            {"space": SPACE, "baseline": {"caption": "v1", "rnak": 4, "guidance": 3.0}},
            "Did you mean `rank`",
        ),
        (
            {
                "space": {"rank": tune.choice([4])},
                "baseline": {"rank": 4, "guidance": 3.0},
                "fan_out": {"guidance": [4.0]},
            },
            "in `fan_out`",
        ),
        ({"space": SPACE, "baseline": {"caption": "v1", "rank": -4, "guidance": 3.0}}, "rank.*-4"),
    ],
)
def test_a_baseline_outside_of_the_space_must_be_a_configuration_all_the_same(
    fields_of_study, message
):
    with pytest.raises(StudyError, match=message):
        Study(**fields_of_study)


@pytest.mark.parametrize("asked", [{"space.caption": "v1"}, {"caption": "v1"}])
def test_the_way_out_for_a_subject_without_captions_is_one_that_the_shipped_study_takes(asked):
    captions = load_study(REPOSITORY / "search_spaces" / "captions.py")
    with pytest.raises(StudyError, match=r"Use --set space\.caption=v1, or"):
        captions.require_captions(["v1"])
    load_study(REPOSITORY / "search_spaces" / "captions.py", asked).require_captions(["v1"])


def test_the_way_out_from_a_baseline_of_another_caption_version_fixes_the_version():
    space = {"caption": tune.choice(["v1", "v2"])}
    study = Study(space=space, baseline={"caption": "v2"}).with_overrides({"space.caption": "v1"})
    with pytest.raises(StudyError, match=r"asks for 'v2' and .* has v1\. Use --set caption=v1,"):
        study.require_captions(["v1"])
    Study(space=space, baseline={"caption": "v2"}).with_overrides(
        {"caption": "v1"}
    ).require_captions(["v1"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_study_file_is_read_in_the_encodings_that_windows_saves(tmp_path, encoding):
    (tmp_path / "mine.py").write_bytes(
        'from sweep import Study\r\nstudy = Study(fixed={"negative_prompt": "né"})\r\n'.encode(
            encoding
        )
    )
    study = load_study(tmp_path / "mine.py")
    assert (
        study.fixed == {"negative_prompt": "né"}
        and "\ufeff" not in study.source
        and "\r" not in study.source
    )


def test_a_study_file_in_an_old_encoding_is_one_line_with_the_way_out(tmp_path):
    (tmp_path / "mine.py").write_bytes("# né\n".encode("cp1252"))
    with pytest.raises(
        StudyError, match=r"readable as UTF-8 text, but .*mine\.py is not.*Save it as UTF-8"
    ):
        load_study(tmp_path / "mine.py")


@pytest.mark.parametrize(
    "file", sorted(path.name for path in (REPOSITORY / "search_spaces").glob("*.py"))
)
def test_every_shipped_study_runs_on_a_subject_without_captions_by_the_way_out_that_it_names(file):
    path = REPOSITORY / "search_spaces" / file
    try:
        load_study(path).require_captions(["v1"])
    except StudyError as error:
        way_out = re.search(r"Use --set (\S+)=(\S+),", str(error))
        load_study(path, {way_out[1]: way_out[2]}).require_captions(["v1"])
