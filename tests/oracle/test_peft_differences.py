"""Where PEFT's merged layer, or what it gives back, is not what PEFT trained, and ours is."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from lib_adapters import Request, Session, open_adapter
from tests.oracle.test_peft_layers import LORA, wrapped
from tests.support.peer_libraries import RIGHT, Job, bits, ours, releases_of
from tests.support.trainer_oracles import inputs, layer

KINDS = {
    "LoRA": ("LoraConfig", LORA),
    "DoRA": ("LoraConfig", {**LORA, "use_dora": True}),
    "LoHa": ("LoHaConfig", {"r": 4, "alpha": 6}),
    "LoKr": ("LoKrConfig", {"r": 2, "alpha": 6}),
    "IA3": ("IA3Config", {"feedforward_modules": []}),
    "OFT": ("OFTConfig", {"r": 0, "oft_block_size": 4, "use_cayley_neumann": True}),
    "BOFT": ("BOFTConfig", {"boft_block_size": 4}),
}
pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own


@pytest.fixture(autouse=True)
def counted(tried):
    tried("what peers get wrong", "runs beside the trainer").add()


def peft_layer(name, kind="linear", dtype=torch.float32):
    torch.manual_seed(0)
    base = layer(kind, i=32).requires_grad_(False).to(dtype)
    return base, wrapped(base, *KINDS[name]).eval().requires_grad_(False)


def job_of(base, theirs, alpha=6.0):
    """The trainer is PEFT's own forward; the file has PEFT's names and its alpha."""
    x = inputs(base)
    state = {
        key.replace(".default", ""): value for key, value in theirs.state_dict().items() if "base_layer" not in key
    }
    leaves = {key.replace("vector.weight", "vector"): value.clone() for key, value in state.items()}
    leaves |= {} if "ia3_l" in leaves else {"alpha": torch.tensor(alpha)}
    return Job(base, x, base(x), theirs(x), leaves)


@pytest.mark.parametrize("name", KINDS)
@releases_of("test_unmerge_is_not_exact")
def test_unmerge_is_not_exact(release, name, tmp_path):
    for dtype, least in ((torch.float32, 0.0), (torch.bfloat16, 0.004)):
        base, theirs = peft_layer(name, dtype=dtype)
        theirs.merge()
        theirs.unmerge()
        off = (theirs.base_layer.weight - base.weight).abs().max() / base.weight.abs().max()
        assert float(off) > least
    if name not in ("OFT", "BOFT"):  # their keys are not those of the other files
        job = job_of(*peft_layer(name))
        assert job.off(ours(job, tmp_path)) < RIGHT  # and ours is given back to the bit


@releases_of("test_unmerge_loses_rows_scaled_by_zero")
def test_unmerge_loses_rows_scaled_by_zero(release, tmp_path):
    base, theirs = peft_layer("IA3")
    theirs.ia3_l["default"][0] = 0
    job = job_of(base, theirs)
    theirs.merge()
    theirs.unmerge()
    assert not theirs.base_layer.weight[0].any()
    assert job.off(ours(job, tmp_path)) < RIGHT  # which also looks that every row is there again


@releases_of("test_merged_oft_convolution_is_another")
def test_merged_oft_convolution_is_another(release, tmp_path):
    """It turns the patches that the layer looks at, and those overlap: no weight does that. We say so."""
    base, theirs = peft_layer("OFT", "conv3x3")
    x = inputs(base)
    plain, trained = base(x), theirs(x)
    theirs.merge()
    assert (theirs(x) - trained).norm() > 0.5 * (trained - plain).norm()
    path = tmp_path / "adapter.safetensors"
    save_file({"base_model.model.layer.oft_R.weight": theirs.oft_R["default"].weight.detach().clone()}, path)
    model = torch.nn.ModuleDict({"layer": base})
    before = bits(model)
    with Session(unet=model) as session:
        (report,) = session.activate([Request(open_adapter(path))]).adapters
        assert "patches" in report.summary()
        assert all(map(torch.equal, bits(model), before))


@releases_of("test_dora_at_scale_0_is_not_off")
def test_dora_at_scale_0_is_not_off(release, tmp_path):
    base, theirs = peft_layer("DoRA")
    job = job_of(base, theirs)
    theirs.set_scale("default", 0.0)
    assert (theirs(job.x) - job.plain).norm() > 0.1 * job.plain.norm()
    assert torch.equal(ours(job, tmp_path, 0.0), job.plain)
    assert job.off(ours(job, tmp_path)) < RIGHT
