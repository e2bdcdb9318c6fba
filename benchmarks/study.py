"""A whole study: ours against Ray Tune with one process per trial, peft and diffusers (benchmarks/naive.py), wall time from start to table.

    python -m benchmarks.study [--rows paper24|listed64] [--epochs 2] [--pairs 3] [--write]

Sides run in turn: ours, theirs, theirs with cached latents, each in a process of its own. `solo` trains and scores every row alone with
our code, for the agreement of the numbers. Finished sides are kept in benchmarks/work/ and not run again (`--fresh` forgets them)."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.results import add_write_flag, report
from sweep.sites import MOST_CPU_WORKERS

WORK = Path(__file__).with_name("work")
SIDES = ("ours", "naive", "naive_cached")
STEPS, IMAGES_PER_PROMPT = 20, 4
FAIR = {"RAY_worker_niceness": "0"}  # Ray's own 15 would let whatever else runs on the machine slow the trials of the other side


def rows_of(name: str) -> list[dict]:
    """The configurations of a row set."""
    if name == "paper24":  # 4 trainings x 2 inference models x 3 guidances: the 24 rows of the paper's Tables 4 and 5
        trainings = [("embedded:realistic", "v1"), ("embedded:realistic", "v2"), ("embedded:realistic", "v3"), ("embedded:base", "v3")]
        return [
            {"train_model": model, "caption": caption, "infer_model": infer, "guidance": guidance, "rank": 32, "alpha": 16.0}
            for model, caption in trainings
            for infer in ("embedded:realistic", "embedded:base")
            for guidance in (4.0, 6.0, 7.5)
        ]
    return [  # 16 trainings x 4 guidances
        {"caption": caption, "rank": rank, "alpha": 16.0, "learning_rate": rate, "guidance": guidance}
        for caption in ("v1", "v2", "v3", "v4")
        for rank in (8, 16)
        for rate in (5e-4, 1e-3)
        for guidance in (1.5, 3.0, 5.0, 7.5)
    ]


def main() -> None:
    arguments = _arguments()
    if arguments.side:
        print(json.dumps(SIDE_OF[arguments.side](arguments)))
        return
    WORK.mkdir(exist_ok=True)
    facts = machine()
    seconds: dict[str, list[float]] = {side: [] for side in arguments.sides}
    for pair in range(arguments.pairs):
        for side in arguments.sides:
            seconds[side].append(_kept(arguments, side, pair)["seconds"])
    ours = _kept(arguments, "ours", 0)
    solo = None if arguments.without_solo else _kept(arguments, "solo", 0)
    report("python -m benchmarks.study", _title(arguments), _lines(arguments, seconds, ours, solo, facts), write=arguments.write, facts=facts)


def run_ours(arguments: argparse.Namespace) -> dict:
    """`python -m sweep launch` on a study file with these rows, in a fresh storage."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{arguments.rows}.py"
        file.write_text(
            "from sweep import Epochs, Study\n\n"
            f"study = Study(rows={rows_of(arguments.rows)!r}, epochs=Epochs(max={arguments.epochs}), "
            f"fixed={{'steps': {STEPS}, 'images_per_prompt': {IMAGES_PER_PROMPT}}})\n"
        )
        started = time.perf_counter()
        command = [sys.executable, "-m", "sweep", "launch", str(file), "--storage", folder]
        subprocess.run(command, check=True, stdout=sys.stderr)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "values": _recorded(Path(folder) / arguments.rows), "spent": spent(Path(folder) / arguments.rows)}


def run_naive(arguments: argparse.Namespace, *, cached: bool) -> dict:
    from benchmarks.naive import run_study

    with tempfile.TemporaryDirectory() as folder:
        settings = dict(work=Path(folder), epochs=arguments.epochs, steps=STEPS, images_per_prompt=IMAGES_PER_PROMPT, cached=cached)
        results, seconds = run_study(rows_of(arguments.rows), **settings)
    return {"seconds": seconds, "values": [{"lpips": r["lpips"], "fid": r["fid"]} for r in results]}


def run_solo(arguments: argparse.Namespace) -> dict:
    """Every row trained alone in a pack of one and scored alone; equal trainings are trained again each time they are first needed only."""
    from trainables.config import EVAL_PARAMETERS, EvalConfig, TrainConfig
    from trainables.evaluate import EvaluationRequest, Evaluator
    from trainables.frozen import FrozenWork
    from trainables.pack import Pack
    from trainables.subject import load_subject

    frozen, subject, adapters, values = FrozenWork(), load_subject("embedded:subject"), {}, []
    evaluator = Evaluator(frozen)
    for row in rows_of(arguments.rows):
        train = TrainConfig(**{k: v for k, v in row.items() if k not in EVAL_PARAMETERS})
        evaluation = EvalConfig(steps=STEPS, images_per_prompt=IMAGES_PER_PROMPT, **{k: v for k, v in row.items() if k in EVAL_PARAMETERS})
        if train not in adapters:
            pack = Pack(frozen.parts(train.train_model, None, train.dtype), frozen)
            pack.add("solo", train, subject)
            while pack.standings()["solo"].epochs < arguments.epochs:
                pack.advance()
            adapters[train] = pack.adapter("solo")
        result = evaluator.evaluate([EvaluationRequest("solo", adapters[train], evaluation, subject)])[0]
        values.append({"lpips": result.values["lpips"], "fid": result.values["fid"]})
    return {"seconds": 0.0, "values": values}


SIDE_OF = {
    "ours": run_ours,
    "naive": lambda arguments: run_naive(arguments, cached=False),
    "naive_cached": lambda arguments: run_naive(arguments, cached=True),
    "solo": run_solo,
}


def _recorded(study_dir: Path) -> list[dict]:
    """LPIPS, FID and training key of each row at the last epoch, in the order of the rows."""
    from sweep.records import Records

    records = Records(study_dir)
    trials = records.latest_trials().sort_values("number")
    evaluations = records.evaluations().set_index("evaluation_key")
    keys = [json.loads(rungs)[-1][2] if isinstance(rungs, str) else rungs[-1][2] for rungs in trials["rung_values"]]
    found = [{"lpips": float(evaluations.loc[key, "lpips"]), "fid": float(evaluations.loc[key, "fid"])} for key in keys]
    return [{**values, "training": training} for values, training in zip(found, trials["training_key"], strict=True)]


def spent(study_dir: Path) -> dict[str, float]:
    """Seconds that all workers together were training, scoring, waiting ..., by their logs."""
    seconds: dict[str, float] = {}
    for log in sorted(study_dir.glob("worker-*.log")):
        said = [line.split(" INFO sweep.worker: ") for line in log.read_text().splitlines() if " INFO sweep.worker: " in line]
        times = [datetime.strptime(time, "%Y-%m-%d %H:%M:%S,%f") for time, _ in said]
        for (_, doing), start, end in zip(said, times, [*times[1:], datetime.fromtimestamp(log.stat().st_mtime)], strict=True):
            word = doing.split()[0]
            seconds[word] = seconds.get(word, 0.0) + (end - start).total_seconds()
    return seconds


def kept_file(rows: str, epochs: int, side: str, pair: int) -> Path:
    """Where a finished side's seconds and values are kept."""
    return WORK / f"{rows}-{epochs}-epochs-{side}-{pair}.json"


def _kept(arguments: argparse.Namespace, side: str, pair: int) -> dict:
    file = kept_file(arguments.rows, arguments.epochs, side, pair)
    if not file.exists():
        print(f"{side}, pair {pair + 1} of {arguments.pairs}", flush=True)
        options = ["--rows", arguments.rows, "--epochs", str(arguments.epochs)]
        home = tempfile.mkdtemp()
        command = [sys.executable, "-m", "benchmarks.study", "--side", side, *options]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "HOME": home, **FAIR}).stdout
        shutil.rmtree(home, ignore_errors=True)
        file.write_text(json.dumps({**json.loads(printed.strip().splitlines()[-1]), "machine": comparable(machine())}))
        print(f"  {json.loads(file.read_text())['seconds']:.0f} s", flush=True)
    kept = json.loads(file.read_text())
    if kept.get("machine") != comparable(machine()):
        raise SystemExit(f"{file} was measured on another machine or with other versions. Remove it, or use --fresh.")
    return kept


def comparable(facts: dict) -> dict:
    """What two sides must have in common."""
    return {name: facts[name] for name in ("cpu", "n_cores", "python", "versions")}


def _lines(arguments: argparse.Namespace, seconds: dict[str, list[float]], ours: dict, solo: dict | None, facts: dict) -> list[str]:
    n = len(rows_of(arguments.rows))
    lines = [f"{n} configurations, {arguments.epochs} epochs each, {STEPS} denoising steps, {5 * IMAGES_PER_PROMPT} pictures; {arguments.pairs} rounds"]
    for side in seconds:
        ratio = statistics.median(a / b for a, b in zip(seconds[side], seconds["ours"], strict=True))
        lines.append(f"{side:14} {statistics.median(seconds[side]):8.1f} s   ours takes 1/{ratio:.1f} of it")
    n_trainings = len({values["training"] for values in ours["values"]})
    lines.append(f"epochs trained: {n * arguments.epochs} by the others, {n_trainings * arguments.epochs} by us, for {n_trainings} distinct trainings")
    n_workers = min(facts["n_cores"], MOST_CPU_WORKERS)
    parts = ", ".join(f"{name} {s:.0f} s" for name, s in sorted(ours.get("spent", {}).items(), key=lambda item: -item[1]) if s >= 0.5)
    if parts:
        lines.append(f"our workers of one core each, {n_workers} of them, were together: {parts}; what bounds them is in benchmarks.roofline")
    if solo is None:
        return lines
    lpips = max(abs(a["lpips"] - b["lpips"]) for a, b in zip(ours["values"], solo["values"], strict=True))
    fid = max(abs(a["fid"] / b["fid"] - 1) for a, b in zip(ours["values"], solo["values"], strict=True))
    lines.append(f"every row against the same configuration trained and scored alone by us: LPIPS differs by {lpips:.1e} at most, FID by {fid:.2%}")
    return lines


def _title(arguments: argparse.Namespace) -> str:
    return f"Study of {len(rows_of(arguments.rows))} configurations at {arguments.epochs} epochs"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", choices=("paper24", "listed64"), default="paper24")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES), help="ours among them")
    parser.add_argument("--without-solo", action="store_true", help="leave out the agreement with every row trained alone")
    parser.add_argument("--side", choices=sorted(SIDE_OF), help=argparse.SUPPRESS)
    parser.add_argument("--fresh", action="store_true", help="forget what is kept of earlier runs")
    add_write_flag(parser)
    arguments = parser.parse_args()
    if arguments.fresh and not arguments.side:
        for file in WORK.glob(f"{arguments.rows}-{arguments.epochs}-epochs-*.json"):
            file.unlink()
    return arguments


if __name__ == "__main__":
    main()
