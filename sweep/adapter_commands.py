"""The commands that use adapters: export, generate, score. They parse, call and print; nothing heavy is imported until one is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sweep.errors import ConfigError
from sweep.options import DEFAULT_STORAGE, Device, Storage, StudyName
from trainables.config import DENOISERS

PRINTED = ("lpips", "lpips_nearest", "lpips_heldout", "fid", "kid", "fid_heldout", "heldout_loss")

Best = Annotated[bool, typer.Option("--best", help="The adapter of the best trial.")]
Trial = Annotated[str | None, typer.Option("--trial", metavar="ID", help="That of this trial, e.g. t0003.")]
Epoch = Annotated[int | None, typer.Option("--epoch", min=1, help="Its epoch; the trial's best one otherwise.")]
Replace = Annotated[bool, typer.Option("--replace", help="Overwrite what is there.")]
Trigger = Annotated[str | None, typer.Option(help="The adapter's trigger word; the subject's otherwise.")]


def export(
    name: StudyName,
    best: Best = False,
    trial: Trial = None,
    epoch: Epoch = None,
    file_format: Annotated[str, typer.Option("--format", help="kohya (A1111, ComfyUI), diffusers, or peft (a folder).")] = "kohya",
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to; named after the adapter otherwise.")] = None,
    fuse: Annotated[bool, typer.Option("--fuse", help="A whole checkpoint instead: the base model with the adapter in its weights.")] = False,
    model: Annotated[str | None, typer.Option(help="With --fuse: another base model than the one that scored it.")] = None,
    replace: Replace = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Write an adapter as a file that A1111, ComfyUI, diffusers or peft load.

    `sweep export captions --best -o jenny.safetensors`"""
    _require_one(best, trial)
    if model and not fuse:
        raise ConfigError(f"`--model` names the base that an adapter is fused into, but {model} is given without --fuse. Add it, or leave --model out.")
    study = _study(name, storage)
    chosen = study.choose(trial, epoch)
    _quiet()
    from sweep.exporting import default_path, export_adapter, export_checkpoint, left_out_of

    path = output or default_path(chosen, file_format, model=model, fuse=fuse)
    if fuse:
        export_checkpoint(study, chosen, path, model=model, replace=replace)
        typer.echo(f"{path} is {model or chosen.evaluation.infer_model} with {chosen.name} in its weights.")
    else:
        export_adapter(study, chosen, path, file_format=file_format, replace=replace)
        typer.echo(f"{path} is {_described(chosen)}, in {file_format}'s format.")
        for line in left_out_of(study, chosen):
            typer.echo(f"note: {line}", err=True)


def generate(
    prompt: Annotated[list[str], typer.Option("--prompt", help="`{trigger}` is filled in. Repeatable.", show_default=False)],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A study's name, or its folder.", show_default=False)] = None,
    best: Best = False,
    trial: Trial = None,
    epoch: Epoch = None,
    adapter: Annotated[Path | None, typer.Option(metavar="FILE", help="Instead of a study's: a LoRA file of one's own.")] = None,
    model: Annotated[str | None, typer.Option(help="The base model; of a study, the one that scored the adapter otherwise.")] = None,
    trigger: Trigger = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt. What is not given is as the adapter was scored.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Of the prompt.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of the denoising.")] = None,
    denoiser: Annotated[str | None, typer.Option(help=", ".join(DENOISERS) + ".")] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**62,  # torch's are of 63 bits, and the next ones count on
            help="Of the first picture of each prompt; the next ones count on.",
        ),
    ] = 0,
    n: Annotated[int, typer.Option("--n", min=1, help="Pictures of each prompt.")] = 4,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where to; files there stay.")] = Path("generated"),
    storage: Storage = DEFAULT_STORAGE,
    device: Device = "auto",
) -> None:
    """Make pictures with an adapter, their settings inside the PNG as A1111 writes them.

    `sweep generate captions --best --prompt "{trigger}, smile, close-up" --n 8`"""
    from trainables.config import EvalConfig

    given = {"negative_prompt": negative, "guidance": guidance, "steps": steps, "denoiser": denoiser}
    asked = {"prompts": tuple(prompt), "images_per_prompt": n, **{key: value for key, value in given.items() if value is not None}}
    if adapter is not None:
        _require_alone(name, best, trial, epoch)
        if model is None:
            raise ConfigError(f"A LoRA file does not hold its base model, but {adapter} is given without one. Use --model, e.g. --model sd15.")
        config = EvalConfig(infer_model=model, **asked)
        _quiet()
        from sweep.picture_making import of_file, require_trigger
        from trainables.foreign import find_foreign

        drawn, word = of_file(find_foreign(adapter)), require_trigger(prompt, trigger)
    else:
        if name is None:
            raise ConfigError("`generate` needs an adapter, but neither a study nor --adapter is named. Use e.g. generate captions --best.")
        _require_one(best, trial)
        study = _study(name, storage)
        chosen = study.choose(trial, epoch)
        config = _changed(chosen, asked, model)
        word = study.trigger if trigger is None else trigger
        _quiet()
        from sweep.picture_making import of_study

        drawn = of_study(chosen)
    from sweep.device_facts import device_kind
    from sweep.picture_making import make_pictures

    with _counted("denoising") as progress:
        paths = make_pictures(drawn, config, output, trigger=word, seed=seed, device=device_kind(device), on_step=progress)
    shown = f"{paths[0]} to {paths[-1].name}" if len(paths) > 1 else str(paths[0])
    typer.echo(f"{shown} are {drawn.name} on {config.infer_model}." if len(paths) > 1 else f"{shown} is {drawn.name} on {config.infer_model}.")


def score(
    adapter: Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA .safetensors of kohya, diffusers or peft, or peft's folder.", show_default=False)],
    subject: Annotated[str | None, typer.Option(metavar="DIR", help="The subject; a study's own otherwise.")] = None,
    model: Annotated[str | None, typer.Option(help="The base model; a study's own otherwise.")] = None,
    study: Annotated[str | None, typer.Option(metavar="NAME", help="Under this study's protocol, and into its records.")] = None,
    trial: Annotated[str | None, typer.Option(metavar="ID", help="With --study: whose guidance, model ... to use; the best trial's otherwise.")] = None,
    trigger: Trigger = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Without --study: an evaluation value. Repeatable.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    device: Device = "auto",
) -> None:
    """Score a LoRA file that was not trained here: is what I already have better? With --study, as a row beside its trials.

    `sweep score old.safetensors --study captions --trigger jenny`"""
    _require_scorable(subject, model, study, trial, sets)
    recorded = None if study is None else _study(study, storage)
    _quiet()
    from sweep import foreign_scoring as scoring
    from sweep.study_file import parse_assignments
    from trainables.foreign import find_foreign

    foreign = find_foreign(adapter)
    if recorded is None:
        protocol = scoring.default_protocol(str(subject), str(model), parse_assignments(sets or ()))
    else:
        scoring.require_same_subject(recorded, subject)
        protocol = scoring.protocol_of(recorded, trial)
        scoring.require_same_model(protocol, model)
    protocol = scoring.with_trigger(protocol, trigger)
    with _counted("denoising") as progress:
        scored = scoring.score_file(foreign, protocol, device=device, on_step=progress)
    if recorded is not None:
        scoring.record_file(recorded, scored)
    for line in _score_lines(scored.row, recorded):
        typer.echo(line)


def _require_one(best: bool, trial: str | None) -> None:
    if best == (trial is not None):
        state = f"both --best and --trial {trial} are given" if best else "neither is given"
        raise ConfigError(f"An adapter of a study is named by either --best or --trial ID, but {state}. Use e.g. --best.")


def _require_alone(name: str | None, best: bool, trial: str | None, epoch: int | None) -> None:
    if name is not None or best or trial is not None or epoch is not None:
        other = name or ("--best" if best else f"--trial {trial}" if trial else f"--epoch {epoch}")
        raise ConfigError(f"Pictures are made with one adapter, but --adapter and {other} are given. Use either a study's or a file.")


def _require_scorable(subject: str | None, model: str | None, study: str | None, trial: str | None, sets: Iterable[str] | None) -> None:
    if study is None:
        lacking = [option for option, value in (("--subject DIR", subject), ("--model NAME", model)) if value is None]
        if lacking:
            raise ConfigError(f"A file is scored for a subject on a base model, but {' and '.join(lacking)} is missing. Give it, or --study NAME.")
        if trial is not None:
            raise ConfigError(f"`--trial` is one of a study, but {trial!r} is given without --study. Add it, or leave --trial out.")
    elif sets:
        raise ConfigError(
            f"A row beside a study's has the study's protocol, but --set {next(iter(sets))} would change it. Leave it out, or use --trial ID for that "
            "trial's values."
        )


def _study(name: str, storage: Path) -> Any:
    from sweep.folder import find_study_folder
    from sweep.recorded_study import RecordedStudy

    return RecordedStudy(find_study_folder(name, storage))


def _changed(chosen: Any, asked: Mapping[str, Any], model: str | None) -> Any:
    """The evaluation of an adapter with what is asked for, and the places of its models."""
    from dataclasses import replace

    # Another model comes with its own VAE.
    name, vae = chosen.scored_on if model is None else (model, None)
    return replace(chosen.evaluation, **asked, infer_model=name, infer_vae=vae)


def _described(chosen: Any) -> str:
    objective = chosen.scores and chosen.scores["objective"]
    scored = "" if objective is None else f", objective {objective:.4f}"
    return f"trial {chosen.trial['trial']} of {chosen.study} at epoch {chosen.epoch}{scored}"


def _score_lines(row: Mapping[str, Any], study: Any) -> list[str]:
    """The file's scores, and what the study's best trial and its base model have under their own protocols."""
    lines = [_score_line(row["adapter_file"], row)]
    if study is not None:
        best = study.best_trial()
        chosen = study.choose(best["trial"]) if best else None
        lines += [_score_line(f"{best['trial']}, the best trial", chosen.scores)] if chosen and chosen.scores else []
        controls = [r for r in study.evaluations.values() if r["training_key"] == "none" and r["configuration"] == _plain(row["configuration"])]
        lines += [_score_line("no adapter", controls[0])] if controls else []
    networks = f"LPIPS over {row['perceptual_backbone']}, FID and KID over {row['pooled_backbone']}"
    lines.append(f"{row['n_images']} pictures against {row['n_references']} images; {networks}; lower is better.")
    if study is not None:
        from sweep.record_files import in_commands

        lines.append(f"It is in the records of {study.name} as a row without a rank: `python -m analysis tables {in_commands(study.folder.root)}`")
    return lines


def _score_line(name: str, row: Mapping[str, Any]) -> str:
    values = [f"{metric} {row[metric]:.4g}" for metric in PRINTED if row.get(metric) is not None]
    objective = "no objective" if row.get("objective") is None else f"objective {row['objective']:.4f}"
    return f"{name}: {objective}; {', '.join(values)}"


def _plain(configuration: Any) -> Any:
    """As records give it back: JSON knows no tuples."""
    import json

    return json.loads(json.dumps(configuration))


def _counted(text: str) -> Any:
    from rich.console import Console

    from sweep.progress import counted

    return counted(Console(stderr=True), text)


def _quiet() -> None:
    """Loading weights is not worth a bar of its own."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
