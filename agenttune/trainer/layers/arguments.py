"""Checks the parameters of an operation against what its function takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from agenttune.errors import UserError

SCALARS: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str}


def check_arguments(name: str, function: Callable[..., Any], params: dict[str, Any], types: dict[str, type]) -> None:
    """Raises UserError unless the function takes these parameters, in these types."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C; it checks for itself
        return
    known = list(signature.parameters)
    try:
        signature.bind(**params)
    except TypeError as error:
        raise UserError(
            f"{name}: {error}; it takes: {', '.join(known) or 'no parameters'}", field="params", allowed=known
        ) from None
    for key, value in params.items():
        wanted = types.get(key) or _wanted(signature.parameters.get(key))
        fits = wanted is None or type(value) is wanted or (wanted is float and type(value) is int)
        if wanted is not None and not fits:
            raise UserError(f"{name}: {key} is a {wanted.__name__}, not {value!r:.80}", field=f"params.{key}")


def _wanted(parameter: inspect.Parameter | None) -> type | None:
    """The type that a parameter says it takes, by annotation or default, if it is a plain one."""
    if parameter is None:
        return None
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return type(parameter.default) if type(parameter.default) in SCALARS.values() else None
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return SCALARS.get(name)
