"""Scale: one study file at two sizes. The file states the numbers in full; a scale shortens them for small models.

    scales={"embedded": Scale(epochs=1 / 25, learning_rate=20, fixed={"steps": 20})}

Under scale="auto" the scale called `embedded` holds where every model of the study is an embedded one; everywhere else, and under
scale="full", the numbers hold as they stand. Whatever `--set` gives is meant as it is: nothing rescales it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sweep.errors import StudyError
from sweep.parameters import expand, require_known
from sweep.space import is_define_by_run, nearest

if TYPE_CHECKING:
    from sweep.study import Row, Study

AUTO, FULL, EMBEDDED = "auto", "full", "embedded"
_FACTORS = ("epochs", "learning_rate")
_MULTIPLIED = {"epochs": ("epochs",), "learning_rate": ("learning_rate", "text_encoder_learning_rate")}
"""What each factor is applied to."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Factors on every length and learning rate that the study states, and values that take the place of those in `fixed`."""

    epochs: float = 1.0
    learning_rate: float = 1.0
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _FACTORS:
            factor = getattr(self, name)
            if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not math.isfinite(factor) or factor <= 0:
                raise StudyError(f"A scale multiplies `{name}` by a positive number, but it is {factor!r}. Use e.g. Scale({name}=0.1).")
            if name in self.fixed:
                raise StudyError(f"A scale multiplies `{name}`, but its `fixed` sets it to {self.fixed[name]!r}. Use Scale({name}=FACTOR).")
        require_known(self.fixed, "A scale's `fixed`")

    def text(self, *, without: Collection[str] = ()) -> str:
        """'epochs / 25, learning_rate x 20, steps=20', but for what `without` names: that was set otherwise."""
        factors = {name: getattr(self, name) for name in _FACTORS}
        words = {name: f"{name} x {f:g}" if f > 1 else f"{name} / {1 / f:g}" for name, f in factors.items() if f != 1}
        words |= {name: f"{name}={value}" for name, value in self.fixed.items()}
        return ", ".join(text for name, text in words.items() if name not in without)


def chosen_scale(study: Study) -> str:
    """The name of the scale that the study is to run at."""
    if study.scale != AUTO:
        return study.scale
    models = {study.values_of(c)[name] for name in ("train_model", "infer_model") for c in study.telling_configurations(name)}
    return EMBEDDED if EMBEDDED in study.scales and all(model.startswith("embedded:") for model in models) else FULL


def at_scale(study: Study, name: str, *, without: Collection[str] = ()) -> Study:
    """The study with that scale's numbers. `without`: what will be set to something else; it is only left out of the words.

    Raises:
        StudyError: a factor on what the study searches, or on a learning rate that it does not state."""
    if not study.scales:
        return study
    if name == FULL:
        return replace(study, scale=FULL, scale_text=f"{FULL}: the numbers as the study file states them")
    scale = study.scales[name]
    _require_stated(study, name, scale)
    epochs = study.epochs
    if epochs is not None:
        lengths = [_length(rung, scale) for rung in epochs.rungs]  # type: ignore[union-attr]
        epochs = replace(epochs, max=lengths[-1], rungs=tuple(dict.fromkeys(lengths)))  # type: ignore[type-var]
    return replace(
        study,
        scale=name,
        scale_text=f"{name}: {scale.text(without=without)}",
        epochs=epochs,
        fixed={**_scaled(study.fixed, scale), **expand(scale.fixed)},
        rows=tuple(_scaled_row(row, scale) for row in study.rows),  # type: ignore[arg-type]
        try_first=tuple(_scaled_row(row, scale) for row in study.try_first),  # type: ignore[arg-type]
        baseline=_scaled_row(study.baseline, scale) if study.baseline else None,  # type: ignore[arg-type]
    )


def check_scales(study: Study) -> None:
    """Raises: StudyError for something that is no scale, or a name that none has."""
    for name, scale in study.scales.items():
        if name in (AUTO, FULL) or not isinstance(scale, Scale):
            raise StudyError(
                f"`scales` maps names other than {AUTO} and {FULL} to scales, but it has {name!r}: {scale!r}. Use e.g. Scale(epochs=0.1)."
            )
    known = (AUTO, FULL, *study.scales)
    if study.scale not in known:
        raise StudyError(f"`scale` must be one of {', '.join(known)}, but it is {study.scale!r}.{nearest(str(study.scale), known)}")


def _require_stated(study: Study, name: str, scale: Scale) -> None:
    searched = () if is_define_by_run(study.space) else study.space
    for parameter in _FACTORS:
        for multiplied in _MULTIPLIED[parameter]:
            if getattr(scale, parameter) != 1 and multiplied in searched:
                raise StudyError(f"Scale {name!r} multiplies `{multiplied}`, but the study searches it. Take it out of the scale or of `space`.")
    places = [study.fixed, *(row.configuration for row in (*study.rows, *study.try_first))]  # type: ignore[union-attr]
    if scale.learning_rate != 1 and not any("learning_rate" in place for place in places):
        raise StudyError(f"Scale {name!r} multiplies the learning rate, but the study states none. Use e.g. fixed={{'learning_rate': 5e-5}}.")


def _scaled_row(row: Row, scale: Scale) -> Row:
    return replace(row, configuration=_scaled(row.configuration, scale))


def _scaled(values: Mapping[str, Any], scale: Scale) -> dict[str, Any]:
    scaled = dict(values)
    if "epochs" in scaled:
        scaled["epochs"] = _length(scaled["epochs"], scale)
    for rate in _MULTIPLIED["learning_rate"]:
        if scaled.get(rate) is not None:
            # 5e-5 x 20 is 1e-3, and not 1.0000000000000002e-3: another key, and another number in the tables.
            scaled[rate] = float(f"{scaled[rate] * scale.learning_rate:.12g}")
    return scaled


def _length(epochs: int, scale: Scale) -> int:
    return max(1, round(epochs * scale.epochs))
