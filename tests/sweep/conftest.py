"""A tiny model and a subject of four random pictures, for tests that train in earnest."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.trainables.conftest import write_tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder, seed=0)
    return str(folder)


@pytest.fixture(scope="session")
def subject(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("subject")
    for i in range(4):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "subject.json").write_text(json.dumps({"trigger": "J3NN13"}))
    return str(folder)


@pytest.fixture(scope="session")
def ray_home(tmp_path_factory):
    """Where Ray writes its token, and one folder for all tests: a process that starts a second Ray under another HOME waits for it in vain."""
    return tmp_path_factory.mktemp("home")
