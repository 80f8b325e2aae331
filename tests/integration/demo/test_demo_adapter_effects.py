"""The embedded adapters through the engine: the effect that the trainer's own modules had, seen in the picture."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from lib_adapters.demo import ADAPTERS, MODEL, index
from lib_adapters.demo.recipes import HYPERNETWORKS, RECIPES, Recipe
from lib_adapters.demo.train_adapters import GUIDANCE, SHOWN_SEEDS, SHOWN_STEPS
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator, Settings

EVERY = (*RECIPES, *HYPERNETWORKS)
EFFECT = 0.15  # share of its effect by which a picture may differ from the trainer's: the files hold halves


@pytest.fixture(scope="module")
def studio():
    with Generator.open(MODEL, torch.device("cpu"), FolderResolver([ADAPTERS])) as opened:
        yield opened


def measured(studio, recipe, tag=""):
    values = []
    for seed in SHOWN_SEEDS:
        settings = Settings(steps=SHOWN_STEPS, seed=seed, guidance=GUIDANCE)
        picture = studio.generate(f"{recipe.shown.caption}{tag}", settings)
        assert picture.problems == ()
        assert all(one.error is None and not one.unmatched for one in picture.report.adapters)
        values.append(recipe.measure(np.asarray(picture.image, np.float32) / 255))
    return float(np.mean(values))


@cache
def _entry(name):
    return index()[name]


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_the_effect_is_the_trainers(studio, recipe: Recipe):
    entry = _entry(recipe.name)
    effect = float(entry["with"]) - float(entry["without"])
    now = measured(studio, recipe, f" <{recipe.tag}:{recipe.name}>")
    assert (now - float(entry["without"])) / recipe.least >= 0.9, f"{entry['without']} -> {now}"
    assert abs(now - float(entry["with"])) <= max(EFFECT * abs(effect), 0.01)


def test_without_a_tag_nothing_is_left(studio):
    recipe = RECIPES[0]
    studio.activate_prompt(" ".join(f"<{known.tag}:{known.name}>" for known in EVERY))
    assert abs(measured(studio, recipe) - float(_entry(recipe.name)["without"])) < 0.01
    assert studio.session.verify()
