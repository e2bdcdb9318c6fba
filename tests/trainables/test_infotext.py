"""A1111's settings text: what its own parser finds in it."""

import json
import re

import pytest

from trainables.config import DENOISERS
from trainables.infotext import infotext

# modules/infotext_utils.py of stable-diffusion-webui.
PARAM = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
GIVEN = dict(negative_prompt="blurry", steps=20, denoiser="euler_a", guidance=7.5, seed=11, size=(512, 768), model="dreamy_v1", lora_hashes={"jenny": "0123456789abcdef"})


def parsed(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and settings as parse_generation_parameters reads them."""
    *lines, last = text.split("\n")
    negative = [line.removeprefix("Negative prompt: ") for line in lines if line.startswith("Negative prompt: ")]
    settings = {name: json.loads(value) if value.startswith('"') else value for name, value in PARAM.findall(last)}
    return "\n".join(line for line in lines if not line.startswith("Negative prompt: ")), "".join(negative), settings


def test_a1111_reads_back_what_was_written():
    prompt, negative, settings = parsed(infotext("J3NN13, smile", **GIVEN, model_hash="f" * 64))
    assert (prompt, negative) == ("J3NN13, smile <lora:jenny:1>", "blurry")
    assert settings == {
        "Steps": "20", "Sampler": "Euler a", "CFG scale": "7.5", "Seed": "11", "Size": "512x768",
        "Model hash": "f" * 10, "Model": "dreamy_v1", "Lora hashes": "jenny: 0123456789ab",
    }  # fmt: skip


def test_what_is_not_there_has_no_line_and_marks_in_names_are_quoted():
    prompt, negative, settings = parsed(infotext("a", **GIVEN | {"negative_prompt": "", "model": "embedded:base, v2"}))
    assert negative == "" and "Model hash" not in settings and settings["Model"] == "embedded:base, v2"


@pytest.mark.parametrize("denoiser", DENOISERS)
def test_every_denoiser_has_a_sampler_there_and_karras_is_a_schedule(denoiser):
    _, _, settings = parsed(infotext("a", **GIVEN | {"denoiser": denoiser}))
    assert settings["Sampler"] and ("Schedule type" in settings) == denoiser.endswith("_karras")
