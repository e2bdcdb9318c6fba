"""The text that A1111 writes into its pictures, from which it and other web UIs read how a picture was made.

    a photo of J3NN13 <lora:jenny:1>
    Negative prompt: blurry
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model: dreamy, Lora hashes: "jenny: 0123456789ab"

The same numbers there give the same kind of picture, not the same one: web UIs draw their noise in another way."""

from __future__ import annotations

import json
from collections.abc import Mapping

CHUNK = "parameters"
"""The name of the PNG text that holds it."""

_SAMPLERS = {
    "ddim": "DDIM",
    "dpm++": "DPM++ 2M",
    "dpm++_karras": "DPM++ 2M",
    "euler": "Euler",
    "euler_a": "Euler a",
    "deis": "DEIS",
    "unipc": "UniPC",
    "pndm": "PLMS",
}
_SCHEDULES = {"dpm++_karras": "Karras"}


def infotext(
    prompt: str,
    *,
    negative_prompt: str,
    steps: int,
    denoiser: str,
    guidance: float,
    seed: int,
    size: tuple[int, int],  # width, height
    model: str,
    model_hash: str | None = None,
    lora_hashes: Mapping[str, str],  # name -> hash, of which A1111 writes 12 digits
) -> str:
    """The three lines; without a negative prompt two."""
    values = {
        "Steps": steps,
        "Sampler": _SAMPLERS[denoiser],
        "Schedule type": _SCHEDULES.get(denoiser),
        "CFG scale": f"{guidance:g}",
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model hash": model_hash and model_hash[:10],
        "Model": model,
        "Lora hashes": ", ".join(f"{name}: {value[:12]}" for name, value in lora_hashes.items()) or None,
    }
    loras = "".join(f" <lora:{name}:1>" for name in lora_hashes)
    negative = [f"Negative prompt: {negative_prompt}"] if negative_prompt else []
    return "\n".join([prompt + loras, *negative, ", ".join(f"{k}: {_quoted(v)}" for k, v in values.items() if v is not None)])


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text
