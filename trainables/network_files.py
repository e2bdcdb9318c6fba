"""Where the published weights of scoring networks lie: torch hub's cache; and what fetches them.

Says names and paths only, without torch, so that a study is refused before anything starts.
features.py loads them, weights.py checks their content."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trainables.errors import NotDownloadedError
from trainables.storage import home_expanded


@dataclass(frozen=True)
class PublishedFile:
    """A file as its publisher names it, and the Python that puts it into torch hub's cache."""

    name: str
    fetching: str

    @property
    def path(self) -> Path:
        return torch_hub() / "checkpoints" / self.name

    @property
    def command(self) -> str:
        return f'python -c "{self.fetching}"'


_TORCHVISION = "import torchvision.models as m; m.{}(weights='IMAGENET1K_V1')"
_INCEPTION = (
    "from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as F; "
    "F('inception', ['2048'])"
)
PUBLISHED = {
    "lpips:alex": PublishedFile("alexnet-owt-7be5be79.pth", _TORCHVISION.format("alexnet")),
    "lpips:vgg": PublishedFile("vgg16-397923af.pth", _TORCHVISION.format("vgg16")),
    "lpips:squeeze": PublishedFile(
        "squeezenet1_1-b8a52dc0.pth", _TORCHVISION.format("squeezenet1_1")
    ),
    "inception": PublishedFile("weights-inception-2015-12-05-6726825d.pth", _INCEPTION),
}
"""By the name of the network. The embedded ones ship with this project."""


def torch_hub() -> Path:
    """torch hub's folder, as `torch.hub.get_dir` finds it."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return home_expanded(os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))) / "hub"


def require_network(name: str) -> None:
    """Raises: NotDownloadedError where the network's weights are not in torch hub's cache."""
    published = PUBLISHED.get(name)
    if published is not None and not published.path.is_file():
        raise NotDownloadedError(
            f"{name} scores with {published.path}, which is not there. A launch does not download it. "
            f"Fetch it once with `{published.command}`, or score without it: "
            "`--set perceptual=embedded:perceptual --set pooled=embedded:pooled`."
        )
