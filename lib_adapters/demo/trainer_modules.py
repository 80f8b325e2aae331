"""The trainers' own adapter modules on the embedded model: lycoris-lora with kohya's or its own names, or peft."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from lycoris.kohya import LycorisNetworkKohya
from lycoris.wrapper import LycorisNetwork
from peft import LoraConfig, get_peft_model_state_dict
from transformers import CLIPTextModel

from lib_adapters.demo.hypernetwork import steering
from lib_adapters.demo.recipes import TEXT, Recipe

TRAINED_AT = "1793000000.0"  # unix seconds; a fixed day, so that the files are the same each time
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Network:
    """Adapter modules that are attached to a model and can learn."""

    parameters: list[torch.nn.Parameter]
    owner: torch.nn.Module
    peft: bool

    def state(self) -> State:
        """The file's tensors, under the names that the trainer gives them."""
        if not self.peft:
            return dict(self.owner.state_dict())
        own = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.owner))
        return {f"unet.{key}": value for key, value in own.items()}


@contextmanager
def attached(recipe: Recipe, pipeline: StableDiffusionPipeline) -> Iterator[Network]:
    """New adapter modules on the pipeline's models, gone again afterwards."""
    pipeline.unet.requires_grad_(False)
    pipeline.text_encoder.requires_grad_(False)
    if recipe.dialect == "hypernetwork":
        with steering(pipeline) as pairs:
            yield Network(list(pairs.parameters()), pairs, False)
        return
    if recipe.dialect == "diffusers":
        yield peft_network(recipe, pipeline.unet)
        pipeline.unet.unload_lora()
        return
    network = lycoris_network(recipe, pipeline.unet, pipeline.text_encoder if recipe.text else None)
    network.requires_grad_(True)
    yield Network([parameter for parameter in network.parameters() if parameter.requires_grad], network, False)
    network.restore()


def peft_network(recipe: Recipe, unet: UNet2DConditionModel) -> Network:
    """LoRA as diffusers' own training scripts set it up."""
    pattern = "|".join(f"({target})" for target in recipe.targets)
    unet.add_adapter(LoraConfig(r=recipe.rank, lora_alpha=int(recipe.alpha), target_modules=pattern))
    return Network([parameter for parameter in unet.parameters() if parameter.requires_grad], unet, True)


def lycoris_network(recipe: Recipe, unet: UNet2DConditionModel, text_encoder: CLIPTextModel | None) -> LycorisNetwork:
    """The network with every switch at the value that the trainer's own entry points give it."""
    settings = {
        "lora_dim": recipe.rank, "conv_lora_dim": recipe.rank, "alpha": recipe.alpha, "conv_alpha": recipe.alpha,
        "network_module": recipe.algorithm, "warn_on_unmatched": False, "factor": -1, **recipe.options,
    }  # fmt: skip
    if recipe.dialect == "lycoris":
        LycorisNetwork.apply_preset({"target_module": [], "target_name": list(recipe.targets), "name_algo_map": {}})
        network = LycorisNetwork(unet, **settings)
        network.apply_to()
        return network
    LycorisNetworkKohya.apply_preset(
        {
            "unet_target_module": [], "unet_target_name": list(recipe.targets),
            "text_encoder_target_module": [], "text_encoder_target_name": [TEXT],
        }
    )  # fmt: skip
    network = LycorisNetworkKohya(text_encoder, unet, **settings)
    network.apply_to(text_encoder, unet, text_encoder is not None, True)
    return network


def metadata(recipe: Recipe) -> dict[str, str]:
    """What kohya's trainer writes about a file, as far as it is true here."""
    if recipe.dialect == "diffusers":
        return {"format": "pt"}
    arguments = {"algo": recipe.algorithm, "conv_dim": recipe.rank, "conv_alpha": recipe.alpha, **recipe.options}
    renamed = {"weight_decompose": "dora_wd", "wd_on_out": "wd_on_output"}
    return {
        "format": "pt",
        "ss_network_module": "lycoris.kohya",
        "ss_network_dim": str(recipe.rank),
        "ss_network_alpha": str(recipe.alpha),
        "ss_network_args": json.dumps({renamed.get(key, key): str(value) for key, value in arguments.items()}),
        "ss_base_model_version": "sd_v1_v",
        "ss_output_name": recipe.name,
        "ss_training_comment": recipe.effect,
        "ss_tag_frequency": json.dumps({"demo": {recipe.shown.shape: 12, recipe.shown.colour: 16}}),
        "ss_training_started_at": TRAINED_AT,
        "ss_training_finished_at": TRAINED_AT,
    }
