"""Registers the bundle with the web UI, which executes this file; all else is in lib_adapters/hosts/webui."""

from modules import errors, scripts

import lib_adapters

try:
    from lib_adapters.hosts.webui import register

    register.start(lib_adapters, scripts.basedir())
except Exception:  # noqa: BLE001 - whatever it is, the web UI goes on
    errors.report("LyCORIS: the extension could not start; tags are left to the web UI", exc_info=True)
