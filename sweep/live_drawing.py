"""The live view as ink: a moment of a launch as a table for a terminal, and as one line for a log. Numbers are sweep/moment.py's."""

from __future__ import annotations

from collections import Counter, defaultdict

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweep.moment import IS_SCORED, SILENT_AFTER_S, TRAINS, BestNow, Moment, TrialNow, WorkerNow
from sweep.searcher import RUNNING
from sweep.summary import WIDE, saved_text
from sweep.wording import MOST_ROWS, clock_text, configuration_text, counts_text, left_text, metric_text, number_text, short_time_text

MOST_WORKERS = 4
"""Workers that are told of one by one; more are counted by what they do."""
MOST_LATELY = 3
BAR_WIDTH = 10


class LiveTable:
    """A moment as it fits the terminal that it is drawn on."""

    def __init__(self, moment: Moment) -> None:
        self._moment = moment

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        moment, width = self._moment, options.max_width
        yield head_line(moment)
        if moment.phase:
            return
        facts = _facts(moment, is_wide=width >= WIDE)
        lately = [notice for notice in moment.notices if notice.passing][-MOST_LATELY:]
        yield _bar(moment.n_ended, moment.n_trials, width=min(width, WIDE))
        yield from facts
        if moment.trials:
            yield Text()
            # Of what does not fit the terminal nobody would see the end. Beside facts and news there are at most 7 lines.
            room = options.size.height - len(facts) - len(lately) - 7
            yield from _trials_table(moment, n_rows=max(1, min(MOST_ROWS, room)), width=width)
        if lately:
            yield Text()
            for notice in lately:
                yield _one_line(f"{clock_text(notice.at_s)}  {notice.text}", style="dim")


def head_line(moment: Moment) -> Text:
    """Which study, since when, how far, how long still."""
    text = Text.assemble((moment.study, "bold"), f"  {clock_text(moment.elapsed_s)}   ", no_wrap=True, overflow="ellipsis")
    if moment.phase:
        return text.append(f"{moment.phase} ...")
    text.append(f"{moment.n_ended} of {moment.n_trials} trials have ended, {moment.n_running} running   ")
    return text.append("paused" if moment.paused else f"time left {left_text(moment.left_s)}")


def heartbeat(moment: Moment) -> str:
    """What a log says where nothing has happened for a while: counts, the best, the slowest, how long still."""
    parts = [f"{moment.n_ended} of {moment.n_trials} trials have ended, {moment.n_running} running"]
    if moment.best is not None:
        parts.append(f"best {moment.best.objective:.4f} ({moment.best.trial})")
    if (slowest := moment.slowest) is not None:
        parts.append(f"slowest {slowest.id} at epoch {slowest.epoch:.1f} of {slowest.max_epochs}, {short_time_text(slowest.left_s)} still")
    elif not any(trial.doing == TRAINS for trial in moment.trials) and moment.workers:
        parts.append(", ".join(_busy(moment.workers)))
    parts.append("paused" if moment.paused else f"time left {left_text(moment.left_s)}")
    return "; ".join(parts)


# ---- private, in the order of use


def _facts(moment: Moment, *, is_wide: bool) -> list[Text]:
    """A line each, with its name in front."""
    facts: list[tuple[str, str | Text]] = []
    if ended := counts_text({state: n for state, n in moment.counts.items() if state != RUNNING}):
        facts.append(("ended", ended))
    if moment.best is not None:
        facts += [("best", _best_text(moment.best)), ("", configuration_text(moment.best.configuration))]
    if moment.asked[0]:
        facts.append(("sharing", f"saved {saved_text(moment.asked, moment.done)} so far"))
    if moment.n_losses:
        facts.append(("lost", f"{moment.n_losses} trainings and evaluations, tried again"))
    facts += _worker_facts(moment.workers, is_wide=is_wide)
    if moment.mood:
        facts.append(("", Text(moment.mood, style="yellow")))
    return [_fact(name, what) for name, what in facts]


def _fact(name: str, what: str | Text) -> Text:
    return Text.assemble((f"{name:<9}", "dim"), what, no_wrap=True, overflow="ellipsis", end="\n")


def _best_text(best: BestNow) -> Text:
    metrics = "  ".join(f"{name} {metric_text(value)}" for name, value in best.metrics.items())
    return Text.assemble((f"{best.objective:.4f}", "bold green"), f"  {best.trial} at epoch {best.epoch}   {metrics}")


def _worker_facts(workers: list[WorkerNow] | tuple[WorkerNow, ...], *, is_wide: bool) -> list[tuple[str, str]]:
    if len(workers) > MOST_WORKERS:
        return [("workers" if i == 0 else "", line) for i, line in enumerate(_busy(workers))]
    facts = []
    for worker in workers:
        device = f"{worker.device}: " if is_wide and worker.device not in ("", worker.name) else ""
        done = f"; {worker.n_done} stored or scored" if is_wide and worker.n_done else ""
        silent = f"; no progress for {worker.silent_s:.0f} s" if worker.silent_s >= SILENT_AFTER_S else ""
        facts.append((worker.name, f"{device}{worker.doing}{silent}{done}"))
    return facts


def _busy(workers: list[WorkerNow] | tuple[WorkerNow, ...]) -> list[str]:
    """How many workers do what, the most common first. What each is at differs by numbers: many are counted by their phase."""
    named = defaultdict(list)
    for worker in workers:
        named["silent" if worker.silent_s >= SILENT_AFTER_S else worker.phase or worker.doing].append(worker)
    counts = Counter({phase: len(members) for phase, members in named.items()})
    return [_busy_text(phase, named[phase]) for phase, _ in counts.most_common(MOST_WORKERS)]


def _busy_text(phase: str, members: list[WorkerNow]) -> str:
    one, *others = members
    if others:
        doing = {worker.doing for worker in members}
        return f"{len(members)} workers {doing.pop() if len(doing) == 1 else phase}"
    return f"{one.name} {one.doing}" + (f", no progress for {one.silent_s:.0f} s" if one.silent_s >= SILENT_AFTER_S else "")


def _trials_table(moment: Moment, *, n_rows: int, width: int) -> list[Table | Text]:
    """A row per trial. Columns keep their widths, so that nothing moves but the numbers."""
    numbers = {"epoch": 9, "loss": 6, "objective": 9, "still": 7}
    shown = moment.trials if len(moment.trials) <= n_rows else moment.trials[: max(1, n_rows - 1)]
    id_width = max(5, *(len(trial.id) for trial in shown))
    bar_width = BAR_WIDTH if width >= WIDE else 0
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("trial", width=id_width, no_wrap=True)
    if bar_width:
        table.add_column("", width=bar_width)
    for name, column_width in numbers.items():
        table.add_column(name, width=column_width, justify="right", no_wrap=True)
    taken = sum(used + 2 for used in (id_width, *numbers.values(), *[bar_width] * bool(bar_width)))
    table.add_column("configuration", width=max(10, width - taken), overflow="ellipsis", no_wrap=True)
    for trial in shown:
        bar = [_bar(trial.epoch, trial.max_epochs, width=bar_width)] * bool(bar_width)
        epoch, values = f"{trial.epoch:.1f}/{trial.max_epochs}", (number_text(trial.loss, 4), number_text(trial.objective, 4))
        table.add_row(trial.id, *bar, epoch, *values, _still(trial), configuration_text(trial.configuration))
    n_more = moment.n_running - len(shown)
    return [table, Text(f"and {n_more} more", style="dim")] if n_more > 0 else [table]


def _still(trial: TrialNow) -> str:
    """How long still, or what it waits for."""
    if trial.doing != TRAINS:
        return "scoring" if trial.doing == IS_SCORED else "waits"
    return short_time_text(trial.left_s) or "begins"


def _bar(done: float, total: float, *, width: int) -> Table:
    """A bar on a line of its own."""
    line = Table.grid()
    line.add_row(ProgressBar(total=max(1, total), completed=done, width=width, complete_style="green", finished_style="green"))
    return line


def _one_line(text: str, *, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
