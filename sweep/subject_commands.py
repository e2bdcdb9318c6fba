"""The commands about subjects: prepare, caption, class-images, check. Each parses, calls and prints; imports nothing heavy until it must."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sweep.options import DEFAULT_STORAGE, MENDABLE, Device, console

_FIRST_STUDY = Path("search_spaces") / "captions.py"


def prepare(
    raw_dir: Annotated[
        Path, typer.Argument(metavar="RAW_DIR", help="Photographs; only read.", show_default=False)
    ],
    subject_dir: Annotated[
        Path,
        typer.Argument(
            metavar="SUBJECT_DIR", help="New or empty; the subject.", show_default=False
        ),
    ],
    trigger: Annotated[
        str,
        typer.Option(help="The word that will call the subject, e.g. J3NN13.", show_default=False),
    ],
    class_word: Annotated[str, typer.Option(help="What the subject is, e.g. woman.")] = "",
    name: Annotated[str, typer.Option(help="The subject's name; its folder's otherwise.")] = "",
    size: Annotated[
        int,
        typer.Option(
            help="Pixels on a side of the squares that are written; with buckets, the square of "
            "the same area."
        ),
    ] = 512,
    fit: Annotated[
        str,
        typer.Option(
            help="crop: the square in the middle. pad: all of it, over white. buckets: keep the "
            "aspect ratio."
        ),
    ] = "crop",
    heldout: Annotated[
        float, typer.Option(help="Share that is not trained on; similar photographs stay together.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the choice of what is held out.")] = 0,
    drop: Annotated[
        str,
        typer.Option(
            help="All that drops a photograph; the rest flags it: tiny, enlarged, cropped, "
            "blurred, "
            "dark, bright, duplicate, similar, uncaptioned, "
            "no-face, many-faces."
        ),
    ] = "tiny,duplicate",
    least_sharpness: Annotated[
        float, typer.Option(help="Below it, a photograph is blurred; see report.csv.")
    ] = 30.0,
    faces: Annotated[
        bool, typer.Option("--faces", help="Count faces, if OpenCV is there.")
    ] = False,
    derive: Annotated[
        bool, typer.Option("--derive/--no-derive", help="Make v3 and v4 of tags.")
    ] = True,
) -> None:
    """Make a subject of raw photographs: upright, of one size, without duplicates, with a held-out split and a report to review.

    `sweep prepare raw photos --trigger J3NN13 --class-word woman`"""
    from sweep.progress import counted
    from trainables.candidates import Preparation
    from trainables.prepare import prepare_subject

    reasons = tuple(word.strip() for word in drop.split(",") if word.strip())
    how = Preparation(
        trigger=trigger, class_word=class_word, name=name, size_pixels=size, fit=fit, heldout=heldout, seed=seed, drop=reasons,
        least_sharpness=least_sharpness, faces=faces, derive=derive,
    )  # fmt: skip
    with counted(console(), "reading photographs") as progress:
        prepared = prepare_subject(raw_dir, subject_dir, how, progress=progress)
    for note in prepared.notes:
        typer.echo(f"note: {note}")
    n = len(prepared.candidates)
    typer.echo(f"Of {n} photographs {prepared.n('dropped')} are dropped and {prepared.n('flagged')} flagged; {prepared.root / 'report.html'} says why.")
    typer.echo(f"{prepared.root} has {prepared.n_split('train')} images to train on and {prepared.n_split('heldout')} held out.")
    typer.echo("Next:")
    for command in _next_commands(subject_dir, prepared.caption_versions):
        typer.echo(f"    {command}")


def _next_commands(subject_dir: Path, versions: Sequence[str]) -> tuple[str, str]:
    """How the subject is checked, and how it is swept: with Stable Diffusion 1.5 if that is there,
    else with the model that ships with this project."""
    from trainables.hub import is_cached
    from trainables.model_sources import SHORT_NAMES

    model = "sd15" if is_cached(SHORT_NAMES["sd15"]) else "embedded:base"
    repository = Path(__file__).parents[1]
    study = _FIRST_STUDY if _FIRST_STUDY.is_file() else repository / _FIRST_STUDY
    name = _free_name(subject_dir.resolve().name)
    subject = shlex.quote(str(subject_dir))
    sets = f"--set {shlex.quote(f'subject={subject_dir}')} --set model={model}"
    plain = [version for version in versions if re.fullmatch(r"[\w.-]+", version)]
    sets += f" --set space.caption={','.join(plain)}"
    return (
        f"python -m sweep check {subject} --model {model}",
        f"python -m sweep launch {shlex.quote(str(study))} --name {name} {sets}",
    )


def _free_name(folder: str) -> str:
    """A study's name after the subject's folder, or `mine`, that no study here has."""
    name = folder if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", folder) else "mine"
    numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, 1000))
    return next((one for one in numbered if not (DEFAULT_STORAGE / one).exists()), name)


def caption(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT_DIR", help="A subject whose v2 are tags.", show_default=False)],
    derive: Annotated[str, typer.Option(help="The versions to make: v3, fewer tags; v4, a sentence.")] = "v3,v4",
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite versions that are there.")] = False,
) -> None:
    """Write caption versions, made of the tags of v2, into a subject's metadata, to be read and corrected: `sweep caption photos --derive v3,v4`."""
    from trainables.captions import caption_subject

    versions = [word.strip() for word in derive.split(",") if word.strip()]
    n = caption_subject(subject, versions, replace=replace)
    typer.echo(f"{n} images of {subject} have {' and '.join(versions)} now.")


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
    """Generate class images with a base model alone, for `prior_images`: `sweep class-images sd15 women --prompt "a woman" --n 100`."""
    import transformers

    from sweep.device_facts import device_kind
    from sweep.progress import counted
    from trainables.class_images import make_class_images
    from trainables.config import EvalConfig

    transformers.utils.logging.disable_progress_bar()
    config = EvalConfig(infer_model=model, prompts=(prompt,), images_per_prompt=n, guidance=guidance, steps=steps, eval_seed=seed)
    with counted(console(), "generating class images") as progress:
        made = make_class_images(folder, config, device=device_kind(device), on_step=progress)
    typer.echo(f'{folder} has {len(made.images)} class images. Use fixed={{"prior_images": "{folder}", "prior_prompt": "{prompt}"}}.')


def check(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT_DIR", help="A subject's folder.", show_default=False)],
    model: Annotated[str, typer.Option(help="The model whose tokenizer and resolution count.")] = "embedded:base",
) -> None:
    """Say all that is wrong or doubtful about a subject at once: `sweep check photos --model sd15`. The exit code is 0 if it can be used."""
    from trainables.checkup import check_subject

    found = check_subject(subject, model)
    for kind, lines in (("error", found.problems), ("warning", found.warnings)):
        for line in lines:
            typer.echo(f"{kind}: {' '.join(line.split())}")
    read = found.subject
    for line in found.notes:
        typer.echo(f"note: {line}")
    counts = f"{len(read.train)} images to train on, {len(read.heldout)} held out, captions {', '.join(read.caption_versions)}"
    usable = "cannot be used as it is" if found.problems else "can be used"
    typer.echo(f"{subject} {usable}: {counts}; {len(found.problems)} errors, {len(found.warnings)} warnings.")
    if found.problems:
        raise typer.Exit(MENDABLE)
