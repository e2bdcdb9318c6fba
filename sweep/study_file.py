"""The file that a study is written in: executing it, finding what it defines, and the `--set name=value` texts that change it.

Knows nothing of what a study means; sweep/study.py does."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
import traceback
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sweep.errors import StudyError, SweepError
from sweep.space import nearest
from trainables.metadata import decoded

_numbers = itertools.count()


def read_source(path: Path) -> str:
    """The text of a study file. Raises: StudyError where there is none, or none that can be read."""
    if not path.exists():
        files = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise StudyError(f"A study is a Python file, but there is no {path}.{nearest(str(path), files)}")
    if not path.is_file():
        raise StudyError(f"A study is a Python file, but {path} is a folder. Name the file in it, e.g. {path / 'captions.py'}.")
    try:
        return decoded(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(
            f"A study file must be readable as UTF-8 text, but {path} is not: {error}. Save it as "
            "UTF-8."
        ) from error


def execute(source: str, path: Path) -> dict[str, Any]:
    """The names that the file defines. Leaves no module and no bytecode behind.

    Raises:
        StudyError: the file has a syntax error or raises; with its line."""
    module = types.ModuleType(f"sweep_study_{next(_numbers)}")
    module.__file__ = str(path)
    # Dataclasses look their module up while they are made; afterwards its absence makes cloudpickle carry functions by value.
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except SweepError as error:
        raise StudyError(f"{path}, line {_line_in(path, error)}: {error}") from error
    except SyntaxError as error:
        raise StudyError(f"A study file must be valid Python, but {error.filename or path}, line {error.lineno}: {error.msg}.") from error
    except (Exception, SystemExit) as error:
        where, hint = f"{path}, line {_line_in(path, error)}", _nearest_argument(error, module.__dict__)
        raise StudyError(f"A study file must run without an error, but {where}, raises {type(error).__name__}: {error}{hint}") from error
    finally:
        del sys.modules[module.__name__]
    return module.__dict__


def only_instance(namespace: dict[str, Any], kind: type, path: Path) -> Any:
    """The one object of `kind` among the names. Raises: StudyError where there are none or several."""
    public = {name: value for name, value in namespace.items() if not name.startswith("__")}
    found = {id(value): (name, value) for name, value in public.items() if isinstance(value, kind)}
    if len(found) == 1:
        return next(iter(found.values()))[1]
    if found:
        names = ", ".join(name for name, _ in found.values())
        raise StudyError(f"A study file defines one {kind.__name__}, but {path} defines {len(found)}: {names}. Keep one to a file.")
    other = f" `study` is a {type(public['study']).__name__}." if "study" in public else ""
    raise StudyError(f"A study file defines one {kind.__name__}, but {path} defines none.{other} Write `study = Study(space=...)`.")


def parse_assignments(texts: Iterable[str]) -> dict[str, str]:
    """{"rank": "16"} from ["rank=16"]; the last one wins. Raises: StudyError for a text without a name or `=`."""
    assignments = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise StudyError(f"--set takes name=value, but it is {text!r}. Use e.g. --set rank=16.")
        assignments[name.strip()] = value.strip()
    return assignments


def literal(text: str) -> Any:
    """A Python literal where the text is one (16, 1e-3, [1, 2], None), else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _nearest_argument(error: BaseException, namespace: dict[str, Any]) -> str:
    """" Did you mean `space`?" where a class of the file was called with a misspelt keyword."""
    match = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'$", str(error))
    called = namespace.get(match[1]) if match else None
    return f".{nearest(match[2], inspect.signature(called).parameters)}" if match and callable(called) else ""


def _line_in(path: Path, error: BaseException) -> int:
    """The last line of the study file itself on the way to the error: what its author can change."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] or 0 if lines else 0
