"""The commands about all studies of a storage, and what they take on disk: list, rm, gc. Each parses, asks, calls and prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sweep.errors import RecordsError, StudyError
from sweep.options import DEFAULT_STORAGE, Storage, StudyName, Yes, confirm, console

if TYPE_CHECKING:
    from sweep.disk import Training
    from sweep.folder import StudyFolder
    from sweep.plan import Rates
    from trainables.storage import Place


def list_studies(storage: Storage = DEFAULT_STORAGE) -> None:
    """List the studies of a storage, how they stand, and what they take on disk: `sweep list --storage sweeps`.

    Adapters that studies share are counted with each of them."""
    from sweep.status import list_table, standings_in

    standings = standings_in(storage)
    if not standings:
        typer.echo(f"{storage} holds no study. `sweep launch STUDY.py` makes one; --storage DIR looks elsewhere.")
        return
    console().print(list_table(standings))
    for standing in standings:
        if standing.problem:
            typer.echo(f"{standing.name}: {standing.problem}")


def rm(name: StudyName, storage: Storage = DEFAULT_STORAGE, yes: Yes = False) -> None:
    """Remove a study: its records, pictures, and the adapters that no other study uses: `sweep rm captions`."""
    from sweep.disk import remove_study, stamp_of
    from sweep.folder import find_study_folder, removing
    from sweep.record_files import in_commands

    folder, said = find_study_folder(name, storage), ""
    if folder.holder is not None:
        raise folder.in_use()
    stamp = stamp_of(folder)
    if not yes:
        _, said = _to_be_removed(folder)
        typer.echo(said)
        confirm(f"Remove {folder.root}, with all its records and pictures?", yes=yes)
    # What goes is decided now, and not before the question: studies may have been launched while
    # it waited.
    with folder.held(), removing(folder.storage):
        if stamp_of(folder) != stamp:
            raise StudyError(
                f"A study is removed as it was when you were asked, but {folder.root.name} has other "
                "records now, so nothing was removed. "
                f"Run `sweep rm {in_commands(folder.root)}` again to see them."
            )
        own, what_goes = _to_be_removed(folder)
        if what_goes != said:
            typer.echo(what_goes)
        remove_study(folder, own)
    typer.echo(f"{folder.root.name} is removed.")


def gc(
    storage: Storage = DEFAULT_STORAGE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be collected.")] = False,
    keep_states: Annotated[bool, typer.Option("--keep-states", help="Keep optimiser states of trainings that have ended.")] = False,
    yes: Yes = False,
) -> None:
    """Collect what no study of a storage needs: `sweep gc --dry-run`.

    These are adapters that no study refers to, and optimiser states of trainings that no trial will go on with. Records and pictures stay."""
    from rich.filesize import decimal

    from sweep.disk import collect, garbage_of
    from sweep.folder import removing
    from sweep.status import garbage_lines

    root = storage.absolute()
    if not dry_run:
        _require_quiet(root)
    garbage = garbage_of(root, keep_states=keep_states)
    lines = garbage_lines(garbage, _rates_of(root))
    for line in lines:
        typer.echo(line)
    if not lines:
        typer.echo(f"All that {storage} holds is needed.")
    elif not dry_run:
        confirm(f"Remove {decimal(garbage.n_bytes)}?", yes=yes)
        # Studies may have been launched while the question waited: what they need by now stays.
        with removing(root):
            _require_quiet(root)
            removed = collect(root, garbage.still_in(garbage_of(root, keep_states=keep_states)))
        typer.echo(f"{decimal(removed.n_bytes)} are free again.")
        if n_kept := garbage.n_trainings - removed.n_trainings:
            kept = "1 training is in use by now and stays"
            typer.echo(f"{n_kept} trainings are in use by now and stay." if n_kept > 1 else f"{kept}.")


def _require_quiet(root: Place) -> None:
    """Raises: StudyError while a study of the storage runs: what it will read next is not in its
    records yet."""
    from sweep.folder import live_studies
    from sweep.record_files import in_commands

    if live := live_studies(root):
        raise StudyError(
            f"Nothing is collected while a study of the storage runs, but {', '.join(live)} does. "
            f"Wait for it, or `sweep stop {in_commands(root / live[0])}`."
        )


def _to_be_removed(folder: StudyFolder) -> tuple[list[Training], str]:
    """The trainings that go with a study, and what to say before they do."""
    from rich.filesize import decimal

    from sweep.disk import disk_of, own_trainings, use_of
    from sweep.folder import live_studies
    from sweep.plan import measured_rates
    from sweep.status import disk_text

    live = live_studies(folder.storage, but=folder.root.name)
    if live:  # what it will read next is not in its records yet
        return [], f"All adapters stay while {', '.join(live)} runs; `sweep gc` collects later what no study needs."
    try:
        use, own = use_of(folder), own_trainings(folder)
    except RecordsError as error:
        return [], f"All adapters stay, because it is not known which are needed: {error}"
    went = f"{len(own)} of its {len(use.keys)} trainings, used by no other study, go with it ({decimal(sum(t.n_bytes for t in own))})"
    return own, f"{disk_text(disk_of(use, measured_rates(folder)))}. {went}."


def _rates_of(storage: Place) -> Rates | None:
    """What the study that was launched last has measured of its device."""
    from sweep.disk import studies_in
    from sweep.plan import measured_rates

    measured = [folder for folder in studies_in(storage) if folder.pack_size.exists()]
    latest = max(measured, key=lambda folder: folder.pack_size.stat().st_mtime, default=None)
    return measured_rates(latest) if latest is not None else None
