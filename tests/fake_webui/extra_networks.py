"""The host's registry and its order of calls, as documented: mentioned networks first, then all others with nothing."""

from __future__ import annotations

import re
from collections import defaultdict

extra_network_registry: dict = {}
extra_network_aliases: dict = {}
displayed: list = []  # what the host would print and swallow


def initialize():
    extra_network_registry.clear()
    extra_network_aliases.clear()


def register_extra_network(extra_network):
    extra_network_registry[extra_network.name] = extra_network


def register_extra_network_alias(extra_network, alias):
    extra_network_aliases[alias] = extra_network


class ExtraNetworkParams:
    def __init__(self, items=None):
        self.items = items or []
        self.positional = []
        self.named = {}
        for item in self.items:
            parts = item.split("=", 2)
            if len(parts) == 2:
                self.named[parts[0]] = parts[1]
            else:
                self.positional.append(item)

    def __eq__(self, other):
        return self.items == other.items

    __hash__ = None


class ExtraNetwork:
    def __init__(self, name):
        self.name = name

    def activate(self, p, params_list):
        raise NotImplementedError

    def deactivate(self, p):
        raise NotImplementedError


def lookup_extra_networks(extra_network_data):
    found: dict = {}
    for name, arguments in list(extra_network_data.items()):
        network = extra_network_registry.get(name) or extra_network_aliases.get(name)
        if network is not None:
            found.setdefault(network, []).extend(arguments)
    return found


def activate(p, extra_network_data):
    activated = []
    for network, arguments in lookup_extra_networks(extra_network_data).items():
        try:
            network.activate(p, arguments)
            activated.append(network)
        except Exception as error:  # noqa: BLE001 - the host does
            displayed.append(error)
    for network in extra_network_registry.values():
        if network not in activated:
            try:
                network.activate(p, [])
            except Exception as error:  # noqa: BLE001 - the host does
                displayed.append(error)


def deactivate(p, extra_network_data):
    data = lookup_extra_networks(extra_network_data)
    for network in [*data, *(one for one in extra_network_registry.values() if one not in data)]:
        network.deactivate(p)


def parse_prompt(prompt):
    found = defaultdict(list)

    def take(match):
        found[match[1]].append(ExtraNetworkParams(items=match[2].split(":")))
        return ""

    return re.sub(r"<(\w+):([^>]+)>", take, prompt), found


def parse_prompts(prompts):
    pairs = [parse_prompt(prompt) for prompt in prompts]
    return [text for text, _ in pairs], pairs[0][1] if pairs else None
