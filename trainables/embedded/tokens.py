"""Makes the CLIPTokenizer of the family: byte-level BPE whose every known word is one token.

Nothing is trained on chance: the words are the ones that captions.py can say. Another version of `tokenizers` may order equal merges in
another way, so a text encoder belongs to the tokenizer that it was trained with."""

from __future__ import annotations

import json
import string
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from trainables.embedded.captions import pretraining_caption
from trainables.embedded.people import sample_attributes

MAX_TOKENS = 77
START, END = "<|startoftext|>", "<|endoftext|>"
EXTRA_WORDS = (
    "asymmetric eyes, crossed eyes, distorted face, wrong anatomy, malformed hands, blurry, low quality, woman, man, girl, boy, black, brown, "
    "blond, red, hair, glasses, mole, freckles, selfie, camera, is, are, the, and, her, his, their, very, no, not, picture, image, best, detailed"
)


def write_tokenizer(folder: Path, *, seed: int = 0) -> CLIPTokenizer:
    """vocab.json, merges.txt and the configs in `folder`, loaded back the way everybody loads them."""
    rng = np.random.default_rng(seed)
    captions = (pretraining_caption(sample_attributes(rng), photo=bool(i % 2), rng=rng) for i in range(4000))
    # words with digits are the nonsense names: they must stay in single letters, as the trigger does
    words = sorted({w for text in (*captions, EXTRA_WORDS) for w in _words(text)})
    trainer = trainers.BpeTrainer(vocab_size=4000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False, special_tokens=[])
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=None))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bpe.train_from_iterator(words, trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(c + "</w>" for c in letters), *("".join(pair) for pair in merges), START, END]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(p) for p in merges) + "\n", encoding="utf-8")
    made = CLIPTokenizer(
        vocab=vocab, merges=merges, unk_token=END, bos_token=START, eos_token=END, pad_token=END, model_max_length=MAX_TOKENS
    )
    made.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def _words(text: str) -> list[str]:
    bare = text.lower().replace("-", " ").translate(str.maketrans("", "", string.punctuation.replace("-", "")))
    return [w for w in bare.split() if not any(c.isdigit() for c in w)]
