"""A study through a real job server on loopback, which asks for a token. Half a minute and more; needs ray[default]."""

import os
import re
import signal
import time

import psutil
import pytest

from sweep.cli import main
from sweep.records import TRIALS, Records, as_rows
from sweep.searcher import COMPLETE, RUNNING
from tests.sweep.job_cluster import TOKEN, job_cluster

for module in ("aiohttp", "aiohttp_cors", "grpc"):
    pytest.importorskip(module, reason="Ray's job server is in ray[default]: pip install -e '.[cluster]'")

pytestmark = pytest.mark.ray

STUDY = """
from sweep import Epochs, Study

study = Study(
    subject={subject!r},
    model={model!r},
    rows=[{{"caption": "v1", "rank": 2}}],
    fixed={{"steps": 1, "images_per_prompt": 2, "prompts": ("{{trigger}}",)}},
    epochs=Epochs(max={epochs}),
    perceptual="embedded:perceptual",
    pooled="embedded:pooled",
)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with job_cluster(tmp_path_factory.mktemp("home")) as one:
        yield one


@pytest.fixture
def submit(cluster, tmp_path, model, subject):
    def start(name: str, *, epochs: int = 1, subject: str = subject):
        path = tmp_path / f"{name}.py"
        path.write_text(STUDY.format(model=model, subject=subject, epochs=epochs))
        return cluster.sweep("submit", path, f"--address={cluster.address}", f"--storage={tmp_path / 'sweeps'}", "--device=cpu", "--pack-size=1")

    return start


@pytest.fixture
def ask(cluster, monkeypatch, capsys):
    """The exit code of a command in this process, and what it wrote."""

    def run(*arguments: object) -> tuple[int, str]:
        code = main([*map(str, arguments), f"--address={cluster.address}"])
        return code, "".join(capsys.readouterr())

    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return run


def said(process) -> str:
    return process.communicate(timeout=240)[0]


def test_a_submitted_study_is_followed_to_its_end_and_its_records_lie_in_the_storage(submit, tmp_path):
    process = submit("whole")
    text = said(process)
    assert process.returncode == 0, text
    assert "whole: 1 done" in text and re.search(r"whole-\w{8} has ended\.", text)
    (row,) = as_rows(Records(tmp_path / "sweeps" / "whole").latest_trials(), TRIALS)
    assert row["state"] == COMPLETE
    written = [path.read_bytes() for path in (tmp_path / "sweeps").rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in content for content in written) and TOKEN not in text


def test_the_exit_code_is_the_launchs_and_its_error_is_in_the_log(submit, tmp_path):
    process = submit("wrong", subject="/no/such/subject")
    text = said(process)
    assert process.returncode == 2, text
    assert re.search(r"error: .*/no/such/subject", text) and "exit code 2" in text


def test_ctrl_c_only_detaches_and_a_stop_ends_it_with_its_trials(submit, ask, tmp_path):
    process = submit("long", epochs=100_000)
    for line in process.stdout:
        if "loading torch" in line:
            break
    command_lines = [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]
    assert any("--name=long" in line for line in command_lines) and not any(TOKEN in line for line in command_lines)
    os.kill(process.pid, signal.SIGINT)
    assert "goes on. `sweep attach long" in said(process) and process.returncode == 130

    code, text = ask("status", "long")
    assert code == 0 and "is running since" in text and "loading torch" in text
    code, text = ask("submit", tmp_path / "long.py", f"--storage={tmp_path / 'sweeps'}")
    assert code == 2 and "launched once at a time" in text
    code, text = ask("status", "other")
    assert code == 2 and "'other' was not" in text and "long" in text

    code, text = ask("stop", "long")
    assert code == 0 and re.search(r"long-\w{8} has been stopped", text)
    rows = as_rows(Records(tmp_path / "sweeps" / "long").latest_trials(), TRIALS)
    assert rows and all(row["state"] != RUNNING for row in rows)
    assert no_launch_is_left()
    code, text = ask("attach", "long")
    assert code == 130 and "interrupted" in text
    code, text = ask("stop", "long")
    assert code == 2 and "has been stopped" in text


def no_launch_is_left(within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any("--name=long" in (one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])):
            return True
        time.sleep(0.2)
    return False
