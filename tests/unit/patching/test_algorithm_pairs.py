"""Every ordered pair of algorithms on one model: one after the other, one with the other, one in a window beside the
other. The model is always what a new model with the same requests is, and afterwards what it was, to the bit.

Each algorithm meets one in five of the others, as the first and as the second; with PAIRS=all in the environment, all.
"""

from __future__ import annotations

import os

import pytest
import torch

from lib_adapters.patching import apply_mode
from lib_adapters.prompt.schedule import Position, SamplingStep, Window
from tests.support.algorithm_pairs import LABELS, Shelf, differing, outputs, state

EARLY, LATE = SamplingStep(1, 4), SamplingStep(2, 4)
UNTIL, FROM = Window(None, Position(2, "step")), Window(Position(2, "step"))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return Shelf(tmp_path_factory.mktemp("pairs"))


def partners(first):
    """Return the algorithms that the first one is paired with."""
    if os.environ.get("PAIRS") == "all":
        return LABELS
    return [second for n, second in enumerate(LABELS) if (n + LABELS.index(first)) % 5 == 0]


def walk(first, second):
    """From A to B, from B to both, from both to A: with the other order of each pair, every way to go."""
    return ((first,), (second,), (first, second)) if first != second else ((first,),)


def close(shelf, model, labels, names):
    """Do these layers compute what they compute on a model of their own?"""
    for name, found in outputs(model, names).items():
        wanted = shelf.fresh(*labels)[1][name]
        scale = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * scale, msg=lambda text: f"{labels}: {text}")


@pytest.mark.parametrize("first", LABELS)
def test_weights_do_not_depend_on_what_was_active_before(shelf, first):
    model, session = shelf.session()
    own = state(model)
    for second in partners(first):
        for labels in walk(first, second):
            session.activate([shelf.request(label) for label in labels])
            assert not differing(state(model), shelf.fresh(*labels)[0]), (first, second, labels)
    session.deactivate()
    assert not differing(state(model), own)
    assert session.verify()


@pytest.mark.parametrize("first", LABELS)
def test_weights_inside_and_outside_of_a_window_are_those_of_a_new_model(shelf, first):
    model, session = shelf.session()
    own = state(model)
    for second in partners(first):
        others = [shelf.request(second)] if second != first else []
        session.activate([shelf.request(first, window=UNTIL, mode="merged"), *others], SamplingStep(0, 4))
        for moment in (EARLY, LATE):
            session.set_step(moment)
            labels = {first, second} if moment is EARLY else {second} if others else set()
            assert not differing(state(model), shelf.fresh(*labels)[0]), (first, second, moment)
    session.deactivate()
    assert not differing(state(model), own)
    assert session.verify()


@pytest.mark.parametrize("label", ["Full", "LoRA"])
def test_a_lent_bias_goes_when_patches_cancel(shelf, label):
    model, session = shelf.session()
    own = state(model)
    session.activate([shelf.request(label)])
    lent = state(model).keys() - own.keys()
    assert lent
    session.activate([shelf.request(label), shelf.request(label, -0.5)])
    assert state(model).keys() == own.keys()


@pytest.mark.parametrize(("mode", "window"), [("auto", UNTIL), ("live", FROM), ("live", None)])
@pytest.mark.parametrize("first", LABELS)
def test_layers_inside_and_outside_of_a_window_compute_what_a_new_model_does(shelf, first, mode, window, monkeypatch):
    """`auto`: every second layer is merged again and the others get a bypass. Without a window the strength stays."""
    monkeypatch.setattr(
        apply_mode, "estimated_costs", lambda target, *_: (1, 9)[:: 1 if target.ref.path[-1:] in "048" else -1]
    )
    model, session = shelf.session()
    own = state(model)
    for second in (label for label in partners(first) if label != first):
        requests = [shelf.request(first, window=window, mode=mode), shelf.request(second)]
        session.activate(requests, EARLY)
        for moment in (EARLY, LATE):
            session.set_step(moment)
            labels = (first, second) if window is None or window.contains(moment) else (second,)
            close(shelf, model, labels, shelf.meeting(first, second))
    session.deactivate()
    assert not differing(state(model), own)
    assert session.verify()


@pytest.mark.parametrize("first", LABELS)
def test_a_live_session_computes_what_a_new_model_does(shelf, first):
    model, session = shelf.session("live")
    own = state(model)
    for second in partners(first):
        for labels in walk(first, second)[1:]:
            session.activate([shelf.request(label) for label in labels])
            close(shelf, model, labels, shelf.meeting(first, second))
            assert not differing(state(model), own)
    session.deactivate()
    assert not any("forward" in vars(module) for module in model.modules())
