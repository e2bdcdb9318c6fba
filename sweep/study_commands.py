"""The commands about a study that was launched: status, watch, stop, pause, set, rescore. Each parses, calls and prints."""

from __future__ import annotations

from typing import Annotated

import typer

from sweep.cluster_commands import OnCluster, status_on_cluster, stop_on_cluster
from sweep.options import DEFAULT_STORAGE, INTERRUPTED_CODE, Device, Storage, StudyName, console


def status(name: StudyName, storage: Storage = DEFAULT_STORAGE, address: OnCluster = None) -> None:
    """Say how a study stands, from its records, and what it takes on disk: `sweep status captions`; with --address, how its job does."""
    if address is not None:
        status_on_cluster(name, address)
        return
    from sweep.folder import find_study_folder
    from sweep.status import print_status

    print_status(console(), find_study_folder(name, storage, damaged=True))


def watch(name: StudyName, storage: Storage = DEFAULT_STORAGE) -> None:
    """Watch a study that runs, from another shell or another machine of its storage, until its launch ends: `sweep watch captions`.

    Ctrl+C ends only the watching. Of a study that does not run it says how it ended, and how it stands."""
    from sweep.folder import find_study_folder
    from sweep.record_files import in_commands
    from sweep.live_screen import LiveScreen
    from sweep.status import print_status
    from sweep.watching import ending_of, watch_to_end

    folder, seen_on = find_study_folder(name, storage), console()
    study, own = folder.root.name, in_commands(folder.root)
    try:
        with LiveScreen(seen_on) as screen:
            ending = watch_to_end(folder, screen)
    except KeyboardInterrupt as error:
        typer.echo(f"{study} goes on. `sweep watch {own}` shows it again, `sweep stop {own}` ends it.")
        raise typer.Exit(INTERRUPTED_CODE) from error
    typer.echo(f"The launch of {study} has ended: {ending}." if ending else f"No launch of {study} is live. The last one: {ending_of(folder)}.")
    print_status(seen_on, folder)


def stop(
    name: StudyName,
    now: Annotated[bool, typer.Option("--now", help="At once; what was trained since the last rung is trained again.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    address: OnCluster = None,
) -> None:
    """End a study that runs, on any machine of its storage, when the rungs under way are scored: `sweep stop captions`.

    It ends like one that was interrupted by Ctrl+C, and `sweep resume` goes on with it. With --address its job on a cluster
    ends, always at once; submit it again to go on."""
    if address is not None:
        stop_on_cluster(name, address)
        return
    from sweep.control import AT_RUNGS, NOW, ask
    from sweep.folder import find_study_folder
    from sweep.record_files import in_commands

    folder = find_study_folder(name, storage)
    ask(folder, stop=NOW if now else AT_RUNGS)
    when = "in a second or so" if now else "when the rungs under way are scored"
    typer.echo(f"{folder.root.name} ends {when}; `sweep resume {in_commands(folder.root)}` will go on with it.")


def pause(name: StudyName, storage: Storage = DEFAULT_STORAGE) -> None:
    """Let a study that runs rest after the rungs under way: `sweep pause captions`, and `sweep resume captions` to go on.

    Its launch stays, and keeps its devices' memory; `sweep stop` gives that back."""
    from sweep.control import ask
    from sweep.folder import find_study_folder
    from sweep.record_files import in_commands

    folder = find_study_folder(name, storage)
    ask(folder, paused=True)
    typer.echo(f"{folder.root.name} rests when the rungs under way are scored; `sweep resume {in_commands(folder.root)}` goes on.")


def set_limits(
    name: StudyName,
    limits: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="samples, max_concurrent, budget_hours, budget_gpu_hours.", show_default=False)],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Change a study's limits, while it runs or before it is resumed: `sweep set captions samples=200 max_concurrent=4`."""
    from sweep.control import ask
    from sweep.folder import find_study_folder
    from sweep.launches import read_launches, with_overrides, write_launches
    from sweep.record_files import in_commands
    from sweep.study_file import literal, parse_assignments
    from sweep.study_rules import check_limits

    folder, texts = find_study_folder(name, storage), parse_assignments(limits)
    values = {key: literal(text) for key, text in texts.items()}
    check_limits(values)
    said = ", ".join(f"{key}={value}" for key, value in values.items())
    if folder.holder is not None:
        ask(folder, limits=values)
        typer.echo(f"{folder.root.name} goes on with {said} in a second or so.")
        return
    with folder.held():
        write_launches(folder.launches, with_overrides(read_launches(folder.launches), texts))
    typer.echo(f"{folder.root.name} does not run; `sweep resume {in_commands(folder.root)}` will go on with {said}.")


def rescore(
    name: StudyName,
    perceptual: Annotated[str | None, typer.Option(help="Network for LPIPS: lpips:alex, lpips:vgg, lpips:squeeze, embedded:perceptual.")] = None,
    pooled: Annotated[str | None, typer.Option(help="Network for FID and KID: inception, embedded:pooled.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME[=FOLDER]", help="A similarity: dinov2, clip_i, clip_t, face. Repeatable.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    device: Device = "cpu",
) -> None:
    """Score a study's stored pictures again, without making any: `sweep rescore captions --perceptual lpips:vgg` adds the metrics of another
    network. `sweep rescore captions` alone completes the records of an earlier version: which prompts are seen, and pictures without a face."""
    from sweep.folder import find_study_folder
    from sweep.progress import counted

    folder = find_study_folder(name, storage)
    if not (perceptual or pooled or metric):
        from sweep.updating import update_records

        with counted(console(), "completing image sets") as progress:
            n = update_records(folder, device=device, progress=progress)
        typer.echo(f"{n} image sets of {folder.root.name} were of an earlier version, and are complete now.")
        return
    from sweep.rescoring import rescore as run

    with counted(console(), "scoring image sets") as progress:
        n = run(folder, perceptual=perceptual, pooled=pooled, metrics=metric or (), device=device, progress=progress)
    typer.echo(f"{n} image sets of {folder.root.name} have new metrics; they are `further_metrics` in its evaluations.")
