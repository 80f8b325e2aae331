"""The changes of a stack of adapters, parameter by parameter, and their export as a model folder.

The session computes; here its result is only read. So whatever the engine can apply can also be kept.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lib_adapters.errors import AdapterError, InvalidModelFolder
from lib_adapters.filesystem import replace_with_retry
from lib_adapters.hosts.diffusers.generator import Generator
from lib_adapters.hosts.diffusers.load_pipeline import components_of
from lib_adapters.patching.request import Request
from lib_adapters.session import Report


@dataclass(frozen=True)
class ParameterDiff:
    """One parameter: `before` is pristine, None where the layer had no such parameter."""

    component: str  # the folder's name for it: "unet", "text_encoder" ...
    path: str  # as the live module spells it
    original: Tensor | None
    merged: Tensor

    @property
    def delta(self) -> Tensor:
        after = self.merged.float()
        return after if self.original is None else after - self.original.float()


def diff_weights(generator: Generator, requests: Sequence[Request]) -> tuple[list[ParameterDiff], Report]:
    """Activates the requests and leaves them active; half a stack is no result, so each must apply."""
    generator.session.deactivate()
    components = components_of(generator.pipe)
    original = _tensors(components)
    report = generator.session.activate([dataclasses.replace(one, mode="merged") for one in requests])
    if failed := [one.summary() for one in report.adapters if one.error or one.out_of_range]:
        raise AdapterError(" ".join(failed))
    found = [
        ParameterDiff(component, path, original.get((component, path)), after)
        for (component, path), after in _tensors(components).items()
        if not _same(original.get((component, path)), after)
    ]
    return found, report


def _tensors(components: Mapping[str, nn.Module]) -> dict[tuple[str, str], Tensor]:
    return {
        (name, path): parameter.detach()
        for name, root in components.items()
        for path, parameter in root.named_parameters()
    }


def _same(before: Tensor | None, after: Tensor) -> bool:
    return before is not None and (before.data_ptr() == after.data_ptr() or torch.equal(before, after))


def save_merged_model(model: Path, out: Path, diffs: Iterable[ParameterDiff]) -> list[str]:
    """A copy of the folder with the changed values, in each file's own dtype and spelling; what had no place is named.

    The copy appears under its name only when it is complete.
    """
    if out.exists():
        raise AdapterError(f"{out}: this exists already; name a folder that does not.")
    by_component: dict[str, dict[str, Tensor]] = {}
    for transaction in diffs:
        by_component.setdefault(transaction.component, {})[transaction.path] = transaction.merged
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(model, partial)
        homeless = [path for name, values in by_component.items() for path in _rewrite(partial / name, values)]
        replace_with_retry(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return homeless


def _rewrite(folder: Path, values: Mapping[str, Tensor]) -> list[str]:
    """Every weight file of one component; diffusers may have several variants of it side by side."""
    placed: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), "pt") as opened:  # its tensors are the file itself, which Windows then locks
            tensors = {key: opened.get_tensor(key).clone() for key in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata()
        placed |= _replace(tensors, values)
        save_file(tensors, str(file), metadata)
    for file in sorted(folder.glob("*.bin")):
        tensors = torch.load(file, map_location="cpu", weights_only=True)
        placed |= _replace(tensors, values)
        torch.save(tensors, file)
    if not placed and values:
        raise InvalidModelFolder(f"{folder}: no weight file there holds the layers that were changed.")
    return sorted(values.keys() - placed)


def _replace(tensors: dict[str, Tensor], values: Mapping[str, Tensor]) -> set[str]:
    spelled = {key: path for path in values for key in _spellings(path) if key in tensors}
    for key, path in spelled.items():
        tensors[key] = values[path].to("cpu", tensors[key].dtype).contiguous()
    return set(spelled.values())


def _spellings(path: str) -> Iterator[str]:
    """transformers 5 dropped the level `text_model.` that older files and older releases have."""
    yield path
    yield f"text_model.{path}"
    yield path.removeprefix("text_model.")
