"""How strongly a file changes each block of a live model: exact for every algorithm."""

from __future__ import annotations

from lib_adapters.catalogue.strengths import Block, norm_of
from lib_adapters.files.adapter import Adapter
from lib_adapters.files.blocks import block_label, family_blocks, sort_blocks
from lib_adapters.files.tensor_keys import LayerKey
from lib_adapters.hosts.diffusers.generator import Generator
from lib_adapters.hosts.diffusers.kohya_names import KOHYA_COMPONENTS
from lib_adapters.hosts.diffusers.weight_diff import diff_weights
from lib_adapters.patching.layers import flat
from lib_adapters.patching.request import Request


def blocks_on(adapter: Adapter, studio: Generator) -> dict[str, Block]:
    found: dict[str, Block] = {name: Block() for name in family_blocks(adapter.family)}
    for change in diff_weights(studio, [Request(adapter)])[0]:
        path = change.path.removesuffix(".weight").removesuffix(".bias")
        block = found.setdefault(block_label(LayerKey(KOHYA_COMPONENTS[change.component], flat(path))), Block())
        block.layers += 1
        block.squares += norm_of(change.delta) ** 2
    return {name: found[name] for name in sort_blocks(set(found))}
