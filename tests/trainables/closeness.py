"""When two trainings are the same but for the order in which floats were summed."""

import torch

MOST_APART = {"a": 2e-4, "b": 5e-3}
"""Relative L2 distance of a layer's pair. B began at 0, so that all of it was learned; A moves by a few per cent. Single elements are
no measure: Adam divides by the gradient's size, and so turns the rounding of a gradient near 0 into a step like any other's."""


def assert_same_layers(layers, others) -> None:
    """Both map a layer's path to its pair (a, b)."""
    assert layers.keys() == others.keys()
    for path, pair in layers.items():
        for name, ours, theirs in zip(MOST_APART, pair, others[path], strict=True):
            apart = torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(theirs).clamp(min=1e-12)
            assert apart <= MOST_APART[name], f"{path} {name}: {apart:.1e} apart"
