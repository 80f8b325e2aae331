"""Access to the web UI's own modules: imported on demand, tested for features and never for versions."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from torch import nn


def import_module(name: str) -> Any:
    return importlib.import_module(f"modules.{name}")


def import_optional(name: str) -> ModuleType | None:
    """None where this host has no such module."""
    try:
        return importlib.import_module(f"modules.{name}")
    except ImportError:
        return None


def opt(key: str, default: Any) -> Any:
    """An option of the user; a host without that option raises AttributeError or has None."""
    value = getattr(import_module("shared").opts, key, None)
    return default if value is None else value


def cmd_flag(name: str) -> Any:
    """A command line flag; another extension's flag, or one added after the start, may not be there."""
    return getattr(import_module("shared").cmd_opts, name, None)


def credentials() -> list[tuple[str, str]]:
    """Names and passwords of --api-auth and of the page; the host asks for both on its own routes alone."""
    pairs = [entry.partition(":")[::2] for entry in str(cmd_flag("api_auth") or "").split(",") if entry]
    of_page = getattr(import_optional("initialize_util"), "get_gradio_auth_creds", None)
    found = [pair for pair in of_page() if len(pair) == 2] if of_page is not None else []
    return [*((user, password) for user, password in pairs), *found]


def current_model() -> nn.Module | None:
    """The loaded model. Never `shared.sd_model`: reading that loads a checkpoint."""
    model = import_module("sd_models").model_data.sd_model
    return model if isinstance(model, nn.Module) else None


def builtin_networks() -> Any | None:
    """The module of the built-in Lora extension, if it is enabled."""
    found = sys.modules.get("networks")
    needed = ("loaded_networks", "network_apply_weights", "load_networks")
    return found if found is not None and all(hasattr(found, name) for name in needed) else None


def unsupported_fork() -> str | None:
    """The name of a relative of the web UI that applies adapters in its own way."""
    if importlib.util.find_spec("modules_forge") is not None:
        return "Forge or reForge"
    if hasattr(import_module("shared"), "native") or not hasattr(
        import_module("extra_networks"), "extra_network_aliases"
    ):
        return "SD.Next"
    return None


def log(message: str) -> None:
    """One line on the console."""
    print(f"LyCORIS: {message}", flush=True)
