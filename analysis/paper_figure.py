"""The paper's figure: LPIPS and FID across experiments, this study beside the published values. Numbers first, then ink.

Drawing needs matplotlib (the `report` extra); nothing else here does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = {"lpips": "LPIPS", "fid": "FID"}
SIDES = {"published": "published", "here": "this study"}
_COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#8172b3", "#937860")
_ROOM = 0.12  # between two guidances of an experiment, where two experiments are 1 apart


def values_across_experiments(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per metric, side ("published", "here"), table, experiment and guidance that has a value.

    Columns: metric, side, place ("4.1": table 4, experiment 1; "0" for one in no table), guidance, value, low, high.
    rows: as analysis.paper.paper_rows; only LPIPS of this study has an interval."""
    tables = ["" if pd.isna(table) else f"{table}." for table in rows["table"]]
    places = [f"{table}{experiment}" for table, experiment in zip(tables, rows["experiment"], strict=True)]
    parts = []
    for metric in METRICS:
        for side, column in (("published", f"{metric}_published"), ("here", metric)):
            ends = {"low": rows["lpips_low"], "high": rows["lpips_high"]} if (metric, side) == ("lpips", "here") else {"low": None, "high": None}
            parts.append(pd.DataFrame({"metric": metric, "side": side, "place": places, "guidance": rows["guidance"], "value": rows[column], **ends}))
    return pd.concat(parts, ignore_index=True).dropna(subset=["value"]).astype({"low": float, "high": float}).reset_index(drop=True)


def draw_metric(values: pd.DataFrame, metric: str, ax: Axes) -> Axes:
    """One metric over the experiments: a colour per guidance, hollow marks for the published values, bars for intervals."""
    places = list(dict.fromkeys(values.sort_values("place")["place"]))
    guidances = sorted(values["guidance"].unique())
    chosen = values[values["metric"] == metric]
    for (side, guidance), group in chosen.groupby(["side", "guidance"]):
        index = guidances.index(guidance)
        x = [places.index(place) + (index - (len(guidances) - 1) / 2) * _ROOM for place in group["place"]]
        colour = _COLOURS[index % len(_COLOURS)]
        hollow = {"markerfacecolor": "white"} if side == "published" else {}
        known = group["low"].notna()
        errors = [(group["value"] - group["low"]).where(known, 0.0), (group["high"] - group["value"]).where(known, 0.0)]
        label = f"{SIDES[side]}, guidance {guidance:g}"
        ax.errorbar(x, group["value"], yerr=errors, fmt="o", markersize=5, color=colour, elinewidth=1, label=label, **hollow)
    ax.set_xticks(range(len(places)), places)
    ax.set_xlabel("table.experiment")
    ax.set_ylabel(f"{METRICS[metric]} (lower is better)")
    ax.grid(axis="y", alpha=0.3)
    return ax


def draw_paper_figure(rows: pd.DataFrame, *, title: str) -> Figure:
    """Both metrics, each with a panel per side: values over other networks and models have no common axis."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    values = values_across_experiments(rows)
    sides = [side for side in SIDES if (values["side"] == side).any()]
    figure = Figure(figsize=(6.5 * len(sides), 7.5), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(METRICS), len(sides), squeeze=False)
    for line, metric in zip(axes, METRICS, strict=True):
        for ax, side in zip(line, sides, strict=True):
            draw_metric(values[values["side"] == side], metric, ax)
            ax.set_title(SIDES[side])
    axes[0, -1].legend(fontsize=8)
    return figure
