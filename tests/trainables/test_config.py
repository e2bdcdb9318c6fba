"""TrainConfig and EvalConfig: what they refuse, and which values make another key."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trainables.config import (
    EVAL_PARAMETERS,
    LENGTH_DEPENDENT_SCHEDULES,
    LR_SCHEDULES,
    TRAIN_PARAMETERS,
    EvalConfig,
    Prompt,
    TrainConfig,
    content_key,
    evaluation_key,
    training_key,
)
from trainables.errors import ConfigError

# Another legal value for every field; a new field without one fails the tests below.
OTHER_TRAIN_VALUES: dict[str, Any] = {
    "buckets": True,
    "train_model": "sd15",
    "train_vae": "embedded:base",
    "subject": "photos",
    "caption": "v3",
    "rank": 8,
    "alpha": 8,
    "dropout": 0.0,
    "targets": "attention+ff",
    "learning_rate": 5e-4,
    "lr_schedule": "constant_with_warmup",
    "lr_warmup_steps": 10,
    "weight_decay": 0.0,
    "max_grad_norm": 0.5,
    "batch": 4,
    "caption_dropout": 0.1,
    "flip": True,
    "min_snr_gamma": 5.0,
    "noise_offset": 0.05,
    "train_seed": 1,
    "dtype": "bfloat16",
    "train_text_encoder": True,
    "text_encoder_learning_rate": 1e-4,
    "optimizer": "prodigy",
    "lr_cycles": 3,
    "lr_power": 2.0,
    "schedule_epochs": 24,
    "shuffle_tags": True,
    "keep_tags": 0,
    "tag_dropout": 0.1,
    "mask_weight": 2.0,
    "prior_images": "women",
    "prior_prompt": "a woman",
    "prior_weight": 0.5,
}
# What makes a value count that is forgotten otherwise.
GIVEN: dict[str, dict[str, Any]] = {
    "lr_warmup_steps": {"lr_schedule": "constant_with_warmup"},
    "lr_cycles": {"lr_schedule": "cosine_with_restarts"},
    "lr_power": {"lr_schedule": "polynomial"},
    "schedule_epochs": {"lr_schedule": "linear"},
    "keep_tags": {"shuffle_tags": True},
    "prior_images": {"prior_images": "ladies", "prior_prompt": "a lady"},
    "prior_prompt": {"prior_images": "women", "prior_prompt": "a lady"},
    "prior_weight": {"prior_images": "women", "prior_prompt": "a lady"},
    "text_encoder_learning_rate": {"train_text_encoder": True},
}
OTHER_EVAL_VALUES: dict[str, Any] = {
    "infer_model": "embedded:realistic",
    "infer_vae": "embedded:base",
    "guidance": 7.5,
    "steps": 60,
    "denoiser": "euler",
    "infer_dtype": "bfloat16",
    "prompts": ("{trigger}, close-up",),
    "negative_prompt": "asymmetric eyes",
    "images_per_prompt": 8,
    "eval_seed": 1,
}
# These are names of content: the content's digest stands in the key instead.
DIGESTED = ("train_model", "train_vae", "subject", "infer_model", "infer_vae", "prior_images")


def train_key(config: TrainConfig, **changes: Any) -> str:
    given = {"model_digest": "m", "subject_digest": "s", "epochs": 12} | ({"prior_digest": "c"} if config.prior_preservation else {})
    return training_key(config, **(given | changes))


def eval_key(config: EvalConfig, **changes: Any) -> str:
    given = {"training": "t", "epoch": 100, "model_digest": "m", "reference_digest": "r", "trigger": "J3NN13"}
    return evaluation_key(config, **(given | changes))


def test_no_parameter_belongs_to_both_configs() -> None:
    assert not set(TRAIN_PARAMETERS) & set(EVAL_PARAMETERS)


def test_the_number_of_epochs_is_a_parameter_of_neither() -> None:
    assert "epochs" not in TRAIN_PARAMETERS + EVAL_PARAMETERS


@pytest.mark.parametrize(
    "values, message",
    [
        ({"rank": 0}, "`rank` must be a positive integer, but it is 0. Use e.g. 16."),
        ({"rank": -3}, "`rank` .* -3"),
        ({"rank": 2.5}, "`rank` .* 2.5"),
        ({"rank": True}, "`rank` .* True"),
        ({"rank": "16"}, "`rank` .* '16'"),
        ({"alpha": -1}, "`alpha` must be a number greater than 0, but it is -1. Use e.g. 16."),
        ({"alpha": 0}, "`alpha` .* is 0"),
        ({"learning_rate": math.nan}, "`learning_rate` .* nan"),
        ({"learning_rate": math.inf}, "`learning_rate` .* inf"),
        ({"learning_rate": 0.0}, "`learning_rate` .* 0.0"),
        ({"dropout": 1.0}, "`dropout` must be a number at least 0 and less than 1, but it is 1.0"),
        ({"dropout": -0.1}, "`dropout` .* -0.1"),
        ({"caption_dropout": 1.1}, "`caption_dropout` .* 1.1"),
        ({"batch": 0}, "`batch` .* is 0"),
        ({"train_seed": -1}, "`train_seed` must be an integer of at least 0, but it is -1"),
        ({"lr_schedule": "cosin"}, "`lr_schedule` must be one of constant, .*cosine, .*, but it is 'cosin'"),
        ({"targets": "everything"}, "`targets` must be one of attention, .*, but it is 'everything'"),
        ({"train_text_encoder": 1}, "`train_text_encoder` must be True or False, but it is 1"),
        ({"text_encoder_learning_rate": 0}, "`text_encoder_learning_rate` must be a number greater than 0, but it is 0"),
        (
            {"train_text_encoder": True, "text_encoder_learning_rate": 0.1, "learning_rate": 1, "optimizer": "prodigy"},
            "`text_encoder_learning_rate` must equal learning_rate under prodigy, .* 0.1 and 1. Leave it out, or use optimizer='adamw'",
        ),
        ({"dtype": "float16"}, "`dtype` .* 'float16'"),
        ({"flip": 1}, "`flip` must be True or False, but it is 1"),
        ({"caption": ""}, "`caption` .* ''"),
        ({"train_model": None}, "`train_model` .* None"),
        ({"min_snr_gamma": 0}, "`min_snr_gamma` .* is 0"),
        ({"optimizer": "adam"}, "`optimizer` must be one of adamw, prodigy, but it is 'adam'"),
        ({"optimizer": "AdamW8bit"}, "`optimizer` .* 'AdamW8bit'. Moments in 8 bits save nothing .* Use adamw."),
        ({"lr_cycles": 0}, "`lr_cycles` must be a positive integer, but it is 0"),
        ({"lr_power": 0}, "`lr_power` .* is 0"),
        ({"lr_schedule": "polynomial", "learning_rate": 1e-8}, "`learning_rate` .* greater than 1e-07, but it is 1e-08"),
        ({"shuffle_tags": 1}, "`shuffle_tags` must be True or False, but it is 1"),
        ({"keep_tags": -1}, "`keep_tags` .* -1"),
        ({"tag_dropout": 1.5}, "`tag_dropout` .* 1.5"),
        ({"mask_weight": 0}, "`mask_weight` must be a number greater than 0, but it is 0"),
        ({"prior_weight": 0.5}, "`prior_weight` .* is 0.5 and `prior_images` names none. .*class-images.*leave prior_weight out"),
        ({"prior_weight": 0, "prior_images": "women"}, "`prior_weight` .* is 0"),
        ({"prior_images": "women"}, "`prior_prompt` must say what the class images in women show"),
        ({"prior_images": 3, "prior_prompt": "a woman"}, "`prior_images` .* is 3"),
        ({"prior_prompt": 3}, "`prior_prompt` must be text, but it is 3"),
    ],
)
def test_a_train_config_refuses_what_cannot_be_trained(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        TrainConfig(**values)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "values, key",
    [
        ({}, "d541989f2cdc73a12c8a7a6c"),
        (
            {"rank": 4, "alpha": 2, "caption": "v3", "flip": True, "min_snr_gamma": 5, "learning_rate": 5e-4, "train_seed": 3},
            "d0bbf951a82e919ade568252",
        ),
        ({"lr_schedule": "cosine", "lr_warmup_steps": 10}, "877130af60376abdc544765c"),
        ({"lr_schedule": "constant_with_warmup", "lr_warmup_steps": 10, "dtype": "bfloat16"}, "553dee4cd8004d232708a7bd"),
    ],
)
def test_a_training_has_the_key_that_it_had_before_there_were_more_parameters(values: dict[str, Any], key: str) -> None:
    # Made by the first version with keys. If they change, nothing that anybody has trained is found again.
    assert train_key(TrainConfig(**values)) == key


@pytest.mark.parametrize("field", ["lr_warmup_steps", "lr_cycles", "lr_power", "schedule_epochs", "keep_tags", "prior_prompt", "text_encoder_learning_rate"])
def test_what_has_no_effect_is_forgotten_and_makes_no_other_key(field: str) -> None:
    assert TrainConfig(**{field: OTHER_TRAIN_VALUES[field]}) == TrainConfig()


def test_the_first_epochs_of_a_schedule_are_one_training_with_a_training_that_ends_there() -> None:
    whole, part = (
        TrainConfig(lr_schedule="cosine"),
        TrainConfig(lr_schedule="cosine", schedule_epochs=12),
    )
    assert (
        train_key(part, epochs=3)
        == train_key(part, epochs=None)
        == train_key(whole, epochs=12)
        != train_key(whole, epochs=3)
    )
    assert (whole.length_dependent, part.length_dependent, part.schedule_has_length) == (
        True,
        False,
        True,
    )


def test_class_images_are_in_the_key_by_their_content() -> None:
    config = TrainConfig(prior_images="women", prior_prompt="a woman")
    assert train_key(config) == train_key(replace(config, prior_images="moved")) != train_key(config, prior_digest="others")


def test_the_constant_schedule_has_no_warm_up_and_so_one_key() -> None:
    assert TrainConfig(lr_warmup_steps=10) == TrainConfig() and TrainConfig(lr_warmup_steps=10).lr_warmup_steps == 0
    assert TrainConfig(lr_schedule="cosine", lr_warmup_steps=10).lr_warmup_steps == 10


def test_the_text_encoders_learning_rate_is_one_training_where_it_says_nothing_new() -> None:
    assert TrainConfig(text_encoder_learning_rate=1e-4) == TrainConfig()
    both = TrainConfig(train_text_encoder=True)
    assert TrainConfig(train_text_encoder=True, text_encoder_learning_rate=both.learning_rate) == both
    assert (both.relative_text_rate, TrainConfig(train_text_encoder=True, text_encoder_learning_rate=5e-4).relative_text_rate) == (1, 0.5)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"guidance": -1}, "`guidance` must be a number at least 0, but it is -1"),
        ({"guidance": math.nan}, "`guidance` .* nan"),
        ({"steps": 0}, "`steps` .* is 0"),
        ({"denoiser": "ddpm"}, "`denoiser` must be one of ddim, .*'ddpm'"),
        ({"prompts": ()}, "`prompts` must name at least one prompt"),
        ({"prompts": (3,)}, "`prompts` holds 3"),
        ({"prompts": 5}, "`prompts` must be a list, but it is 5 alone"),
        ({"prompts": [{"txt": "a"}]}, "`prompts` holds {'txt': 'a'}"),
        ({"prompts": (" ",)}, "must not be empty"),
        ({"negative_prompt": None}, "`negative_prompt` must be text, but it is None"),
        ({"images_per_prompt": 0}, "`images_per_prompt` .* is 0"),
        ({"eval_seed": -1}, "`eval_seed` .* -1"),
    ],
)
def test_an_eval_config_refuses_what_cannot_be_scored(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvalConfig(**values)


def test_configs_are_frozen_and_hashable() -> None:
    assert len({TrainConfig(), TrainConfig(rank=16), TrainConfig(rank=8)}) == 2
    assert len({EvalConfig(), EvalConfig(guidance=4), EvalConfig(guidance=6)}) == 2
    with pytest.raises(AttributeError):
        TrainConfig().rank = 8  # type: ignore[misc]


@pytest.mark.parametrize("field", TRAIN_PARAMETERS)
def test_every_training_value_is_in_the_training_key(field: str) -> None:
    base = TrainConfig(**GIVEN.get(field, {}))
    changed = train_key(replace(base, **{field: OTHER_TRAIN_VALUES[field]})) != train_key(base)
    assert changed == (field not in DIGESTED)


@pytest.mark.parametrize("field", EVAL_PARAMETERS)
def test_every_evaluation_value_is_in_the_evaluation_key(field: str) -> None:
    changed = eval_key(replace(EvalConfig(), **{field: OTHER_EVAL_VALUES[field]})) != eval_key(EvalConfig())
    assert changed == (field not in DIGESTED)


@pytest.mark.parametrize("digest", ["model_digest", "subject_digest"])
def test_other_content_makes_another_training(digest: str) -> None:
    assert train_key(TrainConfig(), **{digest: "other"}) != train_key(TrainConfig())


@pytest.mark.parametrize(
    "given", [{"training": "u"}, {"training": None}, {"epoch": 33}, {"model_digest": "n"}, {"reference_digest": "q"}, {"trigger": "x"}]
)
def test_other_content_makes_another_image_set(given: dict[str, Any]) -> None:
    assert eval_key(EvalConfig(), **given) != eval_key(EvalConfig())


def test_the_control_is_one_image_set_whatever_the_epoch() -> None:
    assert eval_key(EvalConfig(), training=None, epoch=33) == eval_key(EvalConfig(), training=None, epoch=100)


def test_prompts_that_differ_only_in_being_seen_make_another_image_set() -> None:
    seen, unseen = (EvalConfig(prompts=(Prompt(text="{trigger}", seen=seen),)) for seen in (True, False))
    assert eval_key(seen) != eval_key(unseen)


@pytest.mark.parametrize("field, whole", [("alpha", 16), ("dropout", 0), ("weight_decay", 1), ("max_grad_norm", 1), ("noise_offset", 0)])
def test_a_whole_number_and_its_float_are_one_training(field: str, whole: int) -> None:
    integer, floating = TrainConfig(**{field: whole}), TrainConfig(**{field: float(whole)})
    assert integer == floating and train_key(integer) == train_key(floating)


def test_a_whole_guidance_and_its_float_are_one_image_set() -> None:
    assert eval_key(EvalConfig(guidance=6)) == eval_key(EvalConfig(guidance=6.0))


def test_a_prompt_is_the_same_as_text_as_record_and_as_prompt() -> None:
    configs = [EvalConfig(prompts=prompts) for prompts in (("a",), [Prompt(text="a")], ({"text": "a", "seen": True},))]
    assert len(set(configs)) == 1


@pytest.mark.parametrize("lr_schedule", [name for name in LR_SCHEDULES if name not in LENGTH_DEPENDENT_SCHEDULES])
def test_epochs_are_not_in_the_key_of_a_schedule_that_ignores_the_length(lr_schedule: str) -> None:
    config = TrainConfig(lr_schedule=lr_schedule)
    assert train_key(config, epochs=None) == train_key(config, epochs=100) == train_key(config, epochs=300)


@pytest.mark.parametrize("lr_schedule", LENGTH_DEPENDENT_SCHEDULES)
def test_epochs_are_in_the_key_of_a_schedule_that_depends_on_the_length(lr_schedule: str) -> None:
    config = TrainConfig(lr_schedule=lr_schedule)
    assert train_key(config, epochs=100) != train_key(config, epochs=300)
    with pytest.raises(ConfigError, match=f"lr_schedule='{lr_schedule}' depends on the length"):
        train_key(config, epochs=None)


def test_a_key_ignores_the_order_of_names_and_the_type_of_a_samplers_numbers() -> None:
    assert content_key({"a": 1, "b": 2.0}) == content_key({"b": np.float64(2.0), "a": np.int64(1)})


def test_a_key_refuses_what_has_no_value() -> None:
    with pytest.raises(ValueError, match="JSON"):
        content_key(math.nan)


def test_a_prompt_fills_in_the_trigger_and_drops_what_an_empty_one_leaves() -> None:
    assert Prompt(text="{trigger}, smile").filled("J3NN13") == "J3NN13, smile"
    assert Prompt(text="{trigger}, smile").filled("") == "smile"
