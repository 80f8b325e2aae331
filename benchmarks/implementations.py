"""Who is measured: ourselves, and the way of the web UI's built-in Lora; the peers are in peers.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.adapter_case import Case, stem, weights
from lib_adapters import Request, Session, open_adapter

SCALE = 1.0  # alpha / rank of all files here
Operation = Callable[[], object]


class Contender:
    """Set up, untimed, on a model of its own; then each operation is timed once, in this order."""

    name = ""

    def __init__(self, case: Case, model: nn.Module) -> None:
        self.weights: Mapping[str, nn.Parameter] = weights(model, case.shapes)

    def operations(self) -> dict[str, Operation]:
        raise NotImplementedError

    def close(self) -> None:
        """Leave the model as it was, if the last operation did not."""


class Ours(Contender):
    name = "lib_adapters"

    def __init__(self, case: Case, model: nn.Module) -> None:
        super().__init__(case, model)
        self._files, self._model = case.files, model
        self._a, self._b = (open_adapter(path) for path in case.files)
        self._session = Session(unet=model)
        self._session.activate([Request(self._b)])  # both files are in the cache from here on
        self._session.activate([Request(self._a)])
        self._session.deactivate()

    def operations(self) -> dict[str, Operation]:
        return {
            "apply": lambda: self._session.activate([Request(self._a)]),
            "strength": lambda: self._session.activate([Request(self._a, unet=0.5)]),
            "switch": lambda: self._session.activate([Request(self._b, unet=0.5)]),
            "restore": self._session.deactivate,
            "cold": self._cold,
        }

    def _cold(self) -> None:
        """From a path to changed weights that no session has seen before."""
        self._session = Session(unet=self._model)
        self._session.activate([Request(open_adapter(self._files[0]))])

    def close(self) -> None:
        self._session.deactivate()


class Usual(Contender):
    """The web UI's built-in Lora, layer by layer: back up, copy the backup in, compute ΔW, add, copy the sum in."""

    name = "built-in's way"

    def __init__(self, case: Case, model: nn.Module) -> None:
        super().__init__(case, model)
        self._delta = case.recipe.delta
        self._files = [self._load(path, case) for path in case.files]
        self._backups: dict[str, Tensor] = {}

    def _load(self, path: Path, case: Case) -> dict[str, dict[str, Tensor]]:
        device = case.setting.device
        found: dict[str, dict[str, Tensor]] = {stem(layer): {} for layer in case.shapes}
        for key, tensor in load_file(path).items():
            layer, _, leaf = key.partition(".")
            found[layer][leaf] = tensor.to(device)
        return {layer: found[stem(layer)] for layer in case.shapes}

    def operations(self) -> dict[str, Operation]:
        return {
            "apply": lambda: self._apply(0, 1.0),
            "strength": lambda: self._apply(0, 0.5),
            "switch": lambda: self._apply(1, 0.5),
            "restore": self._restore,
        }

    def _apply(self, which: int, strength: float) -> None:
        for layer, weight in self.weights.items():
            if layer not in self._backups:
                self._backups[layer] = weight.data.to("cpu", copy=True)
            weight.data.copy_(self._backups[layer])
            leaves = {leaf: tensor.float() for leaf, tensor in self._files[which][layer].items()}
            delta = self._delta(weight.data.float(), leaves) * SCALE * strength
            weight.data.copy_((weight.data.float() + delta).to(weight.dtype))

    def _restore(self) -> None:
        for layer, weight in self.weights.items():
            weight.data.copy_(self._backups[layer])
