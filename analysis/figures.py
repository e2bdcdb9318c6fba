"""Figures of a study for papers and slides. Each is two functions: numbers as a frame, then ink on an Axes.

Drawing needs matplotlib (the `report` extra); the numbers do not."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.curves import PRUNED
from analysis.extremes import draw_extremes
from analysis.image_sets import ImageSets
from analysis.importance import importances_of, main_effects, scored_trials
from analysis.load import StudyRecords
from analysis.pareto import trade_offs
from analysis.tables import best_evaluations, ranked_trials
from sweep.records import RecordsError, more_is_better

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

_BLUE, _GREY, _RED = "#1f5fa8", "#8d8a84", "#b4532a"
MOST_BARS = 30


def metrics_by_configuration(records: StudyRecords, *, seed: int = 0) -> pd.DataFrame:
    """One row per metric (lpips, fid) and ranked trial, best rank first: metric, trial, rank_number, value, low, high, n_images."""
    ranked = ranked_trials(records, seed=seed)
    ranked = ranked[ranked["rank_number"].notna()]
    columns = {"trial": ranked["trial"], "rank_number": ranked["rank_number"], "n_images": ranked["n_images"]}
    parts = []
    for metric in ("lpips", "fid"):
        ends = {end: ranked.get(f"{metric}_{end}", pd.Series(float("nan"), ranked.index)) for end in ("low", "high")}
        parts.append(pd.DataFrame({"metric": metric, **columns, "value": ranked[metric], **ends}))
    return pd.concat(parts, ignore_index=True).dropna(subset=["value"]).reset_index(drop=True)


def draw_metric(values: pd.DataFrame, metric: str, ax: Axes) -> Axes:
    """The metric of the first trials in rank, with intervals where there are any."""
    own = values[values["metric"] == metric].head(MOST_BARS)
    known = own["low"].notna()
    errors = [(own["value"] - own["low"]).where(known, 0).clip(lower=0), (own["high"] - own["value"]).where(known, 0).clip(lower=0)]
    ax.errorbar(own["trial"], own["value"], yerr=errors, fmt="o", color=_BLUE, elinewidth=1)
    ax.tick_params(axis="x", rotation=90)
    ax.set_ylabel(_axis_label(metric))
    return ax


def trial_curves(records: StudyRecords) -> pd.DataFrame:
    """One row per trial and rung, by trial and epoch: trial, epoch, objective, is_stop (stopped early there), is_best (of the best trial)."""
    rungs = records.rungs.merge(records.trials[["trial", "state"]], on="trial").dropna(subset=["objective"]).sort_values(["trial", "epoch"])
    is_last = rungs["epoch"].eq(rungs.groupby("trial")["epoch"].transform("max"))
    best = _best_trial(records)
    columns = rungs[["trial", "epoch", "objective"]]
    return columns.assign(is_stop=is_last & rungs["state"].eq(PRUNED), is_best=rungs["trial"].eq(best)).reset_index(drop=True)


def draw_curves(curves: pd.DataFrame, ax: Axes) -> Axes:
    for _, own in curves.groupby("trial"):
        is_best = bool(own["is_best"].any())
        ax.plot(own["epoch"], own["objective"], color=_BLUE if is_best else _GREY, alpha=1 if is_best else 0.45, zorder=3 if is_best else 1)
    stops = curves[curves["is_stop"]]
    ax.scatter(stops["epoch"], stops["objective"], marker="x", color=_RED, label="stopped early", zorder=2)
    ax.set_xlabel("epoch")
    ax.set_ylabel(_axis_label("objective"))
    return ax


def parallel_coordinates(records: StudyRecords) -> pd.DataFrame:
    """One row per scored trial: trial, objective, and each searched parameter as a height from 0 to 1, equally spaced over its values."""
    trials = scored_trials(records, "objective")
    heights = {name: _height(trials[name]) for name in records.parameters if trials[name].astype(str).nunique() > 1}
    return pd.DataFrame({"trial": trials["trial"], "objective": trials["objective"], **heights})


def draw_parallel(heights: pd.DataFrame, ax: Axes) -> Axes:
    """A line per trial, the darker the better."""
    names = list(heights.columns[2:])
    share = heights["objective"].rank(pct=True)
    for row, rank in sorted(zip(heights.to_dict("records"), share), key=lambda pair: -pair[1]):
        ax.plot(names, [row[name] for name in names], color=_BLUE, alpha=max(0.08, 1 - rank))
    ax.set_yticks([])
    ax.tick_params(axis="x", rotation=30)
    return ax


def draw_effects(effects: pd.DataFrame, parameter: str, ax: Axes) -> Axes:
    """A slice: the mean objective at each value of one parameter. effects: as analysis.importance.main_effects."""
    own = effects[effects["parameter"] == parameter]
    known = own["low"].notna()
    errors = [(own["mean"] - own["low"]).where(known, 0).clip(lower=0), (own["high"] - own["mean"]).where(known, 0).clip(lower=0)]
    ax.errorbar(own["level"], own["mean"], yerr=errors, fmt="o", color=_BLUE)
    ax.set_xlabel(parameter)
    ax.set_ylabel("mean objective")
    return ax


def draw_importance(importances: pd.DataFrame, ax: Axes) -> Axes:
    known = importances.dropna(subset=["importance"]).iloc[::-1]
    errors = [known["importance"] - known["low"], known["high"] - known["importance"]]
    ax.barh(known["parameter"], known["importance"], xerr=errors, color=_BLUE, ecolor=_GREY)
    ax.set_xlabel("importance (PED-ANOVA; adds up to 1)")
    return ax


def trade_off(records: StudyRecords, *axes: str) -> pd.DataFrame:
    """One row per trial that has a value on each axis, by the first one: trial, the values, and whether it is on the Pareto front.

    Without `axes` they are those of the study, or LPIPS and FID."""
    trials, axes = trade_offs(records, *axes)
    return trials[["trial", *axes, "is_on_front"]].sort_values(list(axes), ignore_index=True)


def draw_trade_off(values: pd.DataFrame, ax: Axes) -> Axes:
    """The first two axes; of three, the front is that of all three, which no line can follow here."""
    _, *axes, _ = values.columns
    x, y = axes[:2]
    front = values[values["is_on_front"]]
    ax.scatter(values[x], values[y], color=_GREY)
    ax.plot(front[x], front[y], "o--" if len(axes) == 2 else "o", color=_BLUE)
    ax.set_xlabel(_axis_label(x))
    ax.set_ylabel(_axis_label(y))
    return ax


def write_figures(records: StudyRecords, folder: Path, *, seed: int = 0) -> list[Path]:
    """Write every figure that the records have numbers for, as PNG; their paths. `extremes.png` is the best trial's closest and furthest
    pictures, each above its nearest training image.

    Raises:
        RecordsError: no trial was scored yet, matplotlib is missing, a picture is, or the folder cannot be written."""
    if _best_trial(records) is None:
        raise RecordsError(f"A figure needs a scored trial, but {records.name} has none of its {len(records.trials)}. Wait for a rung.")
    figure_class = _figure_class()
    metrics, effects = metrics_by_configuration(records, seed=seed), main_effects(records, seed=seed)
    curves, heights, importances = trial_curves(records), parallel_coordinates(records), importances_of(records, seed=seed)
    trade, extremes = trade_off(records), _extremes_of_the_best(records)
    inks: dict[str, Callable[[Any], Axes]] = {f"{metric}.png": lambda ax, m=metric: draw_metric(metrics, m, ax) for metric in metrics["metric"].unique()}
    inks["curves.png"] = lambda ax: draw_curves(curves, ax)
    inks |= {f"slice-{name}.png": lambda ax, n=name: draw_effects(effects, n, ax) for name in effects["parameter"].unique()}
    if heights.shape[1] > 3:
        inks["parallel.png"] = lambda ax: draw_parallel(heights, ax)
    if importances["importance"].notna().any():
        inks["importance.png"] = lambda ax: draw_importance(importances, ax)
    if len(trade):
        inks["pareto.png"] = lambda ax: draw_trade_off(trade, ax)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
            for name, ink in inks.items():
                figure = figure_class(figsize=(7, 4.5), layout="constrained")
                ink(figure.subplots())
                figure.savefig(Path(part) / name, dpi=140)
            if extremes is not None:
                extremes.save(Path(part) / "extremes.png")
            return [file.replace(folder / file.name) for file in sorted(Path(part).iterdir())]
    except OSError as error:
        raise RecordsError(f"Figures must be written somewhere, but {folder} does not take them: {error.strerror}. Use -o DIR.") from error


def _extremes_of_the_best(records: StudyRecords) -> Image.Image | None:
    trials = best_evaluations(records)
    keys = trials.loc[trials["trial"].eq(_best_trial(records)), "evaluation_keys"].iloc[0]
    if not (isinstance(keys, tuple) and keys):
        return None
    return draw_extremes(records, ImageSets(records.images).rows_of(keys))


def _best_trial(records: StudyRecords) -> str | None:
    trials = best_evaluations(records)
    scored = trials[trials["objective"].notna() & trials["state"].ne("FAIL")].sort_values(["objective", "number"], kind="stable")
    return None if scored.empty else scored["trial"].iloc[0]


def _axis_label(axis: str) -> str:
    name = axis if axis in ("objective", "epochs") else axis.upper()
    return f"{name} ({'higher' if more_is_better(axis) else 'lower'} is better)"


def _height(values: pd.Series) -> pd.Series:
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    ranks = (values.astype(float) if is_number else values.astype(str)).rank(method="dense")
    return (ranks - 1) / max(1.0, ranks.max() - 1)


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure  # without pyplot: no display, no global state
    except ModuleNotFoundError as error:
        raise RecordsError(f"Figures are drawn with {error.name}, which is not installed. Install it: pip install 'lora-sweep[report]'") from error
    return Figure
