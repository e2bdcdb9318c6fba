"""A Stable Diffusion 1.x folder of random weights, small enough to make in a second: same layout, same classes, same code path."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as StableDiffusionPipeline.save_pretrained writes it. Treat it as read-only; `tiny_model_copy` may be changed."""
    folder = tmp_path_factory.mktemp("tiny_model")
    write_tiny_model(folder, seed=0)
    return folder


@pytest.fixture
def tiny_model_copy(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_model_dir` that a test may damage."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


@pytest.fixture(scope="module")
def frozen():
    """Frozen work of a module's own, in memory, on the CPU."""
    from trainables.frozen import FrozenWork

    return FrozenWork()


@pytest.fixture(scope="module")
def parts(frozen, tiny_model_dir: Path):
    """The tiny model, loaded: shared by a module's tests, which leave it as it is."""
    return frozen.parts(str(tiny_model_dir), None, "float32")


@pytest.fixture(scope="session")
def make_tiny_model() -> Callable[..., None]:
    """`make_tiny_model(folder, seed=1)`: another model of the same sizes."""
    return write_tiny_model


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return write_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer")


@pytest.fixture(scope="session")
def sd15_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer) -> Path:
    """Stable Diffusion 1.5's layout, block for block. Read-only."""
    from tests.trainables.layouts import write_sd15_layout

    folder = tmp_path_factory.mktemp("sd15")
    write_sd15_layout(folder, tiny_tokenizer)
    return folder


@pytest.fixture(scope="session")
def realistic_vision_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer) -> Path:
    """Realistic Vision's layout: a folder called noVAE with a vae/, DEIS. Read-only."""
    from tests.trainables.layouts import write_realistic_vision_layout

    folder = tmp_path_factory.mktemp("hub") / "Realistic_Vision_V5.1_noVAE"
    write_realistic_vision_layout(folder, tiny_tokenizer)
    return folder


def write_tiny_model(folder: Path, *, seed: int, scaling_factor: float = 0.18215) -> None:
    """64x64 images, 4x8x8 latents, 32 numbers per token, 0.85M weights; another seed gives another model."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = write_tiny_tokenizer(folder / "written_tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
        )
        vae = AutoencoderKL(
            sample_size=64,
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
            scaling_factor=scaling_factor,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
    )
    pipeline = StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.save_pretrained(folder)
    shutil.rmtree(folder / "written_tokenizer")


def write_tiny_tokenizer(folder: Path):
    """CLIP's byte-level tokenizer with four merges: "smile" is one token, every other word is spelt."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    merges = [("s", "m"), ("i", "l"), ("sm", "il"), ("smil", "e</w>")]
    words = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}))
    return CLIPTokenizer.from_pretrained(str(folder))
