"""Builds the page when a wheel is made or agenttune is installed from its sources; runs where agenttune is not there.

Without Node, or where npm's registry cannot be reached, the installation goes on: the server then shows what to type.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

DASHBOARD = Path("agenttune/dashboard")


class PageBuildHook(BuildHookInterface):  # type: ignore[misc,type-arg,unused-ignore]
    """Makes `built/` if it is missing or of other sources, and puts it into the wheel."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Node as a Python package, where it is needed and the machine has none."""
        build, home = self._parts()
        needed = (home / "web/package.json").is_file() and not build.is_current(home / "web", home / "built")
        return [build.NODE_PACKAGE] if needed and build.find_node() is None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before a wheel is put together; `version` is `editable` for an installation that uses the sources."""
        build, home = self._parts()
        web, built = home / "web", home / "built"
        if not build.is_current(web, built):
            try:
                build.build(web, built, build.INSTALL_LIMIT_S, build.HASTY_FETCH, quiet=True)
            except (build.BuildFailed, OSError) as failure:
                self.app.display_warning(f"the dashboard was not built: {failure}\nTo build it later: {build.COMMAND}")
        if version != "editable" and (built / "index.html").is_file():
            build_data["force_include"][str(built)] = str(DASHBOARD / "built")

    def _parts(self) -> tuple[ModuleType, Path]:
        """The module that builds, loaded from its file, and the folder that it is in."""
        home = Path(self.root) / DASHBOARD
        spec = importlib.util.spec_from_file_location("agenttune_dashboard_build", home / "build.py")
        if spec is None or spec.loader is None:
            raise FileNotFoundError(home / "build.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look for it
        spec.loader.exec_module(module)
        return module, home
