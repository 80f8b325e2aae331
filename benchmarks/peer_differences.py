"""Known deviations of other tools: the rows of the table in docs/formats.md, each with the test that shows it.

A row is about files that a trainer writes, or about what every caller expects (strength 0 is off). `releases` are those
that the test was run with; a tool that is not on PyPI has no test and is named with the place in its source.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.markdown import table


@dataclass(frozen=True)
class Fault:
    peer: str
    releases: tuple[str, ...]
    what: str
    test: str = ""  # in tests/test_peers_*.py; it also shows that lib_adapters is right
    source: str = ""  # instead of a test: the place in the source
    fixed: str = ""  # the first release without it


THREE = ("3.0.0.post1", "3.1.0", "3.2.0.post2", "3.4.0", "4.1.3")
DIFFUSERS = ("0.35.2", "0.42.1")
PEFT = ("0.18.1", "0.21.2")

LYCORIS = (
    Fault("LyCORIS", THREE[1:], "`merge_to` of a LoHa multiplies by alpha / rank twice; its `forward` does so once",
          "test_loha_is_merged_with_its_scale_squared"),
    Fault("LyCORIS", THREE, "`merge_to` of a LoKr multiplies by alpha / rank twice",
          "test_lokr_is_merged_with_its_scale_squared"),
    Fault("LyCORIS", THREE[2:], "`onfly_restore` on the CPU restores merged weights: its backup shares their memory",
          "test_restore_leaves_the_adapter_in_the_weights"),
    Fault("LyCORIS", ("4.1.3",), "`onfly_restore` leaves the bias of a full adapter in the layer",
          "test_restore_leaves_the_bias"),
    Fault("LyCORIS", THREE[2:], "a DoRA at strength 0 still applies the undecomposed LoRA at full strength",
          "test_dora_at_strength_0_is_not_off"),
    Fault("LyCORIS", THREE[2:], "DoRA files of its releases before 3.2 (one magnitude per column) raise",
          "test_dora_by_columns_raises"),
    Fault("LyCORIS", THREE, "its IA3 files raise TypeError",
          "test_ia3_raises"),
    Fault("LyCORIS", THREE, "tucker LoKr files raise, because the rank is read from another axis",
          "test_tucker_lokr_raises"),
    Fault("LyCORIS", THREE, "OFT files of its release 2.0 (`oft_diag`) raise, and the whole file is not loaded",
          "test_first_oft_files_raise"),
    Fault("LyCORIS", THREE, "GLoRA files of its releases before 3.0 raise",
          "test_first_glora_files_raise"),
    Fault("LyCORIS", THREE, "a file without alpha raises TypeError; other tools use alpha = rank",
          "test_no_alpha_raises"),
    Fault("LyCORIS", THREE, "its DyLoRA files are loaded as LoRA, at 1 / block_size of the trained strength",
          "test_dylora_is_too_weak"),
    Fault("LyCORIS", THREE, "rs-LoRA files of its release 3.0 (alpha not corrected) are too weak by √rank",
          "test_first_rs_lora_files_are_too_weak"),
    Fault("LyCORIS", ("3.1.0", "3.2.0.post2", "3.4.0"), "merging a full adapter raises if the layer has a bias",
          "test_full_with_a_bias_raises", fixed="4.1.3"),
    Fault("LyCORIS", ("3.0.0.post1",), "OFT files are loaded and merged without effect",
          "test_oft_has_no_effect", fixed="3.1.0"),
)  # fmt: skip

OTHERS = (
    Fault("PEFT", PEFT, "`unmerge` subtracts the delta: no weight is restored bit for bit; in bfloat16 over 0.4 % off",
          "test_unmerge_is_not_exact"),
    Fault("PEFT", PEFT, "`unmerge` of an IA3 divides: rows that were multiplied by 0 are lost",
          "test_unmerge_loses_rows_scaled_by_zero"),
    Fault("PEFT", PEFT, "OFT on a 3x3 convolution: the merged layer differs from the trained one",
          "test_merged_oft_convolution_is_another"),
    Fault("PEFT", PEFT, "a DoRA at scale 0 still changes the layer",
          "test_dora_at_scale_0_is_not_off"),
    Fault("diffusers", DIFFUSERS, "`dora_scale` is dropped with a warning, so a DoRA file is applied as plain LoRA",
          "test_dora_scale_is_dropped"),
    Fault("diffusers", DIFFUSERS, "alphas that differ by layer are lost in attention: each uses the most common one",
          "test_alpha_by_layer_is_lost"),
    Fault("diffusers", DIFFUSERS, "a file with a LoHa, LoKr, IA3, GLoRA, OFT, full, norm or tucker layer is refused",
          "test_other_algorithms_refuse_the_file"),
    Fault("diffusers", DIFFUSERS, "a file with PEFT's names (`base_model.model.`) loads without error, without effect",
          "test_pefts_names_apply_nothing"),
    Fault("diffusers", DIFFUSERS, "a file with PEFT's names and `.alpha` (as several trainers write) is refused",
          "test_alpha_beside_pefts_names_is_refused"),
    Fault("diffusers", DIFFUSERS, "q, k and v of a text encoder are skipped if the file has no out_proj",
          "test_text_attention_without_its_projection_is_left_out"),
    Fault("diffusers", ("0.35.2",), "`conv_in` and `time_embedding` layers (LyCORIS' preset `full`) are skipped",
          "test_outer_layers_are_left_out", fixed="0.42.1"),
    Fault("diffusers", DIFFUSERS, "`unfuse_lora` does not restore the weights bit for bit",
          "test_unfuse_is_not_exact"),
    Fault("diffusers", DIFFUSERS, "LyCORIS' DyLoRA files are applied at 1 / block_size of the trained strength",
          "test_diffusers_dylora_is_too_weak"),
)  # fmt: skip

A1111, COMFY = "A1111 built-in", "ComfyUI"
READ = (
    Fault(A1111, ("1.10.1",), "DoRA with one magnitude per row (LyCORIS since 3.2, PEFT) is normalised by column",
          source="extensions-builtin/Lora/network.py:181"),
    Fault(A1111, ("1.10.1",), "with `lora_A`/`lora_B` names alpha and magnitudes are dropped",
          source="extensions-builtin/Lora/network_lora.py:14"),
    Fault(A1111, ("1.10.1",), "GLoRA ignores alpha; files by LyCORIS 3.0 or later fail on every layer",
          source="extensions-builtin/Lora/network_glora.py:31"),
    Fault(A1111, ("1.10.1",), "a file with one layer of an unknown algorithm is refused as a whole",
          source="extensions-builtin/Lora/networks.py:253"),
    Fault("a1111-sd-webui-lycoris", ("47ddd4a",), "OFT without a constraint has no effect",
          source="l_network_oft.py:65"),
    Fault(COMFY, ("a125cd8",), "DoRA by row is normalised by the unpatched weight",
          source="comfy/weight_adapter/base.py:67"),
    Fault(COMFY, ("a125cd8",), "OFT's strength is applied twice",
          source="comfy/weight_adapter/oft.py:152 and 158"),
    Fault("Forge", ("dfdcbab",), "DoRA by row is normalised by the unpatched weight; no OFT",
          source="backend/patcher/lora.py:58"),
    Fault("SD.Next", ("431bcc3",), "OFT without a constraint has no effect",
          source="modules/lora/network_oft.py:63"),
    Fault("InvokeAI", ("8e71a8a",), "DoRA on a LoHa or LoKr raises KeyError",
          source="invokeai/backend/patches/layers/utils.py:18"),
    Fault("sd-scripts", ("48d368f",), "SD3 files trained with split_qkv are saved and loaded at a third",
          source="networks/lora_sd3.py:543"),
)  # fmt: skip

FAULTS = (*LYCORIS, *OTHERS, *READ)


def faults_table() -> str:
    """Return all rows as a Markdown table."""
    rows = [[f"{fault.peer} {', '.join(fault.releases)}", _what(fault), _proof(fault)] for fault in FAULTS]
    return table([["release", "behaviour", "shown by"], *rows])


def _what(fault: Fault) -> str:
    return f"{fault.what} (fixed in {fault.fixed})" if fault.fixed else fault.what


def _proof(fault: Fault) -> str:
    return f"`{fault.test}`" if fault.test else f"source: `{fault.source}`"
