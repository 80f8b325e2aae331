"""The scale of LoKr layers with two full matrices, which depends on the trainer named in the metadata."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from lib_adapters.algorithms.base import MAX_SCALE, Shape
from lib_adapters.files.adapter_layers import AdapterLayer
from lib_adapters.files.loading import read_scalars
from lib_adapters.files.tensor_file import TensorFile
from lib_adapters.files.training_metadata import parse_json_object

_TOLERANCE = 0.01  # relative, of a number that may be stored in bfloat16
_ALPHA_ARGUMENTS = {"networks.cdka": "cdka_alpha", "networks.krona": "krona_alpha"}  # network module -> its argument
_FACTORS = {"lokr_w1", "lokr_w2"}


def scale_constant(metadata: Mapping[str, str], shapes: Mapping[str, Shape]) -> dict[str, float]:
    """Return {"scale": ...} for a layer of sd-scripts' `networks.cdka` or `networks.krona`, else {}.

    The scale is cdka_alpha / sqrt(r2), where r2 is the number of columns of w1 (CDKA, arXiv:2602.01267); KronA
    (arXiv:2402.17412) uses the same if it was trained with `use_cdka_scale`. Without their own alpha both use 1.
    """
    if len(shapes.get("lokr_w1", ())) != 2:
        return {}
    module = metadata.get("ss_network_module", "")
    own_alpha = next((name for start, name in _ALPHA_ARGUMENTS.items() if module.startswith(start)), None)
    if own_alpha is None:
        return {}
    arguments = parse_json_object(metadata.get("ss_network_args", ""))
    is_used = own_alpha == "cdka_alpha" or str(arguments.get("use_cdka_scale")).lower() == "true"
    alpha = _positive(arguments.get(own_alpha)) if is_used else 0.0
    return {"scale": alpha / math.sqrt(shapes["lokr_w1"][1] or 1) if alpha else 1.0}


def notes(tensor_file: TensorFile, layers: Sequence[AdapterLayer]) -> list[str]:
    """Return a note if alpha is not the rank of the training arguments, which LyCORIS writes for such layers."""
    full = [module for module in layers if module.shapes.keys() >= _FACTORS and "scale" not in module.constants]
    expected = _ranks(tensor_file.metadata) if full else []
    for alpha in read_scalars(tensor_file, full[:1], "alpha"):
        if expected and not any(_is_close(alpha, rank) for rank in expected):
            return [
                f"its LoKr layers have two full matrices and alpha {alpha:g}, where LyCORIS writes {expected[0]:g}, "
                "so another program wrote them. A scale of 1 is used, as in LyCORIS; "
                "if the effect is too strong or too weak, set the scale in the file's .json"
            ]
    return []


def _ranks(metadata: Mapping[str, str]) -> list[float]:
    """Return every alpha that LyCORIS may have written, that of linear layers first; rs-LoRA multiplies by sqrt(r)."""
    arguments = parse_json_object(metadata.get("ss_network_args", ""))
    named: Iterable[object] = (metadata.get("ss_network_dim"), arguments.get("conv_dim"))
    ranks = [rank for value in named if (rank := _positive(value))]
    return [*ranks, *(rank * math.sqrt(rank) for rank in ranks)] if _positive(metadata.get("ss_network_dim")) else []


def _is_close(alpha: float, rank: float) -> bool:
    return math.isinf(alpha) if rank > 65504 and math.isinf(alpha) else abs(alpha - rank) <= rank * _TOLERANCE


def _positive(value: object) -> float:
    """Return the value as a positive number small enough not to overflow; 0 for anything else."""
    try:
        number = float(str(value))
    except ValueError:
        return 0.0
    return number if 0 < number < MAX_SCALE * MAX_SCALE else 0.0
