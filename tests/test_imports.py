"""The rooms of the house: who may import whom, and what the command line must not load before it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("sweep", "trainables", "analysis")
HEAVY = ("torch", "torchvision", "ray", "diffusers", "transformers", "peft", "accelerate", "lpips", "torch_fidelity")

FORBIDDEN = {
    "trainables": ("ray", "optuna", "sweep", "analysis"),
    "analysis": ("torch", "torchvision", "ray", "diffusers", "transformers", "peft", "accelerate", "lpips", "torch_fidelity", "trainables"),
    "sweep": ("analysis",),
}


@dataclass(frozen=True)
class Import:
    file: str
    line: int
    module: str  # dotted, absolute
    inside_function: bool

    def is_of(self, package: str) -> bool:
        return self.module == package or self.module.startswith(package + ".")


def imports_of(room: str) -> list[Import]:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, f"{room}/ holds no Python"
    return [found for file in files for found in imports_in(file.read_text(encoding="utf-8"), file.relative_to(ROOT))]


def imports_in(source: str, path: Path) -> Iterator[Import]:
    """Every import statement, and importlib.import_module or __import__ of a constant."""

    def visit(node: ast.AST, inside: bool) -> Iterator[Import]:
        for module in modules_named_by(node, path):
            yield Import(str(path), node.lineno, module, inside)
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    return visit(ast.parse(source), False)


def modules_named_by(node: ast.AST, path: Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = path.parent.parts[: len(path.parent.parts) - node.level + 1] if node.level else ()
        # `from sweep import records` names sweep.records; of `from sweep.records import Records` the longer name does no harm.
        return [".".join([*base, *([node.module] if node.module else []), alias.name]) for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        return [node.args[0].value] if name in ("import_module", "__import__") else []
    return []


def say(found: list[Import]) -> str:
    return "\n".join(f"{i.file}:{i.line} imports {i.module}" for i in found)


@pytest.mark.parametrize("room, package", [(room, package) for room, packages in FORBIDDEN.items() for package in packages])
def test_a_room_never_imports_what_is_not_its_business(room: str, package: str) -> None:
    found = [i for i in imports_of(room) if i.is_of(package)]
    assert not found, say(found)


def test_of_sweep_analysis_imports_only_the_records() -> None:
    found = [i for i in imports_of("analysis") if i.is_of("sweep") and not i.is_of("sweep.records")]
    assert not found, say(found)


def test_analysis_imports_optuna_only_inside_a_function() -> None:
    found = [i for i in imports_of("analysis") if i.is_of("optuna") and not i.inside_function]
    assert not found, say(found)


def test_only_sweep_imports_ray() -> None:
    elsewhere = [file for file in ROOT.rglob("*.py") if file.relative_to(ROOT).parts[0] in ("trainables", "analysis")]
    found = [i for file in elsewhere for i in imports_in(file.read_text(encoding="utf-8"), file.relative_to(ROOT)) if i.is_of("ray")]
    assert not found, say(found)


@pytest.mark.parametrize(
    "module, without",
    [
        ("sweep", (*HEAVY, "optuna", "pandas")),
        ("sweep.study", HEAVY),
        ("sweep.cli", HEAVY),
        ("sweep.records", HEAVY),
        ("sweep.trial", tuple(name for name in HEAVY if name != "ray")),
        ("analysis", (*HEAVY, "optuna")),
        ("trainables.config", (*HEAVY, "numpy", "optuna")),
        ("trainables.subject", HEAVY),
        ("trainables.models", HEAVY),
        ("trainables.prepare", (*HEAVY, "pandas")),
        ("trainables.checkup", HEAVY),
    ],
)
def test_importing_a_module_loads_nothing_heavy(module: str, without: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print(*sorted({set(without)!r} & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    assert not finished.stdout.strip(), f"import {module} loads {finished.stdout.strip()}"


# The checker itself: a checker that sees nothing passes every house.


@pytest.mark.parametrize(
    "source, module",
    [
        ("import ray", "ray"),
        ("import ray.tune as t", "ray.tune"),
        ("from ray import tune", "ray.tune"),
        ("if True:\n    from ray.tune import Tuner", "ray.tune.Tuner"),
        ("from .. import sweep", "sweep"),
        ("from . import lora", "trainables.lora"),
        ("from .lora import SlotLoRA", "trainables.lora.SlotLoRA"),
        ("importlib.import_module('ray.tune')", "ray.tune"),
    ],
)
def test_the_checker_sees_an_import_however_it_is_written(source: str, module: str) -> None:
    assert [i.module for i in imports_in(source, Path("trainables/pack.py"))] == [module]


def test_the_checker_tells_a_function_from_the_top_of_a_file() -> None:
    source = "import a\ndef f():\n    import b\nclass C:\n    import c\n    async def g(self):\n        import d\n"
    assert {i.module: i.inside_function for i in imports_in(source, Path("x.py"))} == {"a": False, "b": True, "c": False, "d": True}
