"""What it costs that a study survives anything, and how large one may grow: relaunch, status, pandas, and the share of writing.

    python -m benchmarks.durability [--only relaunch|scale|share] [--write]

`share` trains and scores a study on the embedded base model in this process, and counts the seconds in the calls that store something."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from ray import tune

from benchmarks.machine import machine
from benchmarks.overhead import InstantDevice
from benchmarks.results import add_write_flag, report
from sweep import Epochs, Objective, Study
from sweep.driver import Driver, run_here
from sweep.folder import StudyFolder
from sweep.keys import Keys
from sweep.pool import Pool
from sweep.record_schema import as_arrow
from sweep.records import EVALUATIONS, IMAGES, TRIALS, Records
from sweep.runner import PARTS_LEFT
from sweep.scheduler import Asha
from sweep.searcher import Searcher
from sweep.study import load_study
from sweep.worker import Worker
from trainables.adapters import AdapterStore

N_RELAUNCHED, N_TRIALS, N_EVALUATIONS, N_IMAGES_EACH = 1_000, 10_000, 50_000, 20
RUNGS = 5
STUDY = f"""from ray import tune
from sweep import Epochs, Objective, Study

study = Study(
    space={{"learning_rate": tune.loguniform(1e-5, 1e-1), "rank": tune.choice([4, 8, 16])}},
    epochs=Epochs(max=3, rungs=(1, 2)),
    objective=Objective(lpips=1.0, scales={{"lpips": 1.0}}),
    samples={N_RELAUNCHED},
)
"""
BARS = {"relaunch": 10.0, "status": 3.0, "pandas": 5.0, "share": 0.03}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["relaunch", "scale", "share"], help="one of the parts (default: all)")
    add_write_flag(parser)
    arguments = parser.parse_args()
    facts = machine()
    parts = {"relaunch": relaunch_lines, "scale": scale_lines, "share": share_lines}
    lines = [line for name, part in parts.items() if arguments.only in (None, name) for line in part()]
    report("python -m benchmarks.durability", "Durability and scale", lines, write=arguments.write, facts=facts)


def relaunch_lines() -> list[str]:
    """A finished study of trainings that cost nothing, made in this process, and the command that launches it again."""
    with tempfile.TemporaryDirectory() as storage:
        file = Path(storage) / "relaunched.py"
        file.write_text(STUDY)
        study = load_study(file)
        folder, keys = StudyFolder(storage, study.name), Keys(study)
        folder.root.mkdir()
        records, pool = Records(folder.root), Pool()
        driver = Driver(study, keys, Searcher(study), Asha(study.rungs, study.reduction_factor), pool, records, max_concurrent=8)
        made_s, _ = _timed(lambda: run_here(driver, pool, Worker("worker-0", pool, InstantDevice(), records, objective=study.objective).turn))
        records.compact(least_parts=PARTS_LEFT)  # as a launch does at its end
        folder.write_study(study, keys.content_digests())
        again_s, said = _timed(lambda: _python("-m", "sweep", "launch", str(file), "--storage", storage))
    assert "0 trials from 0 distinct trainings" in said, said
    return [
        f"{N_RELAUNCHED:,} trials of trainings that do nothing take {made_s:.0f} s without Ray; `sweep launch` again, to its end, with the start of"
        f" Python: {again_s:.1f} s (bar {BARS['relaunch']:.0f} s)"
    ]


def scale_lines() -> list[str]:
    """The records of a study of 10,000 trials and 1,000,000 images, listed and read, each in a process of its own."""
    with tempfile.TemporaryDirectory() as storage:
        folder = StudyFolder(storage, "s")
        write_large_study(folder)
        status_s, _ = _timed(lambda: _python("-m", "sweep", "status", str(folder.root)))
        program = "import sys, time; from analysis.load import load_study_records as load; t = time.perf_counter(); r = load(sys.argv[1]);"
        said = _python("-c", f"{program} print(time.perf_counter() - t, len(r.trials), len(r.images))", str(folder.root)).split()
    assert [int(n) for n in said[1:]] == [N_TRIALS, N_EVALUATIONS * N_IMAGES_EACH]
    size = f"{N_TRIALS:,} trials, {N_EVALUATIONS:,} evaluations and {N_EVALUATIONS * N_IMAGES_EACH:,} images"
    return [
        f"{size}: `sweep status` in {status_s:.1f} s with the start of Python (bar {BARS['status']:.0f} s)",
        f"{size}: read into pandas by analysis.load in {float(said[0]):.1f} s (bar {BARS['pandas']:.0f} s)",
    ]


def share_lines() -> list[str]:
    """Real trainings and evaluations of the embedded base model, and the part of the wall time that went into storing."""
    study = Study(
        name="s",
        space={"rank": tune.choice([4, 8, 16]), "learning_rate": tune.loguniform(1e-4, 1e-3)},
        epochs=Epochs(max=4, rungs=(2,)),
        objective=Objective(lpips=0.5, fid=0.5, scales={"lpips": 1.0, "fid": 100.0}),
        samples=4,
    )
    with tempfile.TemporaryDirectory() as storage:
        seconds, stored_s = _seconds_of(study, StudyFolder(storage, "s"))
    parts = ", ".join(f"{name} {spent:.2f} s" for name, spent in stored_s.items())
    share = sum(stored_s.values()) / seconds
    return [f"a study of 4 trainings of {seconds:.0f} s spends {share:.2%} of it on storing: {parts} (bar {BARS['share']:.0%})"]


def write_large_study(folder: StudyFolder) -> None:
    """Records as a long study leaves them after compaction: every value made up, every column that is usual filled in."""
    keys = [f"{number:016x}" for number in range(N_EVALUATIONS)]
    configuration = json.dumps({"guidance": 3.0, "infer_model": "embedded:base", "steps": 20, "prompts": list("abcde"), "images_per_prompt": 4})
    evaluations = [
        {
            "evaluation_key": key, "training_key": f"k{n // RUNGS}", "epoch": n % RUNGS + 1, "configuration": configuration, "lpips": 0.5, "fid": 80.0,
            "intervals": json.dumps({"lpips": [0.4, 0.6, 3], "fid": [70, 90, 3]}), "versions": json.dumps({"torch": "2.15"}), "created_at": float(n),
            "n_images": N_IMAGES_EACH,
        }
        for n, key in enumerate(keys)
    ]  # fmt: skip
    images = [
        {"evaluation_key": key, "index": i, "prompt": f"J3NN13, portrait, number {i % 5}", "seed": i // 5, "lpips": 0.5, "path": f"pictures/{key}/{i:03d}.png"}
        for key in keys
        for i in range(N_IMAGES_EACH)
    ]
    trials = [row for number in range(N_TRIALS) for row in _rows_of_trial(number)]
    for table, rows in zip((EVALUATIONS, IMAGES, TRIALS), (evaluations, images, trials), strict=True):
        path = folder.root / "records" / table.name / "compact-000001-large.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(as_arrow(table, rows), path, compression="zstd")
    folder.description.write_text(json.dumps({"samples": N_TRIALS}))


def _rows_of_trial(number: int) -> list[dict[str, Any]]:
    configuration = json.dumps({"rank": 8, "learning_rate": 1e-4 * (number + 1), "caption": "v1", "guidance": 3.0})
    rungs = [[epoch, 1 - number / N_TRIALS, f"{RUNGS * number + epoch - 1:016x}"] for epoch in range(1, RUNGS + 1)]
    common = {"study": "s", "trial": f"t{number:05d}", "number": number, "configuration": configuration, "labels": "{}", "seconds": 1.0}
    ended = {"epochs": RUNGS, "best_epoch": RUNGS, "objective": 1 - number / N_TRIALS, "rung_values": json.dumps(rungs)}
    return [{**common, "state": "RUNNING", "sequence": 0}, {**common, **ended, "state": "COMPLETE", "sequence": 1}]


def _seconds_of(study: Study, folder: StudyFolder) -> tuple[float, dict[str, float]]:
    """Wall seconds of the study after its libraries were loaded, and of them those in the calls that store."""
    from sweep.device import PackDevice

    stored_s: dict[str, float] = {}
    device = PackDevice(device="cpu", adapters=folder.adapters, n_slots=4)
    device.open()
    records, pool = Records(folder.root), Pool()
    records.append_trial = _counted(records.append_trial, "trials", stored_s)
    records.append_evaluation = _counted(records.append_evaluation, "evaluations with pictures", stored_s)
    save = AdapterStore.save
    AdapterStore.save = _counted(save, "adapters and states", stored_s)
    try:
        driver = Driver(study, Keys(study), Searcher(study), Asha(study.rungs, study.reduction_factor), pool, records, max_concurrent=4)
        worker = Worker("worker-0", pool, device, records, objective=study.objective)
        seconds, _ = _timed(lambda: run_here(driver, pool, worker.turn))
        stored_s["compaction"], _ = _timed(records.compact)
    finally:
        AdapterStore.save = save
    return seconds + stored_s["compaction"], stored_s


def _counted(do: Callable[..., Any], name: str, spent_s: dict[str, float]) -> Callable[..., Any]:
    def counted(*arguments: Any, **options: Any) -> Any:
        seconds, result = _timed(lambda: do(*arguments, **options))
        spent_s[name] = spent_s.get(name, 0.0) + seconds
        return result

    return counted


def _timed(do: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = do()
    return time.perf_counter() - started, result


def _python(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
