"""The built-in Lora's way with weights: lazy in a layer's forward, a backup taken once and kept, names on the layer."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from tests.fake_webui import extra_networks

loaded_networks: list = []
deltas: dict = {}  # name -> (network_layer_name -> delta)
_host: list = []
_plain = nn.Linear.forward


class ExtraNetworkLora(extra_networks.ExtraNetwork):
    def __init__(self):
        super().__init__("lora")

    def activate(self, p, params_list):
        load_networks([params.positional[0] for params in params_list])

    def deactivate(self, p):
        pass


def reset(host):
    """Class-level forward, as the built-in patches it; undone with the host's fixture."""
    loaded_networks.clear()
    deltas.clear()
    if host.has_builtin:
        host.monkeypatch.setattr(nn.Linear, "forward", _forward)


def load_networks(names, te_multipliers=None, unet_multipliers=None, dyn_dims=None):
    known = [name for name in names if name in deltas]
    loaded_networks[:] = [
        SimpleNamespace(name=name, te_multiplier=1.0, unet_multiplier=1.0, dyn_dim=None) for name in known
    ]


def network_apply_weights(layer):
    name = getattr(layer, "network_layer_name", None)
    if name is None:
        return
    wanted = tuple((n.name, n.te_multiplier, n.unet_multiplier, n.dyn_dim) for n in loaded_networks)
    if getattr(layer, "network_weights_backup", None) is None and wanted:
        layer.network_weights_backup = layer.weight.detach().clone()
    if getattr(layer, "network_current_names", ()) != wanted:
        with torch.no_grad():
            if getattr(layer, "network_weights_backup", None) is not None:
                layer.weight.copy_(layer.network_weights_backup)
            for network in loaded_networks:
                if name in deltas[network.name]:
                    layer.weight.add_(deltas[network.name][name])
        layer.network_current_names = wanted


def _forward(layer, x):
    network_apply_weights(layer)
    return _plain(layer, x)
