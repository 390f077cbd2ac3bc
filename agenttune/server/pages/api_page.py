"""The page that lists the routes of the API, from their own description: no scripts, nothing from other hosts.

A script of somebody else's on a page of this server would act as whoever is signed in there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from agenttune.server.pages.rendering import respond

router = APIRouter(include_in_schema=False)


class RouteLine(NamedTuple):
    """One route, as its row has it."""

    method: str
    path: str
    words: str
    parameters: list[str]


@router.get("/docs")
def docs(request: Request) -> Response:
    """All routes of the API, for people."""
    described: dict[str, Any] = request.app.openapi()
    return respond("api.html.j2", 200, routes=route_lines(described), version=described["info"]["version"])


def route_lines(described: dict[str, Any]) -> list[RouteLine]:
    """The routes of an OpenAPI description, in its order."""
    return [
        RouteLine(
            method.upper(),
            path,
            operation.get("description") or operation.get("summary", ""),
            [parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"],
        )
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]
