"""Comparing a study with the one that its records were made by: what is the same, what extends it, what cannot be mixed.

Works on the JSON of Study.describe(), so that a study whose file is long gone can still be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sweep.errors import IncomparableStudyError

SAME, EXTENDS, INCOMPARABLE = "same", "extends", "incomparable"
EXTENDING_FIELDS = (
    "space",
    "try_first",
    "fan_out",
    "metrics",
    "loggers",
    "pareto",
    "sampler",
    "samples",
    "early_stopping",
    "max_concurrent",
    "study_seed",
    "budget_hours",
    "budget_gpu_hours",
)
"""A change of these leaves every earlier trial as true as it was. Any other change is incomparable: a baseline, too, which trials carry
as a label and are paired with."""

IGNORED_FIELDS = ("name", "scale", "aliases", "directory")
"""The values that a scale changes are compared themselves, and so is the content of the models that aliases stand for, and of what lies in
the folder of the launch."""

SEARCHED = "(searched)"
MOST_CHANGES = 4
"""Changed fields that a refusal names."""

CONTENT, UNNAMED = "content of ", "(not named)"

Verdict = tuple[str, str, Any, Any]


def compare_studies(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Verdict]:
    """(field, "same" | "extends" | "incomparable", old, new) for every field, in the order of `new`.

    Fixed parameters are fields of their own, as `fixed.rank`."""
    aliases = {**old.get("aliases", {}), **new.get("aliases", {})}
    old_fields, new_fields = ({**_flat(study), **_redirected(study, aliases)} for study in (old, new))
    names = list(dict.fromkeys([*new_fields, *old_fields]))
    return [_verdict(name, old_fields, new_fields) for name in names]


def require_comparable(old: Mapping[str, Any], new: Mapping[str, Any], *, another_name: str = "NAME") -> list[Verdict]:
    """The fields that extend the old study. `another_name`: one that the new study could have instead.

    Raises:
        IncomparableStudyError: fields changed that make the old and the new numbers different things; it names all of them."""
    verdicts = compare_studies(old, new)
    name = new.get("name") or old.get("name")
    changed = [f"`{v[0]}` was {_short(v[2])} in {name} and is now {_short(v[3])}" for v in verdicts if v[1] == INCOMPARABLE]
    if changed:
        raise IncomparableStudyError(
            f"A study's records hold one subject, models, protocol and objective, but {', '.join(changed[:MOST_CHANGES])}"
            f"{' and more' * (len(changed) > MOST_CHANGES)}. Start a new version of the study with --name {another_name}."
        )
    return [verdict for verdict in verdicts if verdict[1] == EXTENDS]


def _flat(study: Mapping[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(study))
    fixed, content = plain.pop("fixed", {}), plain.pop("content", {})
    fields = {name: value for name, value in plain.items() if name not in IGNORED_FIELDS}
    return {**fields, **{f"fixed.{k}": v for k, v in fixed.items()}, **{f"{CONTENT}{k}": v for k, v in content.items()}}


def _redirected(study: Mapping[str, Any], aliases: Iterable[str]) -> dict[str, str]:
    """The content of the model that each of these names stands for in the study; a name that it does not use is left out."""
    targets = {name: f"model {study.get('aliases', {}).get(name, name)}" for name in aliases}
    content = study.get("content", {})
    found = {name: [digest for key, digest in content.items() if key.split(" with vae ")[0] == target] for name, target in targets.items()}
    return {f"{CONTENT}the model called {name}": digests[0] for name, digests in found.items() if digests}


def _verdict(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Verdict:
    missing = UNNAMED if name.startswith(CONTENT) else SEARCHED
    before, after = old.get(name, missing), new.get(name, missing)
    if before == after:
        return name, SAME, before, after
    return name, EXTENDS if _extends(name, before, after) else INCOMPARABLE, before, after


def _extends(name: str, before: Any, after: Any) -> bool:
    if name == "rows":  # trials are numbered by row, so the old ones must come first
        return isinstance(before, list) and isinstance(after, list) and bool(before) and after[: len(before)] == before
    if name.startswith(CONTENT):  # a further model, or one that is no longer asked for
        return UNNAMED in (before, after)
    if name.startswith("fixed."):
        # Narrowed to one value: the old trials carry their own. The other way round their value is nowhere in their rows.
        return before == SEARCHED
    return name in EXTENDING_FIELDS


def _short(value: Any) -> str:
    text = value if value == SEARCHED else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
