"""Aesthetic gradients against the paper repository's algorithm, restated: a copy of CLIP, Adam, the changed text."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import normalize

from lib_adapters.conditioning.aesthetic_gradients import (
    AestheticOptimizer,
    TextForward,
    blend,
    optimization_target,
    optimize_text,
)
from lib_adapters.conditioning.clip_features import clip_feature, open_clip_feature, text_projection
from lib_adapters.errors import AdapterError
from lib_adapters.ops.slerp import slerp
from lib_adapters.prompt.aesthetic_tag import AestheticOptions
from tests.support.tiny_models import clip, open_clip

END = 98
QUICK = AestheticOptions(steps=3, lr=1e-3)


def computes(dtype):
    """Old releases of torch have no halves on the CPU."""
    try:
        torch.nn.functional.linear(
            torch.nn.functional.layer_norm(torch.ones(2, 2, dtype=dtype), (2,)), torch.eye(2, dtype=dtype)
        )
    except RuntimeError:
        return False
    return True


FLOATS = tuple(filter(computes, (torch.float32, torch.float16, torch.bfloat16)))


def tokens_of(*words):
    """[1, 16]: start, the words, the end, and the padding, which is the end again."""
    return torch.tensor([[97, *words, *[END] * (15 - len(words))]])


@pytest.fixture
def tower():
    return clip(layers=3)


@pytest.fixture
def projection():
    torch.manual_seed(5)
    return torch.randn(16, 24)


@pytest.fixture
def aim():
    torch.manual_seed(6)
    return optimization_target(torch.randn(1, 16), None, QUICK)


def prompt_of(tower, projection, tokens):
    def states():
        return (tower.forward(input_ids=tokens).last_hidden_state,)

    return TextForward(lambda: clip_feature(tower, projection, tokens, END), states, (*states(), projection))


def paper(tower, feature, tokens, embedding):
    """`FrozenCLIPEmbedder.forward` of the paper's repository: everything but the projection is trained."""
    twin = copy.deepcopy(tower).float().requires_grad_(True)
    weights = [weight for name, weight in twin.named_parameters() if not name.startswith("text_projection")]
    adam = torch.optim.Adam(weights, lr=QUICK.lr)
    image = embedding / embedding.norm(dim=-1, keepdim=True)
    for _ in range(QUICK.steps):
        adam.zero_grad()
        text = feature(twin, tokens)
        text = text / text.norm(dim=-1, keepdim=True)
        (-text @ image.T).mean().backward()
        adam.step()
    return twin


def weights_of(tower):
    return {name: (value, value.clone()) for name, value in [*tower.named_parameters(), *tower.named_buffers()]}


def assert_untouched(tower, before):
    now = dict([*tower.named_parameters(), *tower.named_buffers()])
    assert now.keys() == before.keys()
    assert all(now[name] is own and torch.equal(own, values) for name, (own, values) in before.items())
    assert all(value.grad is None and not value.requires_grad for value in tower.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in tower.modules())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_changed_text_is_the_papers(tower, projection, aim, dtype, mode):
    tower, tokens = tower.to(dtype), tokens_of(5, 6, 7)
    before = weights_of(tower)
    pooled = lambda twin, ids: twin(input_ids=ids).pooler_output @ projection.T  # noqa: E731
    twin = paper(tower, pooled, tokens, aim)
    with mode():
        found = optimize_text(tower, prompt_of(tower, projection, tokens_of(5, 6, 7)), aim, QUICK)
    torch.testing.assert_close(
        found.hidden_states[0], twin(input_ids=tokens).last_hidden_state.detach(), rtol=0, atol=1e-5
    )
    assert found.cosine_after > found.cosine_before + 0.05
    assert_untouched(tower, before)


def test_a_tower_with_its_own_projection_leaves_that_alone(aim):
    tower, tokens = clip(layers=3, projection=True), tokens_of(9)
    twin = paper(tower, lambda one, ids: one(input_ids=ids).text_embeds, tokens, aim)
    projection = text_projection(tower)
    found = optimize_text(tower, prompt_of(tower, projection, tokens), aim, QUICK)
    torch.testing.assert_close(
        found.hidden_states[0], twin(input_ids=tokens).last_hidden_state.detach(), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_open_clip_towers(aim, dtype):
    tower, tokens = open_clip(layers=3).to(dtype), tokens_of(9, 4)
    before = weights_of(tower)
    twin = paper(tower, open_clip_feature, tokens, aim)
    prompt = TextForward(lambda: open_clip_feature(tower, tokens), lambda: (open_clip_feature(tower, tokens),), ())
    found = optimize_text(tower, prompt, aim, QUICK)
    torch.testing.assert_close(found.hidden_states[0], open_clip_feature(twin, tokens).detach(), rtol=0, atol=1e-5)
    assert text_projection(tower).shape == (16, 24)
    assert_untouched(tower, before)


def test_weights_and_words_made_in_inference_mode(projection, aim):
    with torch.inference_mode():
        tower, tokens, inner = clip(layers=2), tokens_of(3, 4), projection.clone()
        found = optimize_text(tower, prompt_of(tower, inner, tokens), aim, QUICK)
    plain = clip(layers=2)
    truth = optimize_text(plain, prompt_of(plain, projection, tokens_of(3, 4)), aim, QUICK)
    assert torch.equal(found.hidden_states[0], truth.hidden_states[0])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("when", [1, 2, 3])
def test_an_interrupt_at_any_step_gives_everything_back(tower, projection, aim, error, when):
    tower.to(FLOATS[-1])
    before = weights_of(tower)

    def stop(done):
        if done == when:
            raise error

    with pytest.raises(error):
        optimize_text(tower, prompt_of(tower, projection, tokens_of(1)), aim, QUICK, stop)
    assert_untouched(tower, before)


def test_tied_weights_stay_one(tower, projection, aim):
    tower.twin = tower.get_input_embeddings()
    before = weights_of(tower)
    truth = optimize_text(
        clip(layers=3), prompt_of(clip(layers=3), projection, tokens_of(1)), aim, AestheticOptions(steps=0)
    )
    assert truth.cosine_before == truth.cosine_after
    found = optimize_text(tower, prompt_of(tower, projection, tokens_of(1)), aim, QUICK)
    del tower.twin
    assert torch.equal(
        found.hidden_states[0],
        optimize_text(tower, prompt_of(tower, projection, tokens_of(1)), aim, QUICK).hidden_states[0],
    )
    assert all(torch.equal(now, before[name][1]) for name, now in tower.named_parameters())


def test_answers_are_remembered_until_something_differs(tower, projection, aim):
    runs = []
    known = AestheticOptimizer(max_entries=3)

    def ask(words=(1, 2), options=QUICK, target=aim):
        prompt = prompt_of(tower, projection, tokens_of(*words))
        return known.optimize(tower, prompt, target, options, lambda done: runs.append(done) if done == 1 else None)

    first = ask()
    assert ask() is first
    assert ask(options=AestheticOptions(steps=3, lr=1e-3, weight=0.2, slerp=True)) is first  # mixing comes afterwards
    assert len(runs) == 1
    ask(words=(2, 1))
    ask(options=AestheticOptions(steps=2, lr=1e-3))
    assert len(runs) == 3
    assert ask() is first
    with torch.no_grad():
        tower.get_input_embeddings().weight[2] += 0.1
    assert ask() is not first
    ask(target=-aim)
    assert len(runs) == 5
    assert len(known._cache) == 3


def test_what_a_prompt_becomes_does_not_depend_on_the_ones_before_it(tower, projection, aim):
    def ask(*words):
        return optimize_text(tower, prompt_of(tower, projection, tokens_of(*words)), aim, QUICK).hidden_states[0]

    alone = ask(4, 5)
    assert not torch.equal(ask(6, 7, 8), alone)
    assert torch.equal(ask(4, 5), alone)


def test_what_diverged_is_a_sentence(tower, projection, aim):
    before = weights_of(tower)
    with pytest.raises(AdapterError, match="learning rate below 1e\\+30"):
        optimize_text(tower, prompt_of(tower, projection, tokens_of(1)), aim, AestheticOptions(steps=3, lr=1e30))
    assert_untouched(tower, before)


def test_slerp_goes_along_the_arc_of_each_token():
    a, b = normalize(torch.randn(2, 7, 12), dim=-1), normalize(torch.randn(2, 7, 12), dim=-1)
    middle = slerp(a, b, 0.5)
    torch.testing.assert_close(middle, normalize(a + b, dim=-1))
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    third = torch.acos((slerp(a, b, 1 / 3) * a).sum(-1))
    torch.testing.assert_close(3 * third, torch.acos((a * b).sum(-1)), rtol=1e-4, atol=1e-4)


def test_slerp_of_the_same_direction_is_the_straight_line():
    a = torch.randn(5, 8)
    for b in (a, 2 * a, a * (1 + 1e-7), -a):
        torch.testing.assert_close(slerp(a, b, 0.25), 0.75 * a + 0.25 * b)
    assert torch.isfinite(slerp(a, torch.zeros_like(a), 0.25)).all()


def test_the_mixture_is_taken_in_float32_and_given_in_the_texts_own_type():
    z, changed = torch.randn(1, 4, 8).half(), torch.randn(1, 4, 8)
    assert torch.equal(blend(z, changed, AestheticOptions(weight=0.0)), z)
    out = blend(z, changed, AestheticOptions(weight=0.9))
    assert torch.equal(out, (0.1 * z.float() + 0.9 * changed).half())
    assert blend(z, changed, AestheticOptions(weight=0.5, slerp=True)).dtype == torch.float16


def test_an_embedding_is_turned_towards_a_text_or_away_from_it():
    torch.manual_seed(3)
    vectors, text = torch.randn(2, 16) * 9, torch.randn(1, 16) * 7
    plain = optimization_target(vectors, None, AestheticOptions())
    torch.testing.assert_close(plain.norm(dim=-1), torch.ones(2))
    cosine = lambda aim: aim @ normalize(text, dim=-1).T  # noqa: E731
    nearer, further = (
        optimization_target(vectors, text, AestheticOptions(angle=0.3, negative=negative)) for negative in (False, True)
    )
    assert (cosine(nearer) > cosine(plain)).all()
    assert (cosine(further) < cosine(plain)).all()
    torch.testing.assert_close(
        optimization_target(vectors, text, AestheticOptions(angle=1.0)), normalize(text, dim=-1).expand(2, -1)
    )
    torch.testing.assert_close(torch.acos(cosine(nearer)), 0.7 * torch.acos(cosine(plain)), rtol=1e-4, atol=1e-4)
