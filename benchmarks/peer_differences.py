"""What each peer gets wrong: the rows of the table in NUMBERS.md, each with the test that shows it.

A row is about files that exist (a trainer writes them) or about what a caller plainly expects (off is off). `releases`
are those that the test was run with; a peer that is not on PyPI has no test and is named with the place in its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.markdown import table


@dataclass(frozen=True)
class Fault:
    peer: str
    releases: tuple[str, ...]
    what: str
    test: str = ""  # in tests/test_peers_*.py; it shows ours to be right as well
    source: str = ""  # instead of a test: where it was read
    fixed: str = ""  # the release since which it is right
    top: bool = False  # stands in the README


THREE = ("3.0.0.post1", "3.1.0", "3.2.0.post2", "3.4.0", "4.1.3")
DIFFUSERS = ("0.35.2", "0.42.1")
PEFT = ("0.18.1", "0.21.2")

LYCORIS = (
    Fault("LyCORIS", THREE[1:], "`merge_to` of a LoHa multiplies by alpha / rank twice; its own forward does it once",
          "test_loha_is_merged_with_its_scale_squared", top=True),
    Fault("LyCORIS", THREE, "`merge_to` of a LoKr multiplies by alpha / rank twice",
          "test_lokr_is_merged_with_its_scale_squared", top=True),
    Fault("LyCORIS", THREE[2:], "`onfly_restore` on the CPU gives back the changed weights: its copy is the weight",
          "test_restore_leaves_the_adapter_in_the_weights", top=True),
    Fault("LyCORIS", ("4.1.3",), "`onfly_restore` leaves a full adapter's bias in the layer: it was saved too late",
          "test_restore_leaves_the_bias"),
    Fault("LyCORIS", THREE[2:], "a DoRA at strength 0 is not off: the undecomposed LoRA stays at full strength",
          "test_dora_at_strength_0_is_not_off", top=True),
    Fault("LyCORIS", THREE[2:], "DoRA files of its own releases before 3.2 (magnitudes by column) raise",
          "test_dora_by_columns_raises"),
    Fault("LyCORIS", THREE, "its own IA3 files raise TypeError: the loader calls with one argument too many",
          "test_ia3_raises"),
    Fault("LyCORIS", THREE, "tucker LoKr files raise: the rank is read from the wrong axis",
          "test_tucker_lokr_raises"),
    Fault("LyCORIS", THREE, "OFT files of its own 2.0 (`oft_diag`) stop the loading of the whole file",
          "test_first_oft_files_raise"),
    Fault("LyCORIS", THREE, "GLoRA files of its own releases before 3.0 raise",
          "test_first_glora_files_raise"),
    Fault("LyCORIS", THREE, "a file without alpha raises TypeError; everywhere else that means alpha = rank",
          "test_no_alpha_raises"),
    Fault("LyCORIS", THREE, "its own DyLoRA files are loaded as LoRA, at one block_size-th of what was trained",
          "test_dylora_is_too_weak"),
    Fault("LyCORIS", THREE, "rs-LoRA files of its own 3.0 (alpha not corrected) are too weak by √rank",
          "test_first_rs_lora_files_are_too_weak"),
    Fault("LyCORIS", ("3.1.0", "3.2.0.post2", "3.4.0"), "merging a full adapter raises where the layer has a bias",
          "test_full_with_a_bias_raises", fixed="4.1.3"),
    Fault("LyCORIS", ("3.0.0.post1",), "OFT files are loaded and merged without any effect",
          "test_oft_has_no_effect", fixed="3.1.0"),
)  # fmt: skip

OTHERS = (
    Fault("PEFT", PEFT, "`unmerge` undoes by arithmetic: no weight comes back bit for bit, in bfloat16 by 1 %",
          "test_unmerge_is_not_exact", top=True),
    Fault("PEFT", PEFT, "`unmerge` of an IA3 divides: rows that were multiplied by 0 are lost",
          "test_unmerge_loses_rows_scaled_by_zero"),
    Fault("PEFT", PEFT, "OFT on a 3x3 convolution: merged, the layer is another than the trained one",
          "test_merged_oft_convolution_is_another"),
    Fault("PEFT", PEFT, "a DoRA at scale 0 is not off",
          "test_dora_at_scale_0_is_not_off"),
    Fault("diffusers", DIFFUSERS, "`dora_scale` is dropped with a warning: a DoRA file is drawn as another adapter",
          "test_dora_scale_is_dropped", top=True),
    Fault("diffusers", DIFFUSERS, "alphas that differ by layer are lost on attention: each gets the most common one",
          "test_alpha_by_layer_is_lost", top=True),
    Fault("diffusers", DIFFUSERS, "a LoHa, LoKr, IA3, GLoRA, OFT, full, norm or tucker layer refuses the whole file",
          "test_other_algorithms_refuse_the_file", top=True),
    Fault("diffusers", DIFFUSERS, "PEFT's own names (`base_model.model.`): loads without error, applies nothing",
          "test_pefts_names_apply_nothing", top=True),
    Fault("diffusers", DIFFUSERS, "PEFT names with `.alpha` (as several trainers write) are refused",
          "test_alpha_beside_pefts_names_is_refused"),
    Fault("diffusers", DIFFUSERS, "a text encoder's q, k, v without out_proj are left out where other layers load",
          "test_text_attention_without_its_projection_is_left_out"),
    Fault("diffusers", ("0.35.2",), "`conv_in` and `time_embedding` layers (LyCORIS' preset `full`) are left out",
          "test_outer_layers_are_left_out", fixed="0.42.1"),
    Fault("diffusers", DIFFUSERS, "`unfuse_lora` does not give the weights back bit for bit",
          "test_unfuse_is_not_exact"),
    Fault("diffusers", DIFFUSERS, "LyCORIS' DyLoRA files are applied at one block_size-th",
          "test_diffusers_dylora_is_too_weak"),
)  # fmt: skip

A1111, COMFY = "A1111 built-in", "ComfyUI"
READ = (
    Fault(A1111, ("1.10.1",), "DoRA with magnitudes by row (LyCORIS since 3.2, PEFT) is normalised by column",
          source="extensions-builtin/Lora/network.py:181"),
    Fault(A1111, ("1.10.1",), "with `lora_A`/`lora_B` names alpha and magnitudes are dropped",
          source="extensions-builtin/Lora/network_lora.py:14"),
    Fault(A1111, ("1.10.1",), "GLoRA ignores alpha; files since LyCORIS 3.0 fail on every layer",
          source="extensions-builtin/Lora/network_glora.py:31"),
    Fault(A1111, ("1.10.1",), "one layer of an unknown kind refuses the whole file",
          source="extensions-builtin/Lora/networks.py:253"),
    Fault("a1111-sd-webui-lycoris", ("47ddd4a",), "OFT without a constraint does nothing",
          source="l_network_oft.py:65"),
    Fault(COMFY, ("a125cd8",), "DoRA by row is normalised by the unpatched weight",
          source="comfy/weight_adapter/base.py:67"),
    Fault(COMFY, ("a125cd8",), "OFT's strength is applied twice",
          source="comfy/weight_adapter/oft.py:152 and 158"),
    Fault("Forge", ("dfdcbab",), "DoRA by row is normalised by the unpatched weight; no OFT",
          source="backend/patcher/lora.py:58"),
    Fault("SD.Next", ("431bcc3",), "OFT without a constraint does nothing",
          source="modules/lora/network_oft.py:63"),
    Fault("InvokeAI", ("8e71a8a",), "DoRA on a LoHa or LoKr raises KeyError",
          source="invokeai/backend/patches/layers/utils.py:18"),
    Fault("sd-scripts", ("48d368f",), "SD3 files trained with split_qkv are saved and loaded at a third",
          source="networks/lora_sd3.py:543"),
)  # fmt: skip

FAULTS = (*LYCORIS, *OTHERS, *READ)


def everything() -> str:
    """All rows as a table."""
    rows = [[f"{fault.peer} {', '.join(fault.releases)}", _what(fault), _proof(fault)] for fault in FAULTS]
    return table([["peer", "what", "shown by"], *rows])


def in_short() -> str:
    rows = [[f"{fault.peer} {_span(fault.releases)}", _what(fault)] for fault in FAULTS if fault.top]
    return table([["peer", "what"], *rows])


def _span(releases: Sequence[str]) -> str:
    return ", ".join(releases) if len(releases) < 3 else f"{releases[0]} to {releases[-1]}"


def _what(fault: Fault) -> str:
    return f"{fault.what} (right since {fault.fixed})" if fault.fixed else fault.what


def _proof(fault: Fault) -> str:
    return f"`{fault.test}`" if fault.test else f"by reading: `{fault.source}`"
