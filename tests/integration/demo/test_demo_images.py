"""The procedural pictures: captions, styles, and the measures that tell them apart."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lib_adapters.demo.image_metrics import MEASURES, measure, solidity, thing, top_heaviness
from lib_adapters.demo.images import BACKGROUNDS, COLOURS, SHAPE_NAMES, SIDE, Scene, draw, every_caption, random_scene
from lib_adapters.demo.outlines import parts_of
from lib_adapters.demo.recipes import RECIPES, Recipe
from lib_adapters.demo.styles import STYLES, Style


def test_a_caption_says_what_is_drawn() -> None:
    assert Scene("house", "red", "gray", "big").caption == "a big red house on a gray background"
    assert Scene("moon", "yellow", "black").caption == "a yellow moon on a black background"


def test_every_random_scene_has_one_of_the_captions() -> None:
    rng = random.Random(3)
    captions = every_caption()
    assert len(set(captions)) == len(captions)
    assert {random_scene(rng).caption for _ in range(200)} <= set(captions)


def test_the_same_seed_draws_the_same_picture() -> None:
    first, second = (draw(random_scene(random.Random(7))) for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("shape", SHAPE_NAMES)
def test_a_shape_fills_its_square_and_no_more(shape: str) -> None:
    points = np.array([point for part in parts_of(shape) for point in part.points])
    assert abs(points).max() <= 1.0
    assert np.ptp(points, axis=0).min() > 1.1


@pytest.mark.parametrize(("colour", "paint"), COLOURS)
def test_the_middle_of_a_circle_has_the_colour_of_the_caption(colour: str, paint: tuple[int, int, int]) -> None:
    picture = draw(Scene("circle", colour, "white"))
    assert picture.shape == (SIDE, SIDE, 3)
    assert np.allclose(picture[SIDE // 2, SIDE // 2] * 255, paint, atol=1)


@pytest.mark.parametrize(("ground", "paint"), BACKGROUNDS)
def test_the_corner_has_the_colour_of_the_ground(ground: str, paint: tuple[int, int, int]) -> None:
    assert np.allclose(draw(Scene("star", "red", ground))[0, 0] * 255, paint, atol=1)


def test_a_big_thing_covers_more_than_a_small_one() -> None:
    covered = [thing(draw(Scene("heart", "red", "white", size))).mean() for size in ("small", "", "big")]
    assert covered == sorted(covered)
    assert covered[2] > 3 * covered[0]


@pytest.mark.parametrize("style", STYLES)
def test_a_style_changes_the_picture(style: Style) -> None:
    scene = Scene("house", "purple", "green")
    picture = style(scene)
    assert picture.shape == (SIDE, SIDE, 3)
    assert picture.dtype == np.float32
    assert picture.min() >= -1e-6
    assert picture.max() <= 1 + 1e-6
    assert abs(picture - draw(scene)).mean() > 0.01


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_the_measure_sees_the_style(recipe: Recipe) -> None:
    moved = recipe.measure(recipe.style(recipe.shown)) - recipe.measure(draw(recipe.shown))
    assert moved / recipe.least >= 1.2


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_the_measure_is_deaf_to_a_little_noise_and_a_little_shift(recipe: Recipe) -> None:
    noise = np.random.default_rng(1).normal(0, 0.02, (SIDE, SIDE, 3)).astype(np.float32)
    plain = draw(recipe.shown)
    disturbed = np.roll(np.clip(plain + noise, 0, 1), 2, axis=1)
    assert abs(recipe.measure(disturbed) - recipe.measure(plain)) < abs(recipe.least) / 2


def test_shape_measures_know_their_shapes() -> None:
    assert solidity(draw(Scene("square", "blue", "white"))) > 0.95
    assert solidity(draw(Scene("star", "blue", "white"))) < 0.55
    assert (
        top_heaviness(draw(Scene("triangle", "red", "white")))
        < -0.3
        < 0.1
        < top_heaviness(draw(Scene("heart", "red", "white")))
    )


def test_an_empty_picture_is_measured_too() -> None:
    blank = np.ones((SIDE, SIDE, 3), np.float32)
    values = {known.__name__: measure(known.__name__, blank) for known in MEASURES}
    assert all(np.isfinite(value) for value in values.values())
    assert values["extent"] == values["solidity"] == values["centredness"] == 0.0
