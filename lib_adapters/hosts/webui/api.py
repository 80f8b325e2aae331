"""API routes: the tab's, the last report, and the list of adapters under the web UI's names."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from lib_adapters.hosts.tab import routes
from lib_adapters.hosts.tab.json_route import SafeJSONResponse
from lib_adapters.hosts.webui import conflicts
from lib_adapters.hosts.webui.extension import Extension
from lib_adapters.hosts.webui.name_resolver import NameResolver, read_metadata


def add_routes(app: Any, runtime: Extension) -> None:
    """Plain functions, not coroutines: the host runs them beside its event loop."""

    def report() -> dict[str, Any]:
        return runtime.last_job_report() | {"rivals": conflicts.active_conflicts()}

    def lycos(metadata: bool = True) -> list[dict[str, Any]]:
        """With `?metadata=false` no file is read: names and aliases are in the index."""
        return [_described(runtime.resolver, path, metadata) for path in runtime.resolver.files()]

    def refresh() -> None:
        runtime.resolver.rescan()
        runtime.library_backend.library.start()

    routes.add_routes(app, dataclasses.replace(runtime.library_backend.tab, report=report))
    alike: Any = {"dependencies": list(runtime.library_backend.tab.dependencies), "response_class": SafeJSONResponse}
    app.add_api_route("/lycoris/report", report, methods=["GET"], **alike)
    app.add_api_route("/sdapi/v1/lycos", lycos, methods=["GET"], **alike)
    app.add_api_route("/sdapi/v1/refresh-lycos", refresh, methods=["POST"], **alike)


def _described(names: NameResolver[Any], path: Path, whole: bool) -> dict[str, Any]:
    """`alias` as the built-in's route has it: the name itself where the trainer gave none."""
    if not whole:
        return {"name": path.stem, "alias": names.file_info(path).alias or path.stem, "path": str(path)}
    metadata = dict(read_metadata(path))
    alias = metadata.get("ss_output_name", path.stem)
    return {"name": path.stem, "alias": alias, "path": str(path), "metadata": metadata}
