"""The script that measures a card runs through on a CPU, and says nothing that it did not measure."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def gpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_every_step_measures_something_and_none_fails(tmp_path):
    log = tmp_path / "gpu.jsonl"
    done = gpu("--small", "--log", str(log))
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in log.read_text().splitlines()]
    assert not [line["text"] for line in said if "failed:" in line["text"]]
    measured = {line["step"] for line in said if set(line) - {"step", "text", "seconds"}}
    steps = {"ceilings", "model", "numerics", "training", "generation", "metrics", "memory"}
    assert steps <= measured
    assert all(line["text"] in done.stdout for line in said)


def test_a_step_that_fails_is_a_line_and_the_others_go_on(tmp_path, monkeypatch):
    from benchmarks.gpu.__main__ import measure
    from benchmarks.gpu.run import Run

    def broken(run):
        raise RuntimeError("no such kernel\nand more")

    run = Run("cpu", True, deadline=float("inf"), log=None, folder=tmp_path)
    monkeypatch.setattr("benchmarks.gpu.__main__.step_of", lambda name: broken)
    measure(run, "training")
    (failure, took) = run.lines
    assert "failed: RuntimeError: no such kernel (test_gpu_benchmark.py:" in failure
    assert "took" in took


def test_when_the_time_is_used_up_nothing_more_is_measured(tmp_path):
    from benchmarks.gpu.__main__ import measure
    from benchmarks.gpu.run import Run

    run = Run("cpu", True, deadline=float("-inf"), log=None, folder=tmp_path)
    measure(run, "training")
    assert run.lines == ["training   left out: the time is used up"]
