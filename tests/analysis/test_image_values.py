"""Pictures side by side: pairs by prompt and noise, missing ones, several training seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.image_values import image_values

IMAGES = pd.DataFrame(
    [("a", "p", 0, True, 1.0), ("a", "q", 0, False, 2.0), ("b", "q", 0, False, 4.0), ("b", "p", 0, None, 3.0), ("c", "p", 0, True, 7.0)],
    columns=["evaluation_key", "prompt", "seed", "seen", "lpips"],
)


def test_pictures_of_the_same_prompt_and_noise_are_in_one_column_whatever_their_order():
    found = image_values(IMAGES, [("a",), ("b",), None, ("c",)])
    assert list(found.prompts) == ["p", "q"] and list(found.n_seeds) == [1, 1, 0, 1]
    np.testing.assert_array_equal(found.values[:, :, 0], [[1, 2], [3, 4], [np.nan, np.nan], [7, np.nan]])
    np.testing.assert_array_equal(found.seen, [[1, 0], [np.nan, 0], [np.nan, np.nan], [1, np.nan]])


def test_several_training_seeds_are_means_of_pictures_that_all_of_them_have():
    found = image_values(IMAGES, [("a", "c"), ("b",)])
    assert found.values.shape == (2, 2, 2)
    np.testing.assert_array_equal(found.over_seeds(), [[4, np.nan], [3, 4]])


def test_a_prompt_that_is_listed_twice_is_two_pairs():
    twice = pd.concat([IMAGES[:1], IMAGES[:1].assign(lpips=5.0)], ignore_index=True)
    np.testing.assert_array_equal(image_values(twice, [("a",)]).values[0, :, 0], [1, 5])


def test_no_pictures_and_no_trials_are_no_error():
    assert image_values(IMAGES[:0], [("a",), None]).values.shape == (2, 0, 1)
    assert image_values(IMAGES, []).over_seeds().shape[0] == 0
