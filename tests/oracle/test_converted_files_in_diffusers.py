"""Files that `convert` wrote, loaded by diffusers itself: its fused weights and ours must be the same."""

from __future__ import annotations

import pytest
import torch
from diffusers.utils import USE_PEFT_BACKEND
from safetensors.torch import save_file

from lib_adapters import Request, open_adapter
from lib_adapters.app import main as app
from lib_adapters.hosts.diffusers.kohya_names import KOHYA_COMPONENTS, with_text_model
from lib_adapters.hosts.diffusers.load_pipeline import components_of, create_session, open_pipeline
from tests.support.sample_adapters import layers, lora

pytestmark = pytest.mark.filterwarnings("ignore")
CPU = torch.device("cpu")


def kohya_file(path, roots):
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for component, root in roots.items():
        part = "te" if component == "text_encoder" and len(roots) == 2 else KOHYA_COMPONENTS[component]
        for name, shape in layers(root).items():
            if name != "text_projection":  # diffusers' loader passes over it
                flat = with_text_model(name).replace(".", "_")
                tensors |= {f"lora_{part}_{flat}.{leaf}": value for leaf, value in lora(shape, generator).items()}
    halved = {key: value * 0.5 if key.endswith("alpha") else value.contiguous() for key, value in tensors.items()}
    save_file(halved, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_diffusers_reads_what_convert_writes(family, request, tmp_path):
    pytest.importorskip("peft", reason="oracle: peft is not installed")
    if not USE_PEFT_BACKEND:
        pytest.skip("diffusers fuses with peft only from transformers 4.34 on")
    folder = request.getfixturevalue(f"{family}_folder")
    ours, theirs = open_pipeline(folder, CPU), open_pipeline(folder, CPU)
    file = kohya_file(tmp_path / "in.safetensors", components_of(ours))
    (report,) = create_session(ours).activate([Request(open_adapter(file))]).adapters
    assert (report.matched, report.unmatched) == (report.total, [])
    assert app.main(["convert", str(file), str(tmp_path / "out.safetensors"), "--to", "diffusers"]) == 0
    theirs.load_lora_weights(str(tmp_path), weight_name="out.safetensors")
    theirs.fuse_lora()
    for name, root in components_of(ours).items():
        fused = {
            key.replace(".base_layer", ""): value for key, value in components_of(theirs)[name].state_dict().items()
        }
        for key, value in root.state_dict().items():
            torch.testing.assert_close(fused[key], value, rtol=0, atol=1e-6)
