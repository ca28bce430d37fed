"""What a recipe says of each step: its learning rate and the size of its images."""

from dataclasses import replace

import pytest
from recipes import RECIPE

from fer.training.recipe import image_size, learning_rate


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
    rates = [learning_rate(step, 100, RECIPE) for step in range(100)]
    assert max(rates) == pytest.approx(RECIPE.lr, rel=1e-3)
    assert rates.index(max(rates)) in (28, 29, 30)
    assert rates[0] < RECIPE.lr / 10
    assert rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.15, 0.5])
def test_the_share_of_steps_in_which_the_learning_rate_rises(share):
    recipe = replace(RECIPE, warmup_fraction=share)
    rates = [learning_rate(step, 200, recipe) for step in range(200)]
    assert rates.index(max(rates)) == pytest.approx(200 * share, abs=1)
    assert max(rates) == pytest.approx(recipe.lr, rel=1e-3)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_images_grow_in_equal_shares_of_the_steps():
    recipe = replace(RECIPE, initial_size=32)
    sizes = [image_size(step, 300, recipe, 48) for step in range(300)]
    assert sizes == [32] * 100 + [40] * 100 + [48] * 100
    assert {image_size(step, 300, RECIPE, 112) for step in range(300)} == {112}


def test_the_last_size_is_the_dataset_s_even_if_no_step_of_8_leads_there():
    recipe = replace(RECIPE, initial_size=32)
    sizes = [image_size(step, 30, recipe, 50) for step in range(30)]
    assert sorted(set(sizes)) == [32, 40, 48, 50]
    assert sizes == sorted(sizes)
