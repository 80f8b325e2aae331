"""Descriptions of hypernetwork files for `inspect` and `list`."""

from __future__ import annotations

from typing import Any

from lib_adapters.conditioning.hypernetwork_file import Hypernetwork
from lib_adapters.files.model_family import FAMILY_NAMES


def summary(found: Hypernetwork) -> dict[str, Any]:
    """The same keys as for an adapter; `algorithms` counts widths."""
    return {
        "name": found.name,
        "path": str(found.path),
        "family": found.family,
        "algorithms": {f"Hypernetwork {found.structure}": len(found.nets)},
        "rank": None,
        "alpha": None,
        "parts": ["unet"],
        "bytes": sum(
            tensor.nbytes for pair in found.state_dicts.values() for state in pair for tensor in state.values()
        ),
    }


def details(found: Hypernetwork) -> dict[str, Any]:
    return {"widths": sorted(found.nets), "metadata": {key: value for key, value in found.fields.items() if value}}


def text(found: Hypernetwork) -> list[str]:
    last = found.fields.get("activate_output")
    lines = [
        f"{found.path.name}",
        f"  kind       hypernetwork, layers {found.structure}",
        f"  activation {found.fields.get('activation_func') or 'none'}"
        f"{'' if last is None or last else ', none behind the last layer'}",
        f"  made for   {FAMILY_NAMES.get(found.family, found.family)}",
        f"  widths     {', '.join(map(str, sorted(found.nets)))}",
        f"  size       {summary(found)['bytes'] / 1e6:.1f} MB of tensors",
        f"  write      <hypernet:{found.name}:1>",
    ]
    shown = {key: str(value) for key, value in found.fields.items() if value}
    return [*lines, "", "Metadata", *(f"  {key}: {value[:100]}" for key, value in shown.items())]
