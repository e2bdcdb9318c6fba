"""Memory in use, within the limit of a container; and what a fleet does where it is short, at the same threshold as Ray's."""

import psutil
import pytest

from sweep.memory import DEFAULT_THRESHOLD, THRESHOLD_SETTING, MemoryUse, memory_threshold, memory_use, n_kernel_kills
from sweep.ray_errors import is_out_of_memory, said_by


def cgroup(folder, limit, use, *, cache: int = 0, names=("memory.max", "memory.current", "inactive_file")):
    folder.mkdir(parents=True)
    for name, value in zip(names[:2], (limit, use), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {cache}\nfile 7\n")
    return folder


def test_in_a_container_its_own_limit_counts_and_what_is_cached_of_files_is_free(tmp_path):
    assert memory_use(cgroup(tmp_path / "a", 1000, 700, cache=200)) == MemoryUse(500, 1000)
    first = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    cgroup(tmp_path / "b" / "memory", 1000, 700, cache=100, names=first)
    assert memory_use(tmp_path / "b") == MemoryUse(600, 1000)


@pytest.mark.parametrize("limit", ["max", 2**62])
def test_without_a_limit_below_the_machines_memory_the_machine_counts(tmp_path, limit):
    assert memory_use(cgroup(tmp_path / "a", limit, 700)).total == psutil.virtual_memory().total
    assert memory_use(tmp_path / "nothing").total == psutil.virtual_memory().total


def test_the_threshold_is_the_one_that_ray_is_told(monkeypatch):
    for text, share in (("0.5", 0.5), ("1", 1.0), ("x", DEFAULT_THRESHOLD), ("0", DEFAULT_THRESHOLD), ("7", DEFAULT_THRESHOLD)):
        monkeypatch.setenv(THRESHOLD_SETTING, text)
        assert memory_threshold() == share
    monkeypatch.delenv(THRESHOLD_SETTING)
    assert memory_threshold() == DEFAULT_THRESHOLD


def test_kills_of_the_kernel_are_counted_where_it_says_so(tmp_path):
    (tmp_path / "vmstat").write_text("nr_free_pages 12\noom_kill 3\n")
    assert n_kernel_kills(tmp_path / "vmstat") == 3
    (tmp_path / "vmstat").write_text("nr_free_pages 12\n")
    assert n_kernel_kills(tmp_path / "vmstat") is n_kernel_kills(tmp_path / "nothing") is None


RAYS_PARAGRAPH = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: WorkerActor\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a "
    "connection error code 2. End of file. There are some potential root causes. (1) The process is killed by SIGKILL by OOM killer due to high "
    "memory usage. (2) ray stop --force is called."
)


def test_memory_is_named_only_where_ray_says_that_it_was_memory():
    assert not is_out_of_memory(RuntimeError(RAYS_PARAGRAPH)), "every dead process might have been killed for memory"
    assert is_out_of_memory(RuntimeError("Task was killed due to the node running low on memory."))
    assert is_out_of_memory(RuntimeError("Workers (tasks / actors) killed due to memory pressure (OOM)"))


def test_what_ray_says_becomes_one_line_that_is_cut_at_no_word():
    line = said_by(RuntimeError(RAYS_PARAGRAPH))
    assert len(line) <= 200 and "\n" not in line and line.startswith("The actor is dead")
    assert line.removesuffix(" ...") in RAYS_PARAGRAPH and (not line.endswith(" ...") or RAYS_PARAGRAPH[RAYS_PARAGRAPH.index(line[:-4]) + len(line) - 4] == " ")
    assert said_by(ValueError()) == "ValueError"




@pytest.mark.ray
def test_where_memory_is_short_for_a_while_a_worker_is_ended_and_the_study_goes_on_in_the_end(tmp_path, ray_home, monkeypatch, capfd):
    """Memory is short in two of the first looks, one a second: the reading is replaced, the killing is real. Epochs are long enough
    for the study to outlast both on any machine."""
    from rich.console import Console

    from sweep import fleet
    from sweep.keys import Keys
    from sweep.progress import Progress
    from sweep.runner import Launch, launch
    from sweep.searcher import COMPLETE, PRUNED
    from tests.sweep.fakes import FakeContent, FakeDeviceMaker
    from tests.sweep.test_runner import a_study

    monkeypatch.setenv("HOME", str(ray_home))
    monkeypatch.setattr(fleet, "MEMORY_PAUSE_S", 1.0)
    looks = iter([0.5] * 3 + [0.99] + [0.5] * 2 + [0.99])
    monkeypatch.setattr(fleet, "memory_use", lambda: MemoryUse(int(1000 * next(looks, 0.5)), 1000))
    study = a_study()
    with Progress(Console(width=300), study="s") as view:
        driver, snapshot = launch(
            study, Launch(tmp_path, make_device=FakeDeviceMaker(epoch_s=0.8), keys=Keys(study, FakeContent()), max_concurrent=3, view=view)
        )
    said = capfd.readouterr().out
    assert said.count("is ended, this machine is short of memory") == 2 and "Traceback" not in said and "(raylet)" not in said
    assert {trial.state for trial in driver.trials.values()} <= {COMPLETE, PRUNED} and len(driver.trials) == 10
