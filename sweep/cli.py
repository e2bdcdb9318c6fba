"""The command line: parses, calls, prints, and turns errors into one line and an exit code. Imports nothing heavy until it must.

    0 the study has ended    1 no trial could be scored    2 an error that the person can mend    130 interrupted
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep import adapter_commands
from trainables.errors import SweepError

if TYPE_CHECKING:
    from sweep.driver import Driver
    from sweep.study import Study

DEFAULT_STORAGE = Path("sweeps")
WIDTH_OF_A_FILE = 140
FAILED, MENDABLE, INTERRUPTED_CODE = 1, 2, 130

_UsageError = typer.BadParameter.__bases__[0]  # typer has brought its own copy of click since 0.20-odd: no import fits all

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="LoRA hyperparameter sweeps for Stable Diffusion."
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.py", help="The study file, e.g. search_spaces/captions.py.", show_default=False)]
Storage = Annotated[Path, typer.Option("--storage", metavar="DIR", help="Where studies are kept.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter or a field of the study. Repeatable.")]
Samples = Annotated[int | None, typer.Option(help="How many trials in all.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]


@app.command()
def launch(
    study_file: StudyFile,
    samples: Samples = None,
    name: Annotated[str | None, typer.Option(help="Name of the study; its file's otherwise.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    sets: Sets = None,
    max_concurrent: Annotated[int | None, typer.Option(help="Most trials at a time.")] = None,
    pack_size: Annotated[int | None, typer.Option(min=1, help="Trainings that advance together on a device; measured otherwise.")] = None,
    device: Device = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the UNet: minutes at the start, faster steps on a GPU.")] = False,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory, slower steps.")] = False,
) -> None:
    """Run a study, or go on with it where its records stop: train, score, stop the weak early, record everything."""
    started_at = time.monotonic()
    shorthands = {"samples": samples, "name": name, "max_concurrent": max_concurrent}
    study = _load(study_file, sets, shorthands)
    from sweep.keys import Keys
    from sweep.progress import Progress

    console = _console()
    with Progress(console, started_at=started_at) as view:
        keys = Keys(study)
        keys.check()  # what can be wrong with a subject or a model is said before Ray is waited for
        for line in (*keys.cut_captions(), *keys.idle_tags()):
            console.print(f"warning: {line}", highlight=False, markup=False, soft_wrap=True)
        view.phase("importing Ray")
        from sweep.runner import Launch
        from sweep.runner import launch as run

        options = {"compile": compile, "gradient_checkpointing": gradient_checkpointing}
        how = Launch(storage, device=device, pack_size=pack_size, pack_options=options, keys=keys, view=view)
        driver, snapshot = run(study, how)
    _print_end(console, driver, snapshot, storage, first_scored_s=view.first_scored_s)
    raise typer.Exit(_exit_code(driver))


@app.command()
def plan(study_file: StudyFile, sets: Sets = None, samples: Samples = None, storage: Storage = DEFAULT_STORAGE) -> None:
    """Say what a study will cost: trials, distinct trainings, epochs, evaluations; and how long, once it was launched here. Does no work."""
    from sweep.folder import StudyFolder
    from sweep.plan import make_plan, measured_rates, render_plan

    study = _load(study_file, sets, {"samples": samples})
    typer.echo(render_plan(make_plan(study, rates=measured_rates(StudyFolder(storage, study.name)))), nl=False)


@app.command()
def trial(
    study_file: StudyFile,
    sets: Sets = None,
    storage: Storage = DEFAULT_STORAGE,
    device: Device = "auto",
    again: Annotated[bool, typer.Option("--again", help="Train and score even what is stored already.")] = False,
) -> None:
    """Run one configuration in this process, without Ray; breakpoints work. What --set leaves open is the baseline's."""
    from sweep.one_trial import one_trial_study, run_trial_here
    from sweep.progress import Progress

    study = one_trial_study(_load(study_file, sets, {}))
    console = _console()
    with Progress(console) as view:
        driver, snapshot = run_trial_here(study, storage, device=device, again=again, view=view)
    _print_end(console, driver, snapshot, storage, first_scored_s=view.first_scored_s)
    raise typer.Exit(_exit_code(driver))


@app.command()
def status(
    name: Annotated[str, typer.Argument(help="A study's name, or its folder.", show_default=False)],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Say how a study stands, from its records."""
    from sweep.folder import find_study_folder
    from sweep.progress import print_status

    print_status(_console(), find_study_folder(name, storage))


@app.command()
def rescore(
    name: Annotated[str, typer.Argument(help="A study's name, or its folder.", show_default=False)],
    perceptual: Annotated[str | None, typer.Option(help="Network for LPIPS: lpips:alex, lpips:vgg, lpips:squeeze, embedded:perceptual.")] = None,
    pooled: Annotated[str | None, typer.Option(help="Network for FID and KID: inception, embedded:pooled.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME[=FOLDER]", help="A similarity: dinov2, clip_i, clip_t, face. Repeatable.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    device: Device = "cpu",
) -> None:
    """Add the metrics of other networks to a study's stored pictures; nothing is generated again."""
    from sweep.folder import find_study_folder
    from sweep.progress import counted

    if not (perceptual or pooled or metric):
        raise SweepError("`rescore` needs something to score with, but nothing is named. Use e.g. --perceptual lpips:vgg or --metric dinov2.")
    folder = find_study_folder(name, storage)
    from sweep.rescoring import rescore as run

    with counted(_console(), "scoring image sets") as progress:
        n = run(folder, perceptual=perceptual, pooled=pooled, metrics=metric or (), device=device, progress=progress)
    typer.echo(f"{n} image sets of {folder.root.name} have new metrics; they are `further_metrics` in its evaluations.")


@app.command()
def prepare(
    raw_dir: Annotated[Path, typer.Argument(metavar="RAW_DIR", help="Photographs; only read.", show_default=False)],
    subject_dir: Annotated[Path, typer.Argument(metavar="SUBJECT_DIR", help="New or empty; the subject.", show_default=False)],
    trigger: Annotated[str, typer.Option(help="The word that will call the subject, e.g. J3NN13.", show_default=False)],
    class_word: Annotated[str, typer.Option(help="What the subject is, e.g. woman.")] = "",
    name: Annotated[str, typer.Option(help="The subject's name; its folder's otherwise.")] = "",
    size: Annotated[int, typer.Option(help="Pixels on a side of the squares that are written.")] = 512,
    fit: Annotated[str, typer.Option(help="crop: the square in the middle. pad: all of it, over white.")] = "crop",
    heldout: Annotated[float, typer.Option(help="Share that is not trained on; similar photographs stay together.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the choice of what is held out.")] = 0,
    drop: Annotated[
        str,
        typer.Option(
            help="What drops a photograph; the rest flags it: tiny, enlarged, cropped, blurred, dark, bright, duplicate, similar, uncaptioned, "
            "no-face, many-faces."
        ),
    ] = "tiny,duplicate",
    least_sharpness: Annotated[float, typer.Option(help="Below it, a photograph is blurred; see report.csv.")] = 30.0,
    faces: Annotated[bool, typer.Option("--faces", help="Count faces, if OpenCV is there.")] = False,
    derive: Annotated[bool, typer.Option("--derive/--no-derive", help="Make v3 and v4 of tags.")] = True,
) -> None:
    """Make a subject of raw photographs: upright squares, without duplicates, with a held-out split and a report to review."""
    from sweep.progress import counted
    from trainables.candidates import Preparation
    from trainables.prepare import prepare_subject

    reasons = tuple(word.strip() for word in drop.split(",") if word.strip())
    how = Preparation(
        trigger=trigger, class_word=class_word, name=name, size_pixels=size, fit=fit, heldout=heldout, seed=seed, drop=reasons,
        least_sharpness=least_sharpness, faces=faces, derive=derive,
    )  # fmt: skip
    with counted(_console(), "reading photographs") as progress:
        prepared = prepare_subject(raw_dir, subject_dir, how, progress=progress)
    for note in prepared.notes:
        typer.echo(f"note: {note}")
    n = len(prepared.candidates)
    typer.echo(f"Of {n} photographs {prepared.n('dropped')} are dropped and {prepared.n('flagged')} flagged; {prepared.root / 'report.html'} says why.")
    typer.echo(f"{prepared.root} has {prepared.n_split('train')} images to train on and {prepared.n_split('heldout')} held out.")


@app.command()
def caption(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT_DIR", help="A subject whose v2 are tags.", show_default=False)],
    derive: Annotated[str, typer.Option(help="The versions to make: v3, fewer tags; v4, a sentence.")] = "v3,v4",
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite versions that are there.")] = False,
) -> None:
    """Write caption versions, made of the tags of v2, into a subject's metadata, to be read and corrected."""
    from trainables.captions import caption_subject

    versions = [word.strip() for word in derive.split(",") if word.strip()]
    n = caption_subject(subject, versions, replace=replace)
    typer.echo(f"{n} images of {subject} have {' and '.join(versions)} now.")


@app.command("class-images")
def class_images(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The base model, e.g. sd15.", show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty.", show_default=False)],
    prompt: Annotated[str, typer.Option(help="What they show, e.g. 'a woman'.", show_default=False)],
    n: Annotated[int, typer.Option("--n", min=1, help="How many.")] = 100,
    guidance: Annotated[float, typer.Option(help="Of the prompt.")] = 7.5,
    steps: Annotated[int, typer.Option(help="Of the denoising.")] = 50,
    seed: Annotated[int, typer.Option(help="Of their noise.")] = 0,
    device: Device = "auto",
) -> None:
    """Generate class images with a base model alone, for prior preservation (`prior_images`)."""
    import transformers

    from sweep.device import device_kind
    from sweep.progress import counted
    from trainables.class_images import make_class_images
    from trainables.config import EvalConfig

    transformers.utils.logging.disable_progress_bar()
    config = EvalConfig(infer_model=model, prompts=(prompt,), images_per_prompt=n, guidance=guidance, steps=steps, eval_seed=seed)
    with counted(_console(), "generating class images") as progress:
        made = make_class_images(folder, config, device=device_kind(device), on_step=progress)
    typer.echo(f'{folder} has {len(made.images)} class images. Use fixed={{"prior_images": "{folder}", "prior_prompt": "{prompt}"}}.')


@app.command()
def check(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT_DIR", help="A subject's folder.", show_default=False)],
    model: Annotated[str, typer.Option(help="The model whose tokenizer and resolution count.")] = "embedded:base",
) -> None:
    """Say all that is wrong or doubtful about a subject at once. The exit code is 0 if it can be used."""
    from trainables.checkup import check_subject

    found = check_subject(subject, model)
    for kind, lines in (("error", found.problems), ("warning", found.warnings)):
        for line in lines:
            typer.echo(f"{kind}: {' '.join(line.split())}")
    read = found.subject
    counts = f"{len(read.train)} images to train on, {len(read.heldout)} held out, captions {', '.join(read.caption_versions)}"
    usable = "cannot be used as it is" if found.problems else "can be used"
    typer.echo(f"{subject} {usable}: {counts}; {len(found.problems)} errors, {len(found.warnings)} warnings.")
    if found.problems:
        raise typer.Exit(MENDABLE)


adapter_commands.register(app)


def main(arguments: list[str] | None = None) -> int:
    """The exit code. Every error of ours, and of the command line itself, is one line on stderr."""
    try:
        result = app(arguments, standalone_mode=False, prog_name="sweep")
        return result if isinstance(result, int) else 0
    except SweepError as error:
        return _say_error(str(error), MENDABLE)
    except PermissionError as error:
        return _say_error(f"Files must be readable, but {error.filename} is not: {error.strerror}. Change its permissions.", MENDABLE)
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _say_error("interrupted", INTERRUPTED_CODE)
    except _UsageError as error:
        said = error.format_message().rstrip(".")
        way_out = f"{said}. Use --help to see what there is." if said else "A command is missing. Use e.g. launch STUDY.py."
        return _say_error(way_out, MENDABLE)


def _load(study_file: Path, sets: list[str] | None, shorthands: dict[str, Any]) -> Study:
    from sweep.study import load_study
    from sweep.study_file import parse_assignments

    overrides = parse_assignments(sets or ())
    overrides |= {key: str(value) for key, value in shorthands.items() if value is not None}
    return load_study(study_file, overrides)


def _exit_code(driver: Driver) -> int:
    from sweep.messages import INTERRUPTED

    if driver.stopping == INTERRUPTED:
        return INTERRUPTED_CODE
    return 0 if driver.best is not None else FAILED


def _print_end(console: Any, driver: Driver, snapshot: Any, storage: Path, *, first_scored_s: float | None) -> None:
    from sweep.folder import StudyFolder
    from sweep.progress import print_summary

    print_summary(console, driver, snapshot, StudyFolder(storage, driver.study.name), first_scored_s=first_scored_s)


def _console() -> Any:
    from rich.console import Console

    # Into a file or a pipe rich would write 80 columns, too few for a table of configurations.
    return Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_A_FILE)


def _say_error(text: str, code: int) -> int:
    typer.echo(f"error: {' '.join(text.split())}", err=True)
    return code
