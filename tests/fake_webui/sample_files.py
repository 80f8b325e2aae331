"""Adapter files put where the double looks for them."""

from __future__ import annotations

from tests.support.sample_adapters import adapter_for


def put(webui, name="ink", folder="LyCORIS", **options):
    path = webui.folder / folder / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    return adapter_for(webui.model.unet, path, only=("input_blocks.1.",), **options)


def put_text(webui, name="words"):
    path = webui.folder / "LyCORIS" / f"{name}.safetensors"
    return adapter_for(webui.model.clip, path, only=("layers.3.mlp",), prefix="lora_te_")
