"""Peers at work: what each makes of a file, beside what its trainer computed and what we make of it.

The rows of benchmarks/peer_differences.py are run by test_peers_*.py; each fault names the releases it was seen in.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.peer_differences import FAULTS
from lib_adapters import Request, Session, open_adapter
from tests.oracle.test_lycoris_modules import Case, trained
from tests.support import trainer_oracles

RIGHT = 2e-5  # of what the adapter changes; float32 on both sides


def releases_of(test: str) -> pytest.MarkDecorator:
    """Of LyCORIS all, side by side; of another peer the one that is installed, if the fault was seen in it."""
    (fault,) = (fault for fault in FAULTS if fault.test == test)
    here = [release for release in fault.releases if fault.peer == "LyCORIS" or release == version_of(fault.peer)]
    why = f"oracle: {fault.peer} is not one of {', '.join(fault.releases)} here"
    return pytest.mark.parametrize("release", here or [pytest.param("", marks=pytest.mark.skip(reason=why))])


def version_of(peer: str) -> str | None:
    try:
        return importlib.metadata.version(peer.lower())
    except importlib.metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Job:
    """A trained layer: what it was, what it looks at, what its trainer made of it and the file it left."""

    base: nn.Module
    x: Tensor
    plain: Tensor
    truth: Tensor
    leaves: Mapping[str, Tensor]
    facts: Mapping[str, str] = field(default_factory=dict)

    def off(self, output: Tensor) -> float:
        """0: right; 1: as far off as if nothing had been applied."""
        return float((output - self.truth).norm() / (self.truth - self.plain).norm())


@torch.no_grad()
def lycoris_job(release: str, module: str, name: str, kind: str = "linear", **options: object) -> Job:
    torch.manual_seed(0)
    base = trainer_oracles.layer(kind, i=32).requires_grad_(False)
    x = trainer_oracles.inputs(base)
    made = trained(Case(module, name, options), release, copy.deepcopy(base))
    leaves = {leaf: value.detach().clone() for leaf, value in made.state_dict().items()}
    algo = {key: str(value) for key, value in {"algo": module, **options}.items()}
    facts = {
        "ss_network_module": "lycoris.kohya",
        "ss_network_args": json.dumps(algo),
        "ss_training_started_at": str(trainer_oracles.started(release)),
    }
    return Job(base, x, base(x), made(x), leaves, facts)


def model_of(base: nn.Module) -> nn.Module:
    model = nn.Module()
    model.add_module("layer", copy.deepcopy(base))
    return model


def keys(leaves: Mapping[str, Tensor], stem: str = "lora_unet_layer") -> dict[str, Tensor]:
    return {f"{stem}.{leaf}": value.clone() for leaf, value in leaves.items()}


@torch.no_grad()
def ours(job: Job, folder: Path, strength: float = 1.0) -> Tensor:
    """Through a real file and the public door."""
    path = folder / "adapter.safetensors"
    save_file({key: value.contiguous() for key, value in keys(job.leaves).items()}, path, dict(job.facts))
    model = model_of(job.base)
    with Session(unet=model) as session:
        (report,) = session.activate([Request(open_adapter(path), unet=strength)]).adapters
        assert (report.error, report.unmatched) == (None, [])
        changed = model.layer(job.x)
    assert all(map(torch.equal, model.layer.parameters(), job.base.parameters()))
    return changed


def lycoris_network(release: str, model: nn.Module, leaves: Mapping[str, Tensor]) -> nn.Module:
    """The file in that release's own loader."""
    trainer_oracles.lycoris(release, "locon")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapper = importlib.import_module(f"lycoris_{release.replace('.', '_')}.wrapper")
        logging.getLogger("LyCORIS").setLevel(logging.CRITICAL)
        with patch.object(wrapper.LycorisNetwork, "LORA_PREFIX", "lora_unet"):
            return wrapper.create_lycoris_from_weights(1.0, "", model, keys(leaves))[0]


@torch.no_grad()
def merged(release: str, job: Job, strength: float = 1.0) -> Tensor:
    model = model_of(job.base)
    lycoris_network(release, model, job.leaves).merge_to(strength)
    return model.layer(job.x)


def bits(model: nn.Module) -> Sequence[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]
