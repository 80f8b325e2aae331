"""The host's own `<hypernet:...>`: its network, its list of loaded ones, and where its attention uses that list."""

from __future__ import annotations

from tests.fake_webui import extra_networks

shared = None  # the double's module, set by `reset`


class ExtraNetworkHypernet(extra_networks.ExtraNetwork):
    def __init__(self):
        super().__init__("hypernet")
        self.calls: list = []

    def activate(self, p, params_list):
        self.calls.append([params.items for params in params_list])
        shared.loaded_hypernetworks.clear()
        shared.loaded_hypernetworks += [params.items[0] for params in params_list]

    def deactivate(self, p):
        pass
