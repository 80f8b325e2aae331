"""Tags in the double of the web UI: what is asked for is active, for exactly the pictures that ask."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch

from lib_adapters import Request, Session
from tests.fake_webui import builtin_lora, extra_networks
from tests.fake_webui.checkpoint import checkpoint, other_state
from tests.fake_webui.sample_files import put, put_text
from tests.fake_webui.webui import Job
from tests.support.sample_adapters import adapter_for, lokr, oft


def expected(*requests, state=None):
    """The picture that the engine itself gives on a model of its own."""
    model = checkpoint()
    model.load_state_dict(state or {}, strict=False)
    with Session(model.unet, [model.clip]) as session, torch.no_grad():
        session.activate(requests)
        return model.denoise(model.text())


def hooks(model):
    return sum(len(m._forward_pre_hooks) + len(m._load_state_dict_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("kind", ["lyco", "lora"])
def test_a_tag_is_active_for_its_picture_only(webui, kind):
    adapter = put(webui)
    plain = webui.picture("a cat").image
    wanted = expected(Request(adapter, unet=0.8, te=0.8))
    job = webui.picture(f"a cat <{kind}:ink:0.8>")
    torch.testing.assert_close(job.image, wanted)
    assert not torch.equal(job.image, plain)
    assert any(line.startswith("ink: ") for line in job.comments), job.comments
    assert torch.equal(webui.picture("a cat").image, plain)
    assert hooks(webui.model) == 0


def test_both_kinds_add_up_and_are_applied_at_once(webui, monkeypatch):
    first, second = put(webui), put(webui, "blur", "Lora", seed=9)
    calls = []
    apply = Session._apply
    monkeypatch.setattr(Session, "_apply", lambda self, new, *rest: calls.append(len(new)) or apply(self, new, *rest))
    job = webui.picture("x <lora:blur:0.5><lyco:ink:-0.7>")
    assert calls == [2]
    torch.testing.assert_close(job.image, expected(Request(first, unet=-0.7), Request(second, unet=0.5)))
    assert job.extra_generation_params.keys() == {"Lyco hashes", "Lora hashes"}


def test_the_text_encoder_and_the_conditioning_cache(webui):
    put_text(webui)
    plain = webui.picture("x").image
    styled = webui.picture("x <lyco:words>").image
    assert not torch.equal(plain, styled)
    assert torch.equal(webui.picture("x").image, plain)
    before = webui.conds[0]
    webui.picture("x")
    assert webui.conds[0] is before


def test_a_file_replaced_on_disk_gives_a_new_conditioning(webui):
    put_text(webui)
    first = webui.picture("x <lyco:words>").image
    path = webui.folder / "LyCORIS" / "words.safetensors"
    adapter_for(webui.model.clip, path, only=("layers.5.mlp",), prefix="lora_te_", seed=99)
    assert not torch.equal(webui.picture("x <lyco:words>").image, first)


def test_the_same_tag_twice_computes_nothing_anew(webui, monkeypatch):
    put(webui)
    first = webui.picture("<lyco:ink>").image
    monkeypatch.setattr(Session, "_apply", lambda *_: pytest.fail("nothing has changed"))
    assert torch.equal(webui.picture("<lyco:ink>").image, first)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("<lyco:nobody>", "no adapter is called 'nobody'"),
        ("<lyco:ink:much>", "'much' is not a finite number"),
        ("<lyco:ink:1:foo=OUTS>", "the key 'foo' is unknown"),
        ("<lyco:ink:1:lbw=NONSENSE>", "'NONSENSE' in lbw= is neither a preset nor a block"),
        ("<lyco:INK>", "'INK' was taken for 'ink'"),
    ],
)
def test_what_goes_wrong_is_said_and_the_picture_goes_on(webui, prompt, said):
    put(webui)
    job = webui.picture(prompt)
    assert any(said in line for line in job.comments), job.comments
    assert extra_networks.displayed == []


def test_a_broken_file_is_named(webui):
    (webui.folder / "LyCORIS" / "bad.safetensors").write_bytes(b"\x07" + b"\0" * 30)
    job = webui.picture("<lyco:bad>")
    assert any("bad.safetensors" in line for line in job.comments), job.comments


def test_an_unexpected_failure_leaves_the_model_plain_and_says_so(webui, monkeypatch):
    put(webui), put(webui, "blur", seed=2)
    plain = webui.picture("x").image
    webui.picture("x <lyco:ink>")
    monkeypatch.setattr("lib_adapters.session.build_plan", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
    job = webui.picture("x <lyco:blur>")
    assert "LyCORIS: no adapter was applied (MemoryError: no room)." in job.comments
    assert torch.equal(job.image, plain)


def test_a_conditioning_made_without_the_adapter_is_not_kept_for_it(webui, monkeypatch):
    put_text(webui)
    with monkeypatch.context() as broken:
        broken.setattr("lib_adapters.session.build_plan", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
        failed = webui.picture("x <lyco:words>").image
    assert not torch.equal(webui.picture("x <lyco:words>").image, failed)


def test_pictures_of_one_batch_that_differ(webui):
    put(webui)
    assert any("acts on picture 1 alone" in line for line in webui.picture(["a <lyco:ink>", "b"]).comments)
    assert not any("alone" in line for line in webui.picture(["a <lyco:ink>", "b <lyco:ink>"]).comments)


def test_a_tag_in_the_negative_prompt(webui):
    job = webui.picture("a", negative="ugly <lyco:ink:1>")
    assert any("negative prompt" in line for line in job.comments)


def test_called_with_nothing_behind_it(webui):
    """As the host does for a model that it loads: a bare object, no prompts, another thread."""
    put(webui)
    plain = webui.picture("x").image
    webui.picture("x <lyco:ink>")

    class Bare:
        all_prompts = scripts = None

    thread = threading.Thread(target=extra_networks.activate, args=(Bare(), {}))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert torch.equal(webui.model.denoise(webui.model.text()), plain)


def test_no_model_yet(webui):
    webui.sd_models.model_data.sd_model = None
    extra_networks.activate(type("Bare", (), {"all_prompts": None})(), {})
    assert webui.reports == []


def test_another_checkpoint_in_place(webui):
    adapter = put(webui)
    webui.picture("x <lyco:ink>")
    state = other_state(checkpoint())
    webui.model.load_in_place(state, "second")
    torch.testing.assert_close(webui.picture("x <lyco:ink>").image, expected(Request(adapter), state=state))
    assert torch.equal(webui.picture("x").image, expected(state=state))


def test_another_model_and_back(webui):
    adapter = put(webui)
    plain = webui.picture("x").image
    first = webui.picture("x <lyco:ink>").image
    old, webui.model = webui.model, checkpoint()
    webui.sd_models.model_data.sd_model = webui.model
    torch.testing.assert_close(webui.picture("x <lyco:ink>").image, expected(Request(adapter)))
    with torch.no_grad():
        assert torch.equal(old.denoise(old.text()), plain)
    webui.model = webui.sd_models.model_data.sd_model = old
    assert torch.equal(webui.picture("x <lyco:ink>").image, first)


def test_a_model_thrown_away_is_freed(webui):
    put(webui)
    webui.picture("x <lyco:ink>")
    gone = weakref.ref(webui.model)
    webui.model.to("meta")
    webui.sd_models.model_data.loaded_sd_models.clear()
    webui.model = webui.sd_models.model_data.sd_model = checkpoint()
    webui.conds.clear()
    webui.picture("x <lyco:ink>")
    gc.collect()
    assert gone() is None


def test_a_new_text_wrapper_and_a_changed_vae_change_nothing(webui):
    put(webui)
    first = webui.picture("x <lyco:ink>").image
    webui.model.rehijack()
    assert torch.equal(webui.picture("x <lyco:ink>").image, first)


def test_weights_that_moved_are_known_again(webui):
    """As between two runs with --medvram: the same values in another place."""
    put(webui)
    plain = webui.picture("x").image
    first = webui.picture("x <lyco:ink>").image
    for parameter in webui.model.parameters():
        parameter.data = parameter.data.clone()
    assert torch.equal(webui.picture("x <lyco:ink>").image, first)
    assert torch.equal(webui.picture("x").image, plain)


def test_unet_replaced_by_an_engine(webui):
    put(webui), put_text(webui)
    webui.sd_unet.current_unet = object()
    job = webui.picture("x <lyco:ink><lyco:words>")
    assert any("SD Unet" in line for line in job.comments)
    fresh = checkpoint().unet.state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in webui.model.unet.state_dict().items())


def test_reload_restores_and_doubles_nothing(webui):
    put(webui)
    plain = webui.picture("x").image
    first = webui.picture("x <lyco:ink>").image
    webui.call("script_unloaded")
    assert torch.equal(webui.model.denoise(webui.model.text()), plain)
    assert isinstance(extra_networks.extra_network_registry["lora"], builtin_lora.ExtraNetworkLora)
    assert "lyco" not in extra_networks.extra_network_registry
    webui.load_scripts()
    assert torch.equal(webui.picture("x <lora:ink>").image, first)


def test_without_the_builtin(alone):
    put(alone)
    assert not torch.equal(alone.picture("x <lora:ink>").image, alone.picture("x").image)


@pytest.mark.parametrize("maker", [oft, lokr])
def test_rotations_and_products(alone, maker):
    adapter = put(alone, "other", maker=maker)
    torch.testing.assert_close(alone.picture("x <lyco:other:0.6>").image, expected(Request(adapter, 0.6, 0.6)))


def test_a_refiner_of_another_kind_and_the_next_picture(webui):
    """A full load in the middle of sampling: activated with nothing, on a model that was not there before."""
    adapter = put(webui)
    webui.picture("x <lyco:ink>")
    base, webui.model = webui.model, checkpoint()
    webui.sd_models.model_data.sd_model = webui.model
    extra_networks.activate(type("Bare", (), {"all_prompts": None, "scripts": None})(), {})
    assert hooks(webui.model) == hooks(base) == 0
    webui.model = webui.sd_models.model_data.sd_model = base
    torch.testing.assert_close(webui.picture("x <lyco:ink>").image, expected(Request(adapter)))


def test_a_checkpoint_loaded_in_the_middle_of_a_picture_keeps_the_adapter(webui):
    """A refiner of the same kind: nothing is called, the weights are overwritten; the guard sees to it."""
    adapter = put(webui)
    job = Job(webui, ["x <lyco:ink>"])
    job.activate()
    state = other_state(checkpoint())
    webui.model.load_in_place(state, "refiner")
    with torch.no_grad():
        image = webui.model.denoise(webui.model.text())
    torch.testing.assert_close(image, expected(Request(adapter), state=state))
