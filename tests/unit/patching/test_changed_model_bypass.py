"""Weights that change under live layers, or between two steps: what was computed from the old ones is gone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_adapters import Session
from lib_adapters.prompt.schedule import SamplingStep
from tests.support.state_machines.random_requests import Want
from tests.support.state_machines.versioned_adapters import Shelf
from tests.support.tiny_model_pair import Pair, another, noise, weights_of, write

LAYER = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
ROWS = (0, 1)


@pytest.fixture
def model():
    return Pair()


@pytest.fixture
def shelf(model, tmp_path):
    return Shelf(tmp_path / "files", tmp_path / "kept", model)


def put_on(model, shelf, want, **options):
    session = Session(model.unet, [model.te], **options)
    session.activate([want.request(shelf.aside(f"{want.file}0"))], SamplingStep(0, 3))
    return session


def drawn(model, session, step):
    session.set_step(SamplingStep(step, 3), ROWS)
    return model.draw(noise(2))


def loaded(model, weights):
    model.load_state_dict({name: tensor.clone() for name, tensor in weights.items()})


def assigned(model, weights):
    model.load_state_dict({name: tensor.clone() for name, tensor in weights.items()}, assign=True)


@pytest.mark.parametrize("change", [loaded, assigned, write])
@pytest.mark.parametrize("letter", "cdfg")  # IA3, OFT, DoRA and T-LoRA read the weight
@pytest.mark.parametrize("how", [{"rows": frozenset({1})}, {"unet": (1.0, 0.2)}, {"unet": (1.0, 0.2), "mode": "live"}])
def test_a_checkpoint_in_the_middle_of_a_picture(model, shelf, letter, how, change):
    want, new = Want(letter, te=0.0, **how), another(weights_of(model), 1)
    if change is write and how.get("mode") != "live" and "scope" not in how:
        pytest.skip("nobody writes into merged weights without loading them")
    session = put_on(model, shelf, want)
    drawn(model, session, 0)
    change(model, new)
    found = drawn(model, session, 1)
    other = Pair()
    write(other, new)
    assert torch.equal(found, drawn(other, put_on(other, shelf, want), 1))
    session.deactivate()
    assert all(torch.equal(tensor, new[name]) for name, tensor in model.state_dict().items())


def test_live_layers_that_only_moved_are_not_computed_again(model, shelf, monkeypatch):
    session = put_on(model, shelf, Want("d", rows=frozenset({1})))
    before = drawn(model, session, 0)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    monkeypatch.setattr(Session, "_build_plan", lambda *_: pytest.fail("computed again"))
    assert torch.equal(drawn(model, session, 0), before)


def test_what_somebody_put_there_stays_when_other_layers_are_loaded(model, shelf):
    """A file without that layer is loaded: its old weights are not given back over the new ones."""
    session = put_on(model, shelf, Want("a"))
    layer = model.unet.get_submodule(LAYER)
    new = torch.randn_like(layer.weight)
    layer.weight = nn.Parameter(new.clone(), requires_grad=False)
    texts = {name: tensor for name, tensor in weights_of(model).items() if name.startswith("te.")}
    model.load_state_dict(texts, strict=False)
    assert torch.equal(layer.weight, new)
    session.deactivate()
    assert torch.equal(layer.weight, new)


def test_a_parameter_that_its_owner_exchanged_is_no_damage(model, shelf):
    layer = model.unet.get_submodule(LAYER)
    session = Session(model.unet, [model.te])
    for _ in range(2):
        layer.weight = nn.Parameter(torch.randn_like(layer.weight), requires_grad=False)
        assert session.verify()
        session.activate([Want("a").request(shelf.aside("a0"))])
        session.deactivate()
    session.activate([Want("b").request(shelf.aside("b0"))])
    session.deactivate()
    layer.weight.data.view(torch.uint8).view(-1)[0] ^= 1
    assert not session.verify()


def test_cut_ranks_of_tlora_are_the_same_whenever_they_are_cut(shelf):
    """While strengths move, the singular triple of W is computed once; the largest come first there too."""
    (algorithm, *_) = [one for one in shelf.aside("g0").load().algorithms.values() if one.label == "T-LoRA"]
    base = torch.randn(algorithm.p.shape[0], algorithm.q.shape[1])
    for rank in (1, 2, 3):
        once, anew = algorithm.precompute(base).truncate(rank).delta(base), algorithm.truncate(rank).delta(base)
        torch.testing.assert_close(once, anew)
