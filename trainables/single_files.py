"""A base model in one .safetensors file, in Stable Diffusion's original layout, as A1111 and ComfyUI read it.

Such a file holds weights alone. Their sizes and the noise schedule are Stable Diffusion 1.5's (sd1_config/), unless a folder beside
the file says otherwise; the tokenizer, 1.5 MB that every Stable Diffusion 1.x shares, comes from there or from the hub's cache:

    dreamshaper_8.safetensors
    dreamshaper_8/              optional, in diffusers' layout: any of unet/, vae/, text_encoder/, scheduler/ (JSON) and tokenizer/
    tokenizer/                  optional, for every file here

Reads headers; no torch. models.py loads what is found here, through diffusers' own converters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from trainables.errors import ModelError, NotDownloadedError
from trainables.hub import snapshot
from trainables.model_folders import (
    PICKLES,
    PartFiles,
    no_vae,
    other_family,
    read_config,
    require_class,
    require_scheduler,
    require_tokenizer,
    tensor_shapes,
)

SD1_CONFIG = Path(__file__).parent / "sd1_config"
KEYS = {"unet": "model.diffusion_model.", "text_encoder": "cond_stage_model.", "vae": "first_stage_model."}
"""What the names of a part's weights begin with."""

TOKENIZER_FILES = ("merges.txt", "vocab.json")
_TOKENIZERS = {  # Web UIs and diffusers leave the same two files in one of these.
    "openai/clip-vit-large-patch14": "",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "tokenizer",
    "SG161222/Realistic_Vision_V5.1_noVAE": "tokenizer",
}
_CONV_IN, _CONV_OUT = "model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.out.2.weight"
_ATTENDED = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_CLIP_PREFIX = "cond_stage_model.transformer."
_CLIP = f"{_CLIP_PREFIX}text_model.embeddings.position_embedding.weight"
_OPEN_CLIP = "cond_stage_model.model.token_embedding.weight"
_OTHERS = {  # by what a name begins with; the first that occurs tells
    "conditioner.": "is an SDXL checkpoint",
    "model.diffusion_model.joint_blocks.": "is a Stable Diffusion 3 checkpoint",
    "joint_blocks.": "is a Stable Diffusion 3 checkpoint",
    "model.diffusion_model.double_blocks.": "is a Flux checkpoint",
    "double_blocks.": "is a Flux checkpoint",
    "control_model.": "is a ControlNet",
    "lora_": "is a LoRA file, not a base model",
    "base_model.model.": "is a LoRA file, not a base model",
    "model.diffusion_model.label_emb.": "has a UNet with further conditioning (an SDXL, an upscaler or alike)",
}


def usual_name(name: str) -> str:
    """A weight's name as Stable Diffusion 1.x has it: files of an older transformers leave out the
    text encoder's `text_model.`."""
    for part in ("embeddings.", "encoder.", "final_layer_norm."):
        if name.startswith(_CLIP_PREFIX + part):
            return name.replace(_CLIP_PREFIX, f"{_CLIP_PREFIX}text_model.", 1)
    return name


def looks_like_a_file(name: str) -> bool:
    """Whether a model's name can only be that of a file of weights."""
    return Path(name).suffix.lower() in (".safetensors", *PICKLES)


def single_file_parts(name: str, file: Path, *, download: bool = True) -> dict[str, PartFiles]:
    """The parts of the base model in a file, but for its VAE. `download`: its tokenizer, too, where the
    hub cache has none.

    Raises: ModelError if it is damaged or of another family, or if something is missing that the file cannot hold."""
    shapes = _shapes(file)
    _refuse_other_families(name, shapes)
    if _OPEN_CLIP in shapes or "v_pred" in shapes:
        _require_own_configuration(name, file, "is a Stable Diffusion 2 checkpoint" if _OPEN_CLIP in shapes else "predicts velocity")
    parts = {part: PartFiles(_folder(file, part), file if part in KEYS else None) for part in ("unet", "text_encoder", "scheduler")}
    for part in ("unet", "text_encoder"):
        require_class(parts[part].folder, part)
    require_scheduler(name, parts["scheduler"].folder)
    _require_sizes(name, file, shapes)
    return {**parts, "tokenizer": _tokenizer(name, file, download=download)}


def single_file_vae(name: str, file: Path) -> PartFiles:
    """The VAE in a checkpoint, or in a file that holds nothing else.

    Raises: ModelError if there is none, or if it is damaged."""
    shapes = _shapes(file)
    conv_in = next((shapes[key] for key in (KEYS["vae"] + "decoder.conv_in.weight", "decoder.conv_in.weight") if key in shapes), None)
    if conv_in is None:
        raise no_vae(name, "holds none")
    part = PartFiles(_folder(file, "vae"), file)
    require_class(part.folder, "vae")
    if conv_in[1] != (wanted := read_config(part.folder).get("latent_channels", 4)):
        raise ModelError(
            f"A VAE must read {wanted} latent channels here, but that in {name} reads {conv_in[1]}. Name another with `--set vae=NAME`."
        )
    return part


def _shapes(file: Path) -> Mapping[str, tuple[int, ...]]:
    if file.suffix.lower() != ".safetensors":
        raise ModelError(
            f"Only .safetensors files are read, because loading a pickle runs the code inside, but {file} is "
            f"{file.suffix or 'of no kind'}. Get the model as .safetensors, or convert it in your web UI."
        )
    if not file.is_file():
        raise ModelError(f"A model must be there to be read, but there is no file {file}. Check the spelling.")
    return {usual_name(name): shape for name, shape in tensor_shapes(file).items()}


def _refuse_other_families(name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for beginning, what in _OTHERS.items():
        if any(key.startswith(beginning) for key in shapes):
            raise other_family(name, what)
    if _CONV_IN not in shapes or _CONV_OUT not in shapes:
        what = "is a VAE, not a base model" if any("decoder.conv_in" in key for key in shapes) else "holds no UNet in the original layout"
        raise other_family(name, what)
    n_in, n_out = shapes[_CONV_IN][1], shapes[_CONV_OUT][0]
    if n_in != n_out:
        kind = {9: "inpainting", 8: "instruct-pix2pix", 7: "an upscaler", 5: "depth-guided"}.get(n_in, "of another family")
        raise other_family(name, f"has a UNet with {n_in} channels in and {n_out} out ({kind})")
    if _CLIP not in shapes and _OPEN_CLIP not in shapes:
        raise ModelError(
            f"A model needs its text encoder, but {name} holds no {KEYS['text_encoder']}* weights. Use a file that holds all of a model."
        )


def _require_own_configuration(name: str, file: Path, what: str) -> None:
    wanted = ("unet", "text_encoder", "tokenizer", "scheduler")
    missing = [part for part in wanted if not (_beside(file) / part).is_dir()]
    if missing:
        raise ModelError(
            f"{name} {what}, whose sizes and noise schedule a file does not tell, and there is no "
            f"{', no '.join(f'{part}/' for part in missing)} in {_beside(file)}. "
            "Put those folders of the model's diffusers layout there (JSON and text files only)."
        )


def _require_sizes(name: str, file: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Told before a device is asked for anything; that every other weight fits is seen when it is loaded."""
    config = read_config(_folder(file, "unet"))
    for key, axis, what, wanted in (
        (_CONV_IN, 0, "channels in its first layer", (config.get("block_out_channels") or [None])[0]),
        (_ATTENDED, 1, "numbers per token", config.get("cross_attention_dim")),
    ):
        if key in shapes and shapes[key][axis] != wanted:
            raise ModelError(
                f"A UNet must have the sizes of its configuration, but {name}'s has {shapes[key][axis]} {what} and {_folder(file, 'unet')} "
                f"gives {wanted}. Put the model's own unet/, vae/, text_encoder/ (config.json) into {_beside(file)}."
            )


def _tokenizer(name: str, file: Path, *, download: bool) -> PartFiles:
    for folder in (_beside(file) / "tokenizer", file.parent / "tokenizer"):
        if folder.is_dir():
            require_tokenizer(folder)
            return PartFiles(folder)
    for local_files_only in (True, False) if download else (True,):
        for repository, folder in _TOKENIZERS.items():
            wanted = [str(PurePosixPath(folder, file_name)) for file_name in TOKENIZER_FILES]
            try:
                found = snapshot(repository, wanted, local_files_only=local_files_only)
            except ModelError:
                continue
            if all((found / file_name).exists() for file_name in wanted):
                return PartFiles(found / folder, names=TOKENIZER_FILES)
    if not download:
        raise NotDownloadedError(
            f"{name} needs the tokenizer of Stable Diffusion 1.x, which is not downloaded yet. "
            f"A launch downloads it; beforehand: `hf download {next(iter(_TOKENIZERS))} {' '.join(TOKENIZER_FILES)}`."
        )
    raise ModelError(
        f"{name} needs the tokenizer of Stable Diffusion 1.x, which a single file does not hold, and neither the hub cache nor the hub has "
        f"it. Put a tokenizer/ with {' and '.join(TOKENIZER_FILES)} into {file.parent}, "
        f"or download {next(iter(_TOKENIZERS))} once while online."
    )


def _folder(file: Path, part: str) -> Path:
    return own if (own := _beside(file) / part).is_dir() else SD1_CONFIG / part


def _beside(file: Path) -> Path:
    return file.with_suffix("")
