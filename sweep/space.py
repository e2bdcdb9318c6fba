"""Search spaces: what a domain of Ray Tune, or a define-by-run function of Optuna, can give. Reads them; adds no language.

Ray itself is not imported: a study file that uses a domain has done that already, and the rest of us need not wait for it."""

from __future__ import annotations

import difflib
import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.errors import StudyError, SweepError
from sweep.values import carried, is_carried, plain, short

Space = Mapping[str, Any] | Callable[[Any], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Range:
    """A numeric domain, both ends included. With a quantum it holds that number's multiples alone,
    and its ends are the outermost ones."""

    low: float
    high: float
    is_log: bool
    is_whole: bool
    quantum: float | None = None

    def on_grid(self, value: float) -> float:
        """The nearest value that the range holds."""
        value = min(max(value, self.low), self.high)
        if self.quantum is not None:
            value = _multiple(round(value / self.quantum), self.quantum)
        return int(value) if self.is_whole else float(value)

    def holds(self, value: Any) -> bool:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return (
            is_number
            and self.low <= value <= self.high
            and (self.quantum is None or _is_multiple(value, self.quantum))
        )


def require_domain(name: str, domain: Any) -> None:
    """Raises: StudyError where `domain` is none that can be sampled, recorded and rebuilt."""
    if is_grid(domain) and not isinstance(domain_values(domain), (list, tuple, range, np.ndarray)):
        raise StudyError(f"tune.grid_search takes a list, but that of `{name}` is {domain_values(domain)!r}. Use e.g. tune.grid_search([8, 16]).")
    if choices_of(domain) is not None:
        if not choices_of(domain):
            raise StudyError(f"`space` needs something to choose from, but `{name}` has no choices. Use e.g. tune.choice([8, 16]).")
        return
    if _is_range(domain):
        _require_range(name, domain)
        return
    if _is_domain(domain):
        raise StudyError(
            f"`space` takes choice, grid_search and (log-, quantised) uniform domains, but `{name}` is a {type(domain).__name__} "
            f"of another kind. Use e.g. tune.loguniform, or a define-by-run function for what depends on other values."
        )
    example = f"tune.choice({list(domain)!r})" if isinstance(domain, (list, tuple)) else f"fixed={{{name!r}: {domain!r}}}"
    raise StudyError(f"`space` maps names to search domains, but `{name}` is {domain!r}. Use {example}.")


def choices_of(domain: Any) -> tuple[Any, ...] | None:
    """Every value of a discrete domain, in order, in JSON's types; None for a range."""
    values = domain_values(domain)
    return (
        None if values is None else tuple(carried(value, "a choice of `space`") for value in values)
    )


def domain_values(domain: Any) -> Any:
    """What a discrete domain was given, as it was given; None for a range."""
    if isinstance(domain, dict) and set(domain) == {"grid_search"}:
        return domain["grid_search"]
    return domain.categories if _is_domain(domain) and hasattr(domain, "categories") else None


def range_of(domain: Any) -> Range:
    """The range that a domain of numbers stands for."""
    low, high, quantum = plain(domain.lower), plain(domain.upper), _quantum_of(domain)
    is_whole = type(domain).__name__ == "Integer"
    if is_whole and quantum is None:
        high -= 1  # Ray's integer domains leave their upper end out, except the quantised ones
    if quantum is not None:
        low, high = (
            _multiple(_inwards(low / quantum, math.ceil), quantum),
            _multiple(_inwards(high / quantum, math.floor), quantum),
        )
    number = (lambda value: value) if is_whole else float
    return Range(low=number(low), high=number(high), is_log=_kind(domain) == "loguniform", is_whole=is_whole, quantum=quantum)


def is_grid(domain: Any) -> bool:
    """Whether the domain is to be enumerated: tune.grid_search(...), or tune.choice(...).grid()."""
    is_search = isinstance(domain, dict) and set(domain) == {"grid_search"}
    return is_search or (_is_domain(domain) and hasattr(domain, "categories") and type(domain.sampler).__name__ == "Grid")


def is_define_by_run(space: Space) -> bool:
    return callable(space)


def probes_of(domain: Any) -> tuple[Any, ...]:
    """The values whose validity decides that of the domain: all choices, or the two ends of a range."""
    choices = choices_of(domain)
    return choices if choices is not None else (range_of(domain).low, range_of(domain).high)


def contains(domain: Any, value: Any) -> bool:
    """Whether `value` can be drawn from `domain`."""
    choices = choices_of(domain)
    if choices is not None:
        return any(type(value) is type(choice) and value == choice or _equal_numbers(value, choice) for choice in choices)
    return range_of(domain).holds(value)


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


def drawn_from(space: Callable[[Any], Mapping[str, Any]], trial: Any) -> dict[str, Any]:
    """What a define-by-run function makes of an Optuna trial, in JSON's types.

    Raises:
        StudyError: it raises, returns something else than a dict, or lets Optuna choose among what
        its storage cannot hold."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Choices for a categorical distribution"
            )  # lists are fine in our storage
            drawn = space(trial)
    except SweepError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise StudyError(
            f"A define-by-run space must give parameters for every draw, but {_name_of(space)} "
            f"raises {said}."
        ) from error
    if not isinstance(drawn, Mapping):
        raise StudyError(
            f"A define-by-run space must return a dict of parameters, but it returned "
            f"{short(drawn)}."
        )
    for name, distribution in trial.distributions.items():
        for choice in getattr(distribution, "choices", ()):
            if not is_carried(choice):
                raise StudyError(
                    f"Optuna chooses among text, numbers, True, False, None and lists of these, "
                    f"but `{name}` of {_name_of(space)} has "
                    f"{type(choice).__name__} {short(choice)} among its choices. Let it choose "
                    f"among names, and look the value up: "
                    f"VALUES[trial.suggest_categorical({name!r}, list(VALUES))]."
                )
    return {name: carried(value, f"`space`, `{name}`,") for name, value in drawn.items()}


def describe_space(space: Space) -> dict[str, Any]:
    """The space as JSON: a domain by its kind and numbers, a define-by-run function by its source."""
    if is_define_by_run(space):
        return {"define_by_run": _source_of(space)}
    return {name: describe_domain(domain) for name, domain in space.items()}


def describe_domain(domain: Any) -> dict[str, Any]:
    choices = choices_of(domain)
    if choices is not None:
        return {"grid" if is_grid(domain) else "choice": list(choices)}
    own = range_of(domain)
    words: dict[str, Any] = {
        _kind(domain): [own.low, own.high],
        "type": type(domain).__name__.lower(),
    }
    return words if own.quantum is None else {**words, "quantum": own.quantum}


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean `rank`?' where something known is close enough, else ''."""
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.55)
    return f" Did you mean `{matches[0]}`?" if matches else ""


def _is_domain(domain: Any) -> bool:
    return hasattr(domain, "sample") and hasattr(type(domain), "domain_str")  # of the class: it would print what was given


def _kind(domain: Any) -> str | None:
    """'uniform' or 'loguniform' for a numeric range of Ray Tune, else None."""
    if not (_is_domain(domain) and hasattr(domain, "lower") and hasattr(domain, "upper")):
        return None
    sampler = domain.get_sampler()
    inner = getattr(sampler, "sampler", sampler)  # Quantized wraps another one
    return {"_Uniform": "uniform", "_LogUniform": "loguniform"}.get(type(inner).__name__)


def _is_range(domain: Any) -> bool:
    return _kind(domain) in ("uniform", "loguniform")


def _quantum_of(domain: Any) -> Any:
    return plain(getattr(domain.sampler, "q", None))


def _require_range(name: str, domain: Any) -> None:
    quantum, kind = (
        _quantum_of(domain),
        "whole number" if type(domain).__name__ == "Integer" else "number",
    )
    numbers = {"lower end": domain.lower, "upper end": domain.upper} | (
        {} if quantum is None else {"quantum": quantum}
    )
    for word, number in numbers.items():
        fits = isinstance(
            plain(number), int if kind == "whole number" else (int, float)
        ) and not isinstance(plain(number), bool)
        if not fits or not math.isfinite(number) or (word == "quantum" and number <= 0):
            rule = f"a positive {kind}" if word == "quantum" else f"a {kind}"
            raise StudyError(
                f"The {word} of a range must be {rule}, but that of `{name}` is {number!r}. Use "
                f"e.g. tune.randint(4, 65)."
            )
    own = range_of(domain)
    if own.low > own.high:
        multiples = f" multiple of {quantum} and no" * (quantum is not None)
        raise StudyError(
            f"A range must hold a value, but that of `{name}` from {domain.lower} to "
            f"{domain.upper} holds no{multiples} number. "
            "tune.randint and tune.lograndint leave their upper end out. Use e.g. tune.randint(4, "
            "65)."
        )


def _multiple(n: int, quantum: float) -> float:
    # 3 * 0.1 is 0.3, and not 0.30000000000000004: another key, and another number in the tables.
    return n * quantum if isinstance(quantum, int) else float(f"{n * quantum:.12g}")


def _is_multiple(value: float, quantum: float) -> bool:
    return math.isclose(
        value, _multiple(round(value / quantum), quantum), rel_tol=1e-9, abs_tol=1e-9 * quantum
    )


def _inwards(index: float, rounded: Callable[[float], int]) -> int:
    """The index of the outermost multiple within an end of the range, which may be one but for
    rounding."""
    return round(index) if math.isclose(index, round(index), rel_tol=1e-9, abs_tol=1e-9) else rounded(index)


def _equal_numbers(value: Any, choice: Any) -> bool:
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (value, choice))
    return numbers and math.isclose(value, choice, rel_tol=1e-12)


def _draw(domain: Any, rng: np.random.Generator) -> Any:
    choices = choices_of(domain)
    if choices is not None:
        return choices[rng.integers(len(choices))]
    return range_of(domain).on_grid(plain(domain.sample(random_state=rng)))


def _define_by_run_draws(space: Callable[[Any], Mapping[str, Any]], n: int, *, seed: int) -> list[dict[str, Any]]:
    import optuna  # 1 s, and only these spaces need it

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(study_name="draws", sampler=optuna.samplers.RandomSampler(seed=seed))
        return [drawn_from(space, study.ask()) for _ in range(n)]
    finally:
        optuna.logging.set_verbosity(verbosity)


def _source_of(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return _name_of(function)


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
