"""Where diffusers' `load_lora_weights` and `fuse_lora` are not what the trainer made, and we are."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from safetensors.torch import save_file

from lib_adapters import Request, Session, open_adapter
from tests.support.peer_libraries import RIGHT, releases_of
from tests.support.sample_adapters import layers
from tests.support.tiny_models import clip, diffusers_unet

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1."
QUERY, VALUE = ATTENTION + "to_q", ATTENTION + "to_v"
TEXT = "text_model.encoder.layers.0."
pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers' own


@pytest.fixture(autouse=True)
def counted(tried):
    tried("what peers get wrong", "runs beside the trainer").add()


@cache
def models():
    return diffusers_unet(), clip()


def noise(*shape, size=0.2):
    return torch.randn(shape) * size


def lora(path, rank=4, alpha=2.0, stem="lora_unet_"):
    """The leaves of one layer and its ΔW."""
    shape = shape_of(path)
    up, down = noise(shape[0], rank, *(1 for _ in shape[2:])), noise(rank, *shape[1:])
    leaves = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(alpha)}
    delta = (up.flatten(1) @ down.flatten(1)).view(shape) * alpha / rank
    return {f"{stem}{path.replace('.', '_')}.{leaf}": value for leaf, value in leaves.items()}, {path: delta}


def shape_of(path):
    return {**layers(models()[0]), **{with_model(name): shape for name, shape in layers(models()[1]).items()}}[path]


def with_model(name):
    """transformers 5 has no `text_model` in front."""
    return name if name.startswith("text_model.") else f"text_model.{name}"


class Both:
    """One file in diffusers and in ours, on copies of the same models."""

    def __init__(self, tensors, folder, metadata=None):
        save_file(
            {key: value.clone().contiguous() for key, value in tensors.items()}, folder / "a.safetensors", metadata
        )
        self.folder = folder
        self.plain = weights(*models())

    def theirs(self):
        import diffusers

        unet, encoder = map(copy.deepcopy, models())
        nothing = {"vae": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}
        self.pipe = diffusers.StableDiffusionPipeline(
            unet=unet,
            text_encoder=encoder,
            scheduler=diffusers.DDIMScheduler(),
            **nothing,
            requires_safety_checker=False,
        )
        self.pipe.load_lora_weights(str(self.folder), weight_name="a.safetensors")
        self.pipe.fuse_lora()
        return self.changes(weights(unet, encoder))

    def ours(self):
        unet, encoder = map(copy.deepcopy, models())
        with Session(unet=unet, text_encoders=[encoder]) as session:
            (report,) = session.activate([Request(open_adapter(self.folder / "a.safetensors"))]).adapters
            assert (report.error, report.unmatched) == (None, [])
            changed = self.changes(weights(unet, encoder))
        assert not self.changes(weights(unet, encoder))
        return changed

    def changes(self, now):
        return {path: now[path] - was for path, was in self.plain.items() if not torch.equal(now[path], was)}


def weights(unet, encoder):
    found = {name: value for name, value in unet.state_dict().items()}
    found |= {with_model(name): value for name, value in encoder.state_dict().items()}
    found = {name.replace(".base_layer", ""): value.clone() for name, value in found.items() if "lora_" not in name}
    return {name.removesuffix(".weight"): value for name, value in found.items()}


def same(changes, expected):
    assert changes.keys() == expected.keys()
    for path, delta in expected.items():
        torch.testing.assert_close(changes[path], delta, rtol=RIGHT, atol=RIGHT * float(delta.abs().max()))


def base(path):
    return models()[0].get_parameter(f"{path}.weight").detach()


@releases_of("test_dora_scale_is_dropped")
def test_dora_scale_is_dropped(release, tmp_path):
    torch.manual_seed(0)
    tensors, expected = lora(QUERY)
    delta = expected[QUERY]
    magnitude = torch.rand(len(delta), 1) + 0.5
    both = Both({**tensors, f"lora_unet_{QUERY.replace('.', '_')}.dora_scale": magnitude}, tmp_path)
    v = base(QUERY) + delta
    truth = v * magnitude / v.norm(dim=1, keepdim=True) - base(QUERY)
    same(both.ours(), {QUERY: truth})
    assert (both.theirs()[QUERY] - truth).norm() > 0.5 * truth.norm()


@releases_of("test_alpha_by_layer_is_lost")
def test_alpha_by_layer_is_lost(release, tmp_path):
    """As an extraction with a rank for each layer writes them: alpha is the rank."""
    torch.manual_seed(0)
    ranks = {QUERY: 2, VALUE: 8, ATTENTION + "to_k": 8}
    parts = [lora(path, rank, float(rank)) for path, rank in ranks.items()]
    expected = {path: delta for _, part in parts for path, delta in part.items()}
    both = Both({key: value for tensors, _ in parts for key, value in tensors.items()}, tmp_path)
    same(both.ours(), expected)
    torch.testing.assert_close(both.theirs()[QUERY], expected[QUERY] * 4, rtol=1e-3, atol=1e-5)


FOREIGN = {
    "LoHa": {"hada_w1_a": (32, 4), "hada_w1_b": (4, 32), "hada_w2_a": (32, 4), "hada_w2_b": (4, 32)},
    "LoKr": {"lokr_w1": (4, 4), "lokr_w2": (8, 8)},
    "IA3": {"weight": (32,), "on_input": (1,)},
    "GLoRA": {"a1.weight": (32, 4), "a2.weight": (4, 32), "b1.weight": (32, 4), "b2.weight": (4, 32)},
    "OFT": {"oft_blocks": (8, 4, 4)},
    "Full": {"diff": (32, 32)},
    "Norm": {"w_norm": (32,), "b_norm": (32,)},
    "tucker": {"lora_up.weight": (32, 2, 1, 1), "lora_down.weight": (2, 32, 1, 1), "lora_mid.weight": (2, 2, 3, 3)},
}
PLACES = {"Norm": ATTENTION.replace("attn1.", "norm1"), "tucker": "down_blocks.0.resnets.0.conv1"}


@pytest.mark.parametrize("name", FOREIGN)
@releases_of("test_other_algorithms_refuse_the_file")
def test_other_algorithms_refuse_the_file(release, name, tmp_path):
    torch.manual_seed(0)
    plain, expected = lora(QUERY)
    place = PLACES.get(name, VALUE)
    tensors = {f"lora_unet_{place.replace('.', '_')}.{leaf}": noise(*shape) for leaf, shape in FOREIGN[name].items()}
    both = Both({**plain, **tensors}, tmp_path)
    with pytest.raises(ValueError, match="have not been correctly renamed"):
        both.theirs()
    changes = both.ours()
    assert {QUERY, place} <= changes.keys()
    same({QUERY: changes[QUERY]}, expected)


def pefts_names(alpha, folder, prefix):
    torch.manual_seed(0)
    tensors, expected = lora(QUERY, alpha=alpha)
    up, down, stored = tensors.values()
    named = {"lora_B.weight": up, "lora_A.weight": down, **({"alpha": stored} if alpha != 4 else {})}
    return Both({f"{prefix}{QUERY}.{leaf}": value for leaf, value in named.items()}, folder), expected


@releases_of("test_pefts_names_apply_nothing")
def test_pefts_names_apply_nothing(release, tmp_path):
    both, expected = pefts_names(4.0, tmp_path, "base_model.model.")
    assert both.theirs() == {}
    same(both.ours(), expected)


@releases_of("test_alpha_beside_pefts_names_is_refused")
def test_alpha_beside_pefts_names_is_refused(release, tmp_path):
    both, expected = pefts_names(2.0, tmp_path, "unet.")
    with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
        both.theirs()
    same(both.ours(), expected)


@releases_of("test_text_attention_without_its_projection_is_left_out")
def test_text_attention_without_its_projection_is_left_out(release, tmp_path):
    torch.manual_seed(0)
    names = [f"{TEXT}{name}" for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1")]
    parts = [lora(name, stem="lora_te_") for name in names]
    both = Both({key: value for tensors, _ in parts for key, value in tensors.items()}, tmp_path)
    assert both.theirs().keys() == {names[-1]}
    same(both.ours(), {path: delta for _, part in parts for path, delta in part.items()})


@releases_of("test_outer_layers_are_left_out")
def test_outer_layers_are_left_out(release, tmp_path):
    torch.manual_seed(0)
    parts = [lora(path) for path in ("conv_in", "time_embedding.linear_1", QUERY)]
    both = Both({key: value for tensors, _ in parts for key, value in tensors.items()}, tmp_path)
    assert both.theirs().keys() == {QUERY}
    same(both.ours(), {path: delta for _, part in parts for path, delta in part.items()})


@releases_of("test_unfuse_is_not_exact")
def test_unfuse_is_not_exact(release, tmp_path):
    torch.manual_seed(0)
    tensors, expected = lora(QUERY)
    both = Both(tensors, tmp_path)
    same(both.theirs(), expected)
    both.pipe.unfuse_lora()
    both.pipe.unload_lora_weights()
    assert both.changes(weights(both.pipe.unet, both.pipe.text_encoder)).keys() == {QUERY}
    same(both.ours(), expected)  # which also looks that nothing is left


@releases_of("test_diffusers_dylora_is_too_weak")
def test_diffusers_dylora_is_too_weak(release, tmp_path):
    torch.manual_seed(0)
    tensors, expected = lora(QUERY, alpha=1.0)
    facts = {"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "dylora", "block_size": "4"}'}
    both, truth = Both(tensors, tmp_path, facts), {path: delta * 4 for path, delta in expected.items()}
    same(both.theirs(), expected)
    same(both.ours(), truth)
