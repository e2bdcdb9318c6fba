"""TrainConfig and EvalConfig: what changes weights, and what changes pictures; and the keys made from them.

Not here: the number of epochs (a length, not a part of a training's identity), and anything of a study.
Imports no torch: planning needs keys long before it needs a device."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from trainables.errors import ConfigError

NUMERICS_VERSION = 1
"""Raise it whenever the same TrainConfig or EvalConfig gives other numbers: old keys then no longer match."""

TARGETS = ("attention", "attention+ff", "attention+ff+conv")
"""Which of the UNet's layers get an update: attention's projections, also the feed-forward layers, also the convolutions. Each holds the
ones before it; the words are explained in lora.py."""

LR_SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")
LENGTH_DEPENDENT_SCHEDULES = ("linear", "cosine", "cosine_with_restarts", "polynomial")
POLYNOMIAL_END = 1e-7  # the learning rate at which diffusers' polynomial schedule ends
OPTIMIZERS = ("adamw", "prodigy")
DENOISERS = ("ddim", "dpm++", "dpm++_karras", "euler", "euler_a", "deis", "unipc", "pndm")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt template. `{trigger}` stands for the subject's trigger word.

    `seen` is what a study declared in earlier versions. It stays in the keys and labels nothing: seen_prompts.py asks the captions."""

    text: str
    seen: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ConfigError(f"A prompt must be text, but one is {self.text!r}. Use e.g. '{{trigger}}, close-up'.")
        if not self.text.strip():
            raise ConfigError("A prompt's text must not be empty, but one is ''. Use e.g. '{trigger}, close-up'.")
        if not isinstance(self.seen, bool):
            raise ConfigError(f"`seen` of a prompt must be True or False, but it is {self.seen!r}.")

    def filled(self, trigger: str) -> str:
        """The prompt for one subject; without a trigger word, what is left of it."""
        return self.text.replace("{trigger}", trigger).strip(" ,")


DEFAULT_PROMPTS = (
    Prompt(text="{trigger}, smile, close-up, straight-look"),
    Prompt(text="{trigger}, neutral, upper body, wall background"),
    Prompt(text="{trigger}, wink, close-up, room background"),
    Prompt(text="HD quality, RAW photo, good lighting, {trigger}, surprised, gym background", seen=False),
    Prompt(text="a photo of {trigger} outside on a bright day", seen=False),
)


def _later(default: Any) -> Any:
    """A field that came after keys were first made: left out of the key at its default, which therefore never changes."""
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that changes an adapter's weights, except how long it trains. Frozen, hashable, keyed."""

    train_model: str = "embedded:base"
    train_vae: str | None = None  # None: the model's own
    subject: str = "embedded:subject"
    caption: str = "v2"
    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.1
    targets: str = "attention"
    learning_rate: float = 1e-3
    lr_schedule: str = "constant"
    lr_warmup_steps: int = 0  # none under the constant schedule, as in diffusers: 0 then, whatever is asked for
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    batch: int = 2
    caption_dropout: float = 0.0
    flip: bool = False
    min_snr_gamma: float | None = None
    noise_offset: float = 0.0
    train_seed: int = 0
    dtype: str = "float32"
    optimizer: str = _later("adamw")  # prodigy finds its step size itself: learning_rate multiplies it, and is 1 then
    lr_cycles: int = _later(1)  # of cosine_with_restarts; 1 under other schedules
    lr_power: float = _later(1.0)  # of polynomial; 1 under other schedules
    shuffle_tags: bool = _later(False)
    keep_tags: int = _later(1)  # first tags that stay in place and are never dropped; 1 where tags are neither shuffled nor dropped
    tag_dropout: float = _later(0.0)
    mask_weight: float = _later(1.0)  # what an error under an image's mask counts, relative to the rest
    prior_images: str | None = _later(None)  # a folder of images of the class, for prior preservation
    prior_prompt: str = _later("")  # what they show; "" without them
    prior_weight: float = _later(1.0)
    train_text_encoder: bool = _later(False)  # an update for CLIP's attention, too
    text_encoder_learning_rate: float | None = _later(None)  # None: learning_rate
    schedule_epochs: int | None = _later(None)  # length of the schedules that have one; None: the training's own
    buckets: bool = _later(False)  # images keep their aspect ratio, each batch of one size; False: the square in their middle

    def __post_init__(self) -> None:
        _require_text("train_model", self.train_model, "embedded:base")
        _require_vae("train_vae", self.train_vae)
        _require_text("subject", self.subject, "embedded:subject")
        _require_text("caption", self.caption, "v2")
        _require_integer("rank", self.rank, minimum=1, example=16)
        _require_number("alpha", self.alpha, above=0, example=16)
        _require_number("dropout", self.dropout, minimum=0, below=1, example=0.1)
        _require_choice("targets", self.targets, TARGETS)
        _require_number("learning_rate", self.learning_rate, above=0, example=1e-3)
        _require_choice("lr_schedule", self.lr_schedule, LR_SCHEDULES)
        _require_integer("lr_warmup_steps", self.lr_warmup_steps, minimum=0, example=0)
        _require_number("weight_decay", self.weight_decay, minimum=0, example=0.01)
        _require_number("max_grad_norm", self.max_grad_norm, above=0, example=1.0)
        _require_integer("batch", self.batch, minimum=1, example=2)
        _require_number("caption_dropout", self.caption_dropout, minimum=0, maximum=1, example=0.1)
        _require_boolean("flip", self.flip)
        if self.min_snr_gamma is not None:
            _require_number("min_snr_gamma", self.min_snr_gamma, above=0, example=5.0)
        _require_number("noise_offset", self.noise_offset, minimum=0, example=0.05)
        _require_integer("train_seed", self.train_seed, minimum=0, example=0)
        _require_choice("dtype", self.dtype, DTYPES)
        _require_optimizer(self.optimizer)
        _require_integer("lr_cycles", self.lr_cycles, minimum=1, example=3)
        _require_number("lr_power", self.lr_power, above=0, example=1.0)
        if self.schedule_epochs is not None:
            _require_integer("schedule_epochs", self.schedule_epochs, minimum=1, example=300)
        if self.lr_schedule == "polynomial":
            _require_number("learning_rate", self.learning_rate, above=POLYNOMIAL_END, example=1e-3)
        _require_boolean("shuffle_tags", self.shuffle_tags)
        _require_integer("keep_tags", self.keep_tags, minimum=0, example=1)
        _require_number("tag_dropout", self.tag_dropout, minimum=0, maximum=1, example=0.1)
        _require_number("mask_weight", self.mask_weight, above=0, example=2.0)
        _require_prior(self.prior_images, self.prior_prompt, self.prior_weight)
        _require_boolean("train_text_encoder", self.train_text_encoder)
        if self.text_encoder_learning_rate is not None:
            _require_number("text_encoder_learning_rate", self.text_encoder_learning_rate, above=0, example=1e-4)
        _require_boolean("buckets", self.buckets)
        if self.buckets and self.prior_preservation:
            raise ConfigError(
                "`buckets` gives each batch a size of its own, but `prior_images` adds square class images to every batch. "
                "Leave one of the two out."
            )
        self._forget_what_has_no_effect()
        if self.optimizer == "prodigy" and self.text_encoder_learning_rate is not None:
            raise ConfigError(
                f"`text_encoder_learning_rate` must equal learning_rate under prodigy, which finds one step size for all layers, but they are "
                f"{self.text_encoder_learning_rate!r} and {self.learning_rate!r}. Leave it out, or use optimizer='adamw'."
            )
        _make_floats(self, "alpha", "dropout", "learning_rate", "weight_decay", "max_grad_norm", "caption_dropout", "min_snr_gamma", "noise_offset")
        _make_floats(self, "lr_power", "tag_dropout", "mask_weight", "prior_weight", "text_encoder_learning_rate")

    @property
    def relative_text_rate(self) -> float:
        """The text encoder's learning rate as a multiple of the UNet's."""
        return 1.0 if self.text_encoder_learning_rate is None else self.text_encoder_learning_rate / self.learning_rate

    @property
    def length_dependent(self) -> bool:
        """Whether a training of another length has another learning-rate sequence, so that epochs
        join the key."""
        return self.schedule_has_length and self.schedule_epochs is None

    @property
    def schedule_has_length(self) -> bool:
        """Whether the schedule is laid out over a number of epochs: the training's own, or
        `schedule_epochs`."""
        return self.lr_schedule in LENGTH_DEPENDENT_SCHEDULES

    @property
    def draws_tags(self) -> bool:
        """Whether captions are drawn anew at each step."""
        return self.shuffle_tags or self.tag_dropout > 0

    @property
    def uses_masks(self) -> bool:
        return self.mask_weight != 1

    @property
    def bucketed_subject(self) -> str | None:
        """Whose images set the size of each step; None where all steps have one size."""
        return self.subject if self.buckets else None

    @property
    def prior_preservation(self) -> bool:
        """Whether each step shows as many class images as images of the subject."""
        return self.prior_images is not None

    def _forget_what_has_no_effect(self) -> None:
        # Or equal trainings would have different keys.
        idle = {
            "lr_warmup_steps": (self.lr_schedule == "constant", 0),
            "lr_cycles": (self.lr_schedule != "cosine_with_restarts", 1),
            "lr_power": (self.lr_schedule != "polynomial", 1.0),
            "schedule_epochs": (not self.schedule_has_length, None),
            "keep_tags": (not self.draws_tags, 1),
            "prior_prompt": (not self.prior_preservation, ""),
            "text_encoder_learning_rate": (not self.train_text_encoder or self.text_encoder_learning_rate == self.learning_rate, None),
        }
        for name, (has_none, default) in idle.items():
            if has_none:
                object.__setattr__(self, name, default)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Everything that turns an adapter into one image set. Frozen, hashable, keyed."""

    infer_model: str = "embedded:base"
    infer_vae: str | None = None  # None: the model's own
    guidance: float = 4.0
    steps: int = 20
    denoiser: str = "ddim"
    prompts: tuple[Prompt, ...] = DEFAULT_PROMPTS
    negative_prompt: str = ""
    images_per_prompt: int = 4
    eval_seed: int = 0
    infer_dtype: str = "float32"

    def __post_init__(self) -> None:
        _require_text("infer_model", self.infer_model, "embedded:base")
        _require_number("guidance", self.guidance, minimum=0, example=4.0)
        _require_integer("steps", self.steps, minimum=1, example=20)
        _require_choice("denoiser", self.denoiser, DENOISERS)
        _require_vae("infer_vae", self.infer_vae)
        if not isinstance(self.prompts, (list, tuple)):
            raise ConfigError(f"`prompts` must be a list, but it is {self.prompts!r} alone. Use e.g. ['{{trigger}}, close-up'].")
        if not self.prompts:
            raise ConfigError("`prompts` must name at least one prompt, but it is empty. Use e.g. ['{trigger}, close-up'].")
        # A study writes plain strings, dictionaries (from records) or Prompt: one form inside.
        object.__setattr__(self, "prompts", tuple(_as_prompt(p) for p in self.prompts))
        if not isinstance(self.negative_prompt, str):
            raise ConfigError(f"`negative_prompt` must be text, but it is {self.negative_prompt!r}. Use '' for none.")
        _require_integer("images_per_prompt", self.images_per_prompt, minimum=1, example=4)
        _require_integer("eval_seed", self.eval_seed, minimum=0, example=0)
        _require_choice("infer_dtype", self.infer_dtype, DTYPES)
        _make_floats(self, "guidance")

    @property
    def n_images(self) -> int:
        return len(self.prompts) * self.images_per_prompt


PACK_PARAMETERS = ("train_model", "train_vae", "batch", "targets", "dtype", "optimizer", "prior_preservation", "train_text_encoder", "bucketed_subject")
"""What trainings must have in common to advance together in a pack: fields and properties of TrainConfig."""

TRAIN_PARAMETERS = tuple(f.name for f in fields(TrainConfig))
EVAL_PARAMETERS = tuple(f.name for f in fields(EvalConfig))


def pack_signature(config: TrainConfig) -> tuple:
    """Trainings with equal signatures may share a pack."""
    return tuple(getattr(config, name) for name in PACK_PARAMETERS)


def content_key(*parts: Any) -> str:
    """24 hexadecimal digits that name these JSON-like values, whatever the order of their keys."""
    text = json.dumps(parts, sort_keys=True, default=_jsonable, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def training_key(
    config: TrainConfig, *, model_digest: str, subject_digest: str, prior_digest: str | None = None, epochs: int | None = None
) -> str:
    """The name of a training: its config, the content it reads, and the version of our numbers.

    Names become digests, so that a moved folder is the same content and a changed one is not; `prior_digest` is that of the class
    images, where there are any. `epochs` is needed only where the learning rate depends on the length."""
    later = {f.name for f in fields(config) if f.metadata.get("later") and getattr(config, f.name) == f.default}
    # A schedule's length has one place in the key: the first epochs of a training and a training
    # that ends there are one.
    names = {"train_model", "train_vae", "subject", "prior_images", "schedule_epochs"}
    values = {name: value for name, value in asdict(config).items() if name not in later | names}
    if config.prior_preservation:
        assert prior_digest is not None, "class images are content, so they need their digest"
        values["prior_digest"] = prior_digest
    length = (config.schedule_epochs or epochs) if config.schedule_has_length else None
    if config.length_dependent and epochs is None:
        raise ConfigError(f"lr_schedule={config.lr_schedule!r} depends on the length, so its key needs `epochs`; none is given.")
    return content_key("training", NUMERICS_VERSION, values, model_digest, subject_digest, length)


def evaluation_key(
    config: EvalConfig, *, training: str | None, epoch: int, model_digest: str, reference_digest: str, trigger: str
) -> str:
    """The name of an image set and its values. `training` is a training key, or None for the control without adapter."""
    values = asdict(config)
    for name in ("infer_model", "infer_vae"):
        del values[name]
    adapter = "none" if training is None else f"{training}@{epoch}"
    return content_key("evaluation", NUMERICS_VERSION, values, adapter, model_digest, reference_digest, trigger)


def _jsonable(value: Any) -> Any:
    if hasattr(value, "item"):  # numpy scalars, as samplers return them
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a key")


def _as_prompt(value: Any) -> Prompt:
    if isinstance(value, Prompt):
        return value
    if isinstance(value, str):
        return Prompt(text=value)
    if isinstance(value, dict) and "text" in value and set(value) <= {"text", "seen"}:
        return Prompt(**value)
    raise ConfigError(f"A prompt must be text or Prompt(text=..., seen=...), but `prompts` holds {value!r}.")


def _make_floats(config: TrainConfig | EvalConfig, *names: str) -> None:
    # alpha=16 and alpha=16.0 are one configuration and must have one key.
    for name in names:
        value = getattr(config, name)
        if value is not None:
            object.__setattr__(config, name, float(value))


def _require_text(name: str, value: Any, example: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"`{name}` must be a name or a folder, but it is {value!r}. Use e.g. {example!r}.")


def _require_vae(name: str, value: Any) -> None:
    if value is not None:
        _require_text(name, value, "embedded:base")


def _require_optimizer(value: Any) -> None:
    if isinstance(value, str) and "8bit" in value.lower():
        raise ConfigError(
            f"`optimizer` must be one of {', '.join(OPTIMIZERS)}, but it is {value!r}. Moments in 8 bits save nothing worth having here: "
            "only LoRA weights are trained, and those of Stable Diffusion at rank 32 have 51 MB of moments in all. Use adamw."
        )
    _require_choice("optimizer", value, OPTIMIZERS)


def _require_prior(images: Any, prompt: Any, weight: Any) -> None:
    _require_number("prior_weight", weight, above=0, example=1.0)
    if not isinstance(prompt, str):
        raise ConfigError(f"`prior_prompt` must be text, but it is {prompt!r}. Use e.g. 'a woman'.")
    if images is None and weight != 1:
        raise ConfigError(
            f"`prior_weight` weighs class images, but it is {weight!r} and `prior_images` names none. Set prior_images to a folder of them, "
            "which `python -m sweep class-images` makes, or leave prior_weight out."
        )
    if images is not None:
        _require_text("prior_images", images, "class_images")
        if not prompt.strip():
            raise ConfigError(f"`prior_prompt` must say what the class images in {images} show, but it is {prompt!r}. Use e.g. 'a woman'.")


def _require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"`{name}` must be one of {', '.join(choices)}, but it is {value!r}.")


def _require_boolean(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"`{name}` must be True or False, but it is {value!r}.")


def _require_integer(name: str, value: Any, *, minimum: int, example: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        kind = "a positive integer" if minimum == 1 else f"an integer of at least {minimum}"
        raise ConfigError(f"`{name}` must be {kind}, but it is {value!r}. Use e.g. {example}.")


def _require_number(
    name: str,
    value: Any,
    *,
    example: float,
    minimum: float = -math.inf,
    above: float = -math.inf,
    maximum: float = math.inf,
    below: float = math.inf,
) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if number and minimum <= value <= maximum and above < value < below:
        return
    rules = [
        f"at least {minimum}" if minimum > -math.inf else "",
        f"greater than {above}" if above > -math.inf else "",
        f"at most {maximum}" if maximum < math.inf else "",
        f"less than {below}" if below < math.inf else "",
    ]
    rule = " and ".join(r for r in rules if r)
    raise ConfigError(f"`{name}` must be a number {rule}, but it is {value!r}. Use e.g. {example}.")
