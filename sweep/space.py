"""Search spaces: what a domain of Ray Tune, or a define-by-run function of Optuna, can give. Reads them; adds no language.

Ray itself is not imported: a study file that uses a domain has done that already, and the rest of us need not wait for it."""

from __future__ import annotations

import difflib
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from sweep.errors import StudyError

Space = Mapping[str, Any] | Callable[[Any], Mapping[str, Any]]


def require_domain(name: str, domain: Any) -> None:
    """Raises: StudyError where `domain` is none that can be sampled, recorded and rebuilt."""
    if choices_of(domain) is not None:
        if not choices_of(domain):
            raise StudyError(f"`space` needs something to choose from, but `{name}` has no choices. Use e.g. tune.choice([8, 16]).")
        return
    if _kind(domain) in ("uniform", "loguniform"):
        return
    if _is_domain(domain):
        raise StudyError(
            f"`space` takes choice, grid_search and (log-, quantised) uniform domains, but `{name}` is a {type(domain).__name__} "
            f"of another kind. Use e.g. tune.loguniform, or a define-by-run function for what depends on other values."
        )
    example = f"tune.choice({list(domain)!r})" if isinstance(domain, (list, tuple)) else f"fixed={{{name!r}: {domain!r}}}"
    raise StudyError(f"`space` maps names to search domains, but `{name}` is {domain!r}. Use {example}.")


def choices_of(domain: Any) -> tuple[Any, ...] | None:
    """Every value of a discrete domain, in order; None for a range."""
    if is_grid(domain):
        return tuple(domain["grid_search"])
    if _is_domain(domain) and hasattr(domain, "categories"):
        return tuple(domain.categories)
    return None


def is_grid(domain: Any) -> bool:
    return isinstance(domain, dict) and set(domain) == {"grid_search"}


def is_define_by_run(space: Space) -> bool:
    return callable(space)


def probes_of(domain: Any) -> tuple[Any, ...]:
    """The values whose validity decides that of the domain: all choices, or the two ends of a range."""
    choices = choices_of(domain)
    return choices if choices is not None else _ends(domain)


def contains(domain: Any, value: Any) -> bool:
    """Whether `value` can be drawn from `domain` (quantisation aside)."""
    choices = choices_of(domain)
    if choices is not None:
        return any(type(value) is type(choice) and value == choice or _equal_numbers(value, choice) for choice in choices)
    low, high = _ends(domain)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def grid_of(space: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every configuration of a discrete space; the last name varies fastest.

    Raises:
        StudyError: a domain is a range."""
    for name, domain in space.items():
        if choices_of(domain) is None:
            raise StudyError(f"sampler='grid' enumerates, but `{name}` is a range. Use tune.choice, or another sampler.")
    for values in itertools.product(*(choices_of(domain) or () for domain in space.values())):
        yield dict(zip(space, values, strict=True))


def random_configurations(space: Space, n: int, *, seed: int) -> list[dict[str, Any]]:
    """`n` seeded random draws, for planning and checking; what the sampler of a study draws is its own business."""
    if is_define_by_run(space):
        return _define_by_run_draws(space, n, seed=seed)
    rng = np.random.default_rng(seed)
    return [{name: _draw(domain, rng) for name, domain in space.items()} for _ in range(n)]


def describe_space(space: Space) -> dict[str, Any]:
    """The space as JSON: a domain by its kind and numbers, a define-by-run function by its source."""
    if is_define_by_run(space):
        return {"define_by_run": _source_of(space)}
    return {name: describe_domain(domain) for name, domain in space.items()}


def describe_domain(domain: Any) -> dict[str, Any]:
    choices = choices_of(domain)
    if choices is not None:
        return {"grid" if is_grid(domain) else "choice": list(choices)}
    words: dict[str, Any] = {_kind(domain): list(_ends(domain)), "type": type(domain).__name__.lower()}
    quantum = getattr(domain.sampler, "q", None)
    return words if quantum is None else {**words, "quantum": quantum}


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean `rank`?' where something known is close enough, else ''."""
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.55)
    return f" Did you mean `{matches[0]}`?" if matches else ""


def plain(value: Any) -> Any:
    """A numpy scalar as the Python number that it stands for; everything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _is_domain(domain: Any) -> bool:
    return hasattr(domain, "sample") and hasattr(domain, "domain_str")


def _kind(domain: Any) -> str | None:
    """'uniform' or 'loguniform' for a numeric range of Ray Tune, else None."""
    if not (_is_domain(domain) and hasattr(domain, "lower") and hasattr(domain, "upper")):
        return None
    sampler = domain.get_sampler()
    inner = getattr(sampler, "sampler", sampler)  # Quantized wraps another one
    return {"_Uniform": "uniform", "_LogUniform": "loguniform"}.get(type(inner).__name__)


def _ends(domain: Any) -> tuple[Any, Any]:
    if type(domain).__name__ != "Integer":
        return float(domain.lower), float(domain.upper)
    # Ray's integer domains leave their upper end out, except the quantised ones.
    return domain.lower, domain.upper - (getattr(domain.sampler, "q", None) is None)


def _equal_numbers(value: Any, choice: Any) -> bool:
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (value, choice))
    return numbers and math.isclose(value, choice, rel_tol=1e-12)


def _draw(domain: Any, rng: np.random.Generator) -> Any:
    choices = choices_of(domain)
    return choices[rng.integers(len(choices))] if choices is not None else plain(domain.sample(random_state=rng))


def _define_by_run_draws(space: Callable[[Any], Mapping[str, Any]], n: int, *, seed: int) -> list[dict[str, Any]]:
    import optuna  # 1 s, and only these spaces need it

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(study_name="draws", sampler=optuna.samplers.RandomSampler(seed=seed))
        return [_checked_draw(space(study.ask())) for _ in range(n)]
    finally:
        optuna.logging.set_verbosity(verbosity)


def _checked_draw(drawn: Any) -> dict[str, Any]:
    if not isinstance(drawn, Mapping):
        raise StudyError(f"A define-by-run space must return a dict of parameters, but it returned {drawn!r}.")
    return dict(drawn)


def _source_of(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return getattr(function, "__qualname__", repr(function))
