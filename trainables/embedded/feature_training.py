"""Trains the feature networks on the corpus: what a picture shows (attributes) and who it is (identity), at once.

Writes no files; build.py does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.embedded.corpus import Corpus
from trainables.embedded.networks import PerceptualNet, PooledNet
from trainables.embedded.pacing import set_one_cycle
from trainables.embedded.people import WORDS


class _Classifier(nn.Module):
    """A feature network with a cosine identity head, and attribute heads where the network has none of its own."""

    def __init__(self, network: PerceptualNet | PooledNet, *, n_people: int):
        super().__init__()
        self.network = network
        width = 128 if isinstance(network, PerceptualNet) else 160
        self.people = nn.Linear(width, n_people, bias=False)
        self.heads = (
            nn.ModuleDict({k: nn.Linear(width * 16, len(w)) for k, w in WORDS.items()})
            if isinstance(network, PerceptualNet)
            else network.heads
        )

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        if isinstance(self.network, PerceptualNet):
            deep = self.network(x)[-1]
            features, wide = deep.mean((2, 3)), F.adaptive_avg_pool2d(deep, 4).flatten(1)
        else:
            features = wide = self.network(x)
        who = 16 * F.linear(F.normalize(features), F.normalize(self.people.weight))
        return {k: head(wide) for k, head in self.heads.items()}, who


def train_features(
    kind: type,
    corpus: Corpus,
    *,
    n_steps: int,
    n_held_out: int,
    seed: int,
    batch: int = 64,
    learning_rate: float = 3e-3,
    identity_weight: float = 0.6,
    progress: Callable[[int, int, str], None],
) -> tuple[nn.Module, dict[str, float]]:
    """A trained PerceptualNet or PooledNet, and its accuracies on the last `n_held_out` pictures of the corpus, whose
    people it never saw."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # layer initialisation takes no generator
        model = _Classifier(kind(), n_people=int(corpus.person.max()) + 1).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-3)
    n = len(corpus) - n_held_out
    for step in range(n_steps):
        rows = torch.randint(n, (batch,), generator=generator).numpy()
        x, words, person = batch_of(corpus, rows, generator)
        x = x + 0.03 * torch.randn(x.shape, generator=generator)
        logits, who = model(x)
        attributes = sum(F.cross_entropy(logits[k], words[:, i]) for i, k in enumerate(WORDS)) / len(WORDS)
        loss = attributes + identity_weight * F.cross_entropy(who, person) / 4
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        set_one_cycle(optimiser, step, n_steps, peak=learning_rate, warm_share=0.1)
        optimiser.step()
        if step % 50 == 0:
            progress(step, n_steps, f"attributes {attributes.item():.3f} identity {(who.argmax(1) == person).float().mean().item():.2f}")
    return model.network.eval(), accuracies(model.eval(), corpus, range(n, len(corpus)))


def batch_of(corpus: Corpus, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (n, 3, 64, 64) in [-1, 1], mirrored at random; their words (n, 8); their people (n,)."""
    x = torch.from_numpy(corpus.pixels[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
    mirrored = torch.rand(len(rows), generator=generator) < 0.5
    x[mirrored] = x[mirrored].flip(-1)
    return x.contiguous(memory_format=torch.channels_last), torch.from_numpy(corpus.words[rows]), torch.from_numpy(corpus.person[rows])


@torch.no_grad()
def accuracies(model: _Classifier, corpus: Corpus, rows: range) -> dict[str, float]:
    """Share of right answers per attribute; chance is one over the number of its words."""
    right = {k: 0.0 for k in WORDS}
    for start in range(rows.start, rows.stop, 250):
        chosen = np.arange(start, min(rows.stop, start + 250))
        x = torch.from_numpy(corpus.pixels[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1
        logits, _ = model(x)
        for i, k in enumerate(WORDS):
            right[k] += (logits[k].argmax(1) == torch.from_numpy(corpus.words[chosen][:, i])).sum().item()
    return {k: round(v / len(rows), 4) for k, v in right.items()}
