"""The stored family, loaded the way users load it, and what its parts can do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from trainables.embedded.captions import pretraining_caption
from trainables.embedded.family import FOLDER, size_mb
from trainables.embedded.networks import load_perceptual, load_pooled
from trainables.embedded.people import WORDS, sample_attributes, sample_identity
from trainables.embedded.render import render
from trainables.embedded.vae_training import reconstruction_psnr

FRESH = 991  # a seed that no stage of the build uses
MIN_PSNR_DB = 26.5
MIN_ACCURACY = 0.9


@pytest.fixture(scope="module")
def portraits() -> tuple[np.ndarray, np.ndarray]:
    """160 fresh pictures of fresh people, (160, 64, 64, 3), and their classes, (160, 8)."""
    rng, pixels, words = np.random.default_rng(FRESH), [], []
    for i in range(160):
        attributes = sample_attributes(rng)
        pixels.append(render(sample_identity(rng), attributes, style="photo" if i % 2 else "drawing", rng=rng))
        words.append(attributes.classes())
    return np.stack(pixels), np.array(words)


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    made = StableDiffusionPipeline.from_pretrained(FOLDER / "base", safety_checker=None, dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


def _signed(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_base_makes_pictures_through_diffusers(pipeline: StableDiffusionPipeline):
    def draw(seed: int) -> np.ndarray:
        return pipeline(
            "person, smile, close-up",
            num_inference_steps=4,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).images[0]

    first = draw(0)
    assert first.shape == (64, 64, 3) and np.isfinite(first).all() and first.std() > 0.05
    assert np.array_equal(first, draw(0)) and not np.array_equal(first, draw(1))


def test_base_follows_its_prompts(pipeline: StableDiffusionPipeline):
    wanted = {"top": ("red top", "blue top", "white shirt", "green hoodie"), "background": ("wall", "room", "gym", "outdoor")}
    prompts = [
        f"person, upper body, {top}, {place} background, bright light" for top, place in zip(wanted["top"], wanted["background"])
    ] * 3
    made = pipeline(
        prompts, num_inference_steps=10, guidance_scale=4.0, generator=torch.Generator().manual_seed(0), output_type="np"
    ).images
    logits = load_pooled().attribute_logits(torch.from_numpy(made).permute(0, 3, 1, 2) * 2 - 1)
    for name, words in wanted.items():
        right = np.mean([logits[name][i].argmax() == WORDS[name].index(words[i % 4]) for i in range(len(prompts))])
        assert right >= 0.6, f"{name}: {right}"  # chance is 1/6 and 1/4


def test_base_follows_words_for_the_face(pipeline: StableDiffusionPipeline):
    words = [(expression, WORDS["gaze"][i % 2]) for i, expression in enumerate(WORDS["expression"] * 3)]
    prompts = [f"person, {expression}, close-up, {gaze}" for expression, gaze in words]
    made = pipeline(
        prompts, num_inference_steps=12, guidance_scale=4.0, generator=torch.Generator().manual_seed(0), output_type="np"
    ).images
    logits = load_pooled().attribute_logits(torch.from_numpy(made).permute(0, 3, 1, 2) * 2 - 1)
    for k, name in enumerate(("expression", "gaze")):
        right = np.mean([logits[name][i].argmax() == WORDS[name].index(pair[k]) for i, pair in enumerate(words)])
        assert right >= 0.7, f"{name}: {right}"  # chance is 1/6 and 1/2


def test_attention_has_the_layer_names_of_stable_diffusion(pipeline: StableDiffusionPipeline):
    names = {name for name, _ in pipeline.unet.named_modules()}
    found = {n.split(".")[0] for n in names if n.endswith("attn2.to_out.0")}
    assert found == {"down_blocks", "mid_block", "up_blocks"}
    assert all(
        f"mid_block.attentions.0.transformer_blocks.0.{a}.{p}" in names
        for a in ("attn1", "attn2")
        for p in ("to_q", "to_k", "to_v", "to_out.0")
    )


def test_realistic_ships_no_vae_and_other_weights_than_base():
    assert not (FOLDER / "realistic" / "vae").exists()
    vae = AutoencoderKL.from_pretrained(FOLDER / "base" / "vae")
    other = StableDiffusionPipeline.from_pretrained(FOLDER / "realistic", vae=vae, safety_checker=None)
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert other.unet.config.cross_attention_dim == other.text_encoder.config.hidden_size
    assert (FOLDER / "base" / unet).read_bytes() != (FOLDER / "realistic" / unet).read_bytes()


def test_the_vae_keeps_fresh_portraits(portraits: tuple[np.ndarray, np.ndarray]):
    vae = AutoencoderKL.from_pretrained(FOLDER / "base" / "vae").float()
    assert reconstruction_psnr(vae, portraits[0][:60]) > MIN_PSNR_DB


def test_latents_have_unit_scale(portraits: tuple[np.ndarray, np.ndarray]):
    vae = AutoencoderKL.from_pretrained(FOLDER / "base" / "vae").float()
    with torch.no_grad():
        z = vae.encode(_signed(portraits[0][:60])).latent_dist.mean * vae.config.scaling_factor
    assert z.std().item() == pytest.approx(1.0, abs=0.1)


def test_the_trigger_is_made_of_tokens_never_seen_in_training():
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "base" / "tokenizer")
    trigger = set(tokenizer("J3NN13", add_special_tokens=False).input_ids)
    rng = np.random.default_rng(FRESH)
    texts = [pretraining_caption(sample_attributes(rng), photo=bool(i % 2), rng=rng) for i in range(1500)]
    lengths = [len(ids) for ids in tokenizer(texts).input_ids]
    assert trigger and not trigger & {i for ids in tokenizer(texts).input_ids for i in ids}
    assert max(lengths) <= tokenizer.model_max_length == 77


def test_known_words_are_one_token_and_specials_are_set():
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "base" / "tokenizer")
    assert tokenizer.convert_ids_to_tokens(tokenizer("wink, braided hair").input_ids) == [
        "<|startoftext|>",
        "wink</w>",
        ",</w>",
        "braided</w>",
        "hair</w>",
        "<|endoftext|>",
    ]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id is not None and tokenizer.bos_token_id is not None


def test_the_pooled_network_reads_fresh_portraits(portraits: tuple[np.ndarray, np.ndarray]):
    pixels, words = portraits
    logits = load_pooled().attribute_logits(_signed(pixels))
    for i, name in enumerate(WORDS):
        assert (logits[name].argmax(1).numpy() == words[:, i]).mean() > MIN_ACCURACY, name


def test_pooled_features_are_one_non_negative_vector_per_image_of_any_size():
    features = load_pooled()(torch.rand(2, 3, 96, 80) * 2 - 1)
    assert features.ndim == 2 and 128 <= features.shape[1] <= 192 and (features >= 0).all()


def test_perceptual_maps_come_with_weights_that_sum_to_one_over_layers():
    network = load_perceptual()
    maps = network(torch.rand(2, 3, 50, 70) * 2 - 1)
    assert [m.shape[1] for m in maps] == [len(lin) for lin in network.lins]
    assert sum(lin[0].item() for lin in network.lins) == pytest.approx(1.0, abs=1e-3)


def test_nothing_is_stored_that_would_be_unpickled_and_no_path_of_the_maker():
    files = [f for f in FOLDER.rglob("*") if f.is_file()]
    assert not [f for f in files if f.suffix in (".pt", ".bin", ".pkl", ".ckpt")]
    configs = [f for f in files if f.suffix == ".json" and f.parent.name != "tokenizer"]
    assert not [f for f in configs if "/tmp" in f.read_text(encoding="utf-8") or "_name_or_path" in f.read_text(encoding="utf-8")]


def test_the_family_is_at_most_30_megabytes():
    assert 1 < size_mb(FOLDER) <= 30
    assert Path(FOLDER / "BUILD.md").exists()
