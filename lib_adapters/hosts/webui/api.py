"""Routes: the tab's, what was applied last, and the list of adapters under the names that other programs know."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from lib_adapters.hosts.tab import routes
from lib_adapters.hosts.tab.bodies import Json
from lib_adapters.hosts.webui import rivals
from lib_adapters.hosts.webui.names import Names, read_metadata
from lib_adapters.hosts.webui.runtime import Runtime


def add_routes(app: Any, runtime: Runtime) -> None:
    """Plain functions, not coroutines: the host runs them beside its event loop."""

    def report() -> dict[str, Any]:
        return runtime.told() | {"rivals": rivals.found()}

    def lycos(metadata: bool = True) -> list[dict[str, Any]]:
        """With `?metadata=false` no file is read: names and aliases are in the index."""
        return [_described(runtime.names, path, metadata) for path in runtime.names.files()]

    def refresh() -> None:
        runtime.names.rescan()
        runtime.cards.catalogue.start()

    routes.add_routes(app, dataclasses.replace(runtime.cards.tab, report=report))
    alike: Any = {"dependencies": list(runtime.cards.tab.guards), "response_class": Json}
    app.add_api_route("/lycoris/report", report, methods=["GET"], **alike)
    app.add_api_route("/sdapi/v1/lycos", lycos, methods=["GET"], **alike)
    app.add_api_route("/sdapi/v1/refresh-lycos", refresh, methods=["POST"], **alike)


def _described(names: Names[Any], path: Path, whole: bool) -> dict[str, Any]:
    """`alias` as the built-in's route has it: the name itself where the trainer gave none."""
    if not whole:
        return {"name": path.stem, "alias": names.about(path).alias or path.stem, "path": str(path)}
    metadata = dict(read_metadata(path))
    alias = metadata.get("ss_output_name", path.stem)
    return {"name": path.stem, "alias": alias, "path": str(path), "metadata": metadata}
