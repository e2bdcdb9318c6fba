"""Cores, and what else one system has and another lacks: nothing asks for it unasked, so that macOS can run what Linux can."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainables.cores import n_cores

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("sweep", "trainables", "analysis", "search_spaces")

LACKING = {
    "os": ("sched_", "memfd_", "posix_fa", "pidfd_", "eventfd", "copy_file_range", "splice", "getrandom", "setxattr", "getxattr", "listxattr"),
    "signal": ("SIGRT", "SIGSTKFLT", "SIGPWR", "SIGPOLL", "sigtimedwait", "sigwaitinfo", "pidfd_"),
    "select": ("epoll", "EPOLL"),
    "resource": ("prlimit", "RLIMIT_OFILE", "RUSAGE_THREAD"),
    "time": ("CLOCK_BOOTTIME", "clock_settime"),
    "socket": ("AF_NETLINK", "AF_PACKET", "SOCK_CLOEXEC"),
}
"""Names that Linux has and macOS lacks, by how they begin."""
LOOKS = ("exists", "is_file", "is_dir", "isdir", "suppress")
FOLDERS = ("/proc", "/sys/", "/dev/shm", "/etc/machine-id")


def unguarded(source: str) -> list[int]:
    """The lines that ask for what only Linux has, without a `try`, `hasattr` or look at whether a file exists around them in the function."""
    tree = ast.parse(source)
    tries = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and any(isinstance(n, ast.Try) for n in ast.walk(node))}
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    return sorted(node.lineno for node in _of_linux_only(tree) if not _is_guarded(node, parents, tries))


def _of_linux_only(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr.startswith(LACKING.get(node.value.id, ("\0",))):
            yield node
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(FOLDERS):
            yield node


def _is_guarded(node: ast.AST, parents: dict[ast.AST, ast.AST], tries: set[str]) -> bool:
    questions = (*LOOKS, *tries) if isinstance(node, ast.Constant) else ("hasattr",)
    handed_on = isinstance(node, ast.Constant)  # a path, to a function of the file that tries to read it
    while node in parents:
        node = parents[node]
        if handed_on and _called(node) in tries:
            return True
        if isinstance(node, ast.Try) or isinstance(node, ast.FunctionDef) and any(_called(inner) in questions for inner in ast.walk(node)):
            return True
    return False


def _called(node: ast.AST) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""


def test_cores_are_those_of_this_process_or_of_the_machine_where_a_system_cannot_say(monkeypatch):
    if hasattr(os, "sched_getaffinity"):
        assert n_cores() == len(os.sched_getaffinity(0))
        monkeypatch.delattr(os, "sched_getaffinity")
    assert n_cores() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert n_cores() == 1


def test_the_modules_of_a_launch_are_imported_where_a_system_cannot_say_its_cores():
    program = (
        "import os\nfor name in [n for n in dir(os) if n.startswith('sched_')]: delattr(os, name)\n"
        "import sweep.tuning, sweep.ray_session, sweep.one_trial, sweep.runner, sweep.cli\n"
        "raise SystemExit(sweep.cli.main(['plan', 'search_spaces/captions.py']))"
    )
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("file", [str(f.relative_to(ROOT)) for room in ROOMS for f in sorted((ROOT / room).rglob("*.py"))])
def test_nothing_asks_for_what_only_linux_has_without_a_look(file):
    found = unguarded((ROOT / file).read_text(encoding="utf-8"))
    assert not found, f"{file}, lines {found}: not on macOS. For cores there is trainables/cores.py; otherwise look first."


@pytest.mark.parametrize(
    "source, lines",
    [
        ("import os\nN = len(os.sched_getaffinity(0))", [2]),
        ("def f():\n    return open('/proc/meminfo').read()", [2]),
        ("def f():\n    try:\n        return open('/proc/meminfo').read()\n    except OSError:\n        return ''", []),
        ("def g(p):\n    try:\n        return open(p)\n    except OSError:\n        pass\ndef f(n):\n    return g(f'/proc/{n}')", []),
        ("def g(p):\n    return open(p)\ndef f(n):\n    return g(f'/proc/{n}')", [4]),
        ("def f(p='/proc/meminfo'):\n    return p.exists()", []),
        ("import signal\nsignal.sigtimedwait([1], 0)", [2]),
        ("import os\ndef f():\n    if os.path.isdir('/tmp'):\n        return os.sched_getaffinity(0)", [4]),
        ("import os\ndef f():\n    return os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else []", []),
        ("def f(p='/proc/vmstat'):\n    with suppress(OSError):\n        return open(p)", []),
        ("import os\nos.nice(3)\nos.cpu_count()", []),
    ],
)
def test_the_checker_sees_it_however_it_is_asked_for(source, lines):
    assert unguarded(source) == lines
