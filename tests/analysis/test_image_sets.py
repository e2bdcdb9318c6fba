"""Image rows by set, in whatever order they come; and the control of each set."""

import pandas as pd

from analysis.controls import controls_of
from analysis.image_sets import ImageSets


def test_a_sets_rows_are_its_own_in_their_order():
    images = pd.DataFrame({"evaluation_key": ["b", "a", "b", "c", "a"], "index": [0, 0, 1, 0, 1]})
    sets = ImageSets(images)
    assert {key: sets.rows(key).index.tolist() for key in "abcd"} == {"a": [1, 4], "b": [0, 2], "c": [3], "d": []}
    assert "d" not in sets and sets.n_images("b") == 2 and sets.n_images("d") == 0
    assert ImageSets(images.iloc[:0]).rows("a").empty
    assert sets.rows_of(("c", "a")).index.tolist() == [3, 1, 4] and sets.rows_of(()).empty


def test_the_control_of_a_set_is_the_one_made_in_the_same_way():
    rows = [("a", "k", 2.0, ["p"]), ("b", "k", 2.0, ["q"]), ("c", "k", None, ["p"]), ("x", "none", 2.0, ["p"]), ("y", "none", None, ["p"])]
    evaluations = pd.DataFrame(rows, columns=["evaluation_key", "training_key", "eval.guidance", "eval.prompts"])
    assert controls_of(evaluations) == {"a": "x", "c": "y", "x": "x", "y": "y"}
    assert controls_of(evaluations.iloc[:0]) == {}
