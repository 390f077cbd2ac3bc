"""Options that a server refuses: recognized in its error, then left out or replaced in all later requests."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

REFUSING = frozenset({400, 404, 405, 415, 422, 500, 501})
"""Statuses with which servers and gateways refuse an option."""
SAMPLING = frozenset(
    {"temperature", "top_p", "top_k", "seed", "n", "stop", "logprobs", "frequency_penalty", "presence_penalty"}
)
"""Options that shape an answer without bounding it; a server that refuses a value uses its own."""
BOUNDS = ("max_tokens", "max_completion_tokens")
"""The bound on an answer's length, under its two names."""
EXTRAS = frozenset({"tool_choice", "parallel_tool_calls", "response_format", "stream_options"})
DROPPABLE = SAMPLING | EXTRAS | frozenset(BOUNDS)
"""Options that a request can go without."""
AUTO = "tool_choice=auto"
"""The model may choose whether to call a tool; some servers know only that it must."""

_UNSUPPORTED = re.compile(
    r"unsupported|not.{0,12}support|unrecogni[sz]ed|unknown|unexpected|extra (?:inputs?|fields?)|not permitted"
    r"|forbidden|not allowed|not available|additional propert|no such|cannot find field|deprecated|instead|requires"
    r"|invalid param|not implemented|both be|does not (?:exist|accept|take)",
    re.IGNORECASE | re.DOTALL,
)
_OF_A_VALUE = re.compile(r"must be|only|invalid|out of range|between|expected|less than|greater than", re.IGNORECASE)
_TOO_LARGE = re.compile(r"too (?:large|high|long|many)|exceed|at most|maximum|context (?:length|window)", re.IGNORECASE)
"""The server takes the bound, but not so high a value; it must not be left out."""


def refused_option(
    status: int, message: str, param: str | None, body: object, request: Mapping[str, Any]
) -> str | None:
    """The option of a request that an error status refuses, if the request can do without it.

    Args:
        status: The HTTP status.
        message: The server's words.
        param: The option that the error names, if it does.
        body: The decoded body; gateways name the option in `detail` or `error`.
        request: What was sent.
    """
    if status not in REFUSING:
        return None
    sent = [*(name for name in request if name in DROPPABLE), *(request.get("extra_body") or {})]
    named = [*([param] if param else []), *_located(body)]
    for name in named:
        option = _sent(name.strip(), sent)
        if option is not None and not (option in BOUNDS and _TOO_LARGE.search(message)):
            return _chosen(option, request)
    if named and status < 500:
        return None  # the error names something else
    said = f"{message} {json.dumps(body, default=str)}" if body else message
    found = next((option for option in sorted(sent, key=lambda o: _place(o, said)) if _is_refused(option, said)), None)
    return None if found is None else _chosen(found, request)


def without(request: Mapping[str, Any], unsupported: Collection[str]) -> dict[str, Any]:
    """The request with these options left out, or replaced where there is another way to say them."""
    sent = {name: value for name, value in request.items() if name not in unsupported}
    for old, new in (BOUNDS, BOUNDS[::-1]):
        if old in request and old in unsupported and new not in unsupported:
            sent[new] = request[old]
    if sent.get("tool_choice") == "auto" and AUTO in unsupported:
        sent["tool_choice"] = "required"
    if "response_format" in request and "response_format" in unsupported:
        sent["messages"] = [*request["messages"], {"role": "user", "content": schema_in_words(_schema_of(request))}]
    extra = {name: value for name, value in (request.get("extra_body") or {}).items() if name not in unsupported}
    if "extra_body" in sent:
        sent["extra_body"] = extra
    return sent


def told(option: str, request: Mapping[str, Any], unsupported: Collection[str]) -> str:
    """What is done about a refused option, for the log; `unsupported` are all options refused so far."""
    if option in BOUNDS and any(name in without(request, unsupported) for name in BOUNDS):
        return f"{option} goes by its other name"
    if option in BOUNDS:
        return f"{option} is left out: the server's own bound on an answer's length holds"
    if option == AUTO:
        return "tool_choice auto is refused: the model has to call a tool each time"
    return f"{option} is left out" + (": the form is asked for in words" if option == "response_format" else "")


def _chosen(option: str, request: Mapping[str, Any]) -> str:
    return AUTO if option == "tool_choice" and request.get("tool_choice") == "auto" else option


def schema_in_words(schema: Mapping[str, Any]) -> str:
    """Asks for an answer by a schema where no option can."""
    return f"Answer with one JSON object after this JSON schema, and nothing else:\n{json.dumps(schema)}"


def _schema_of(request: Mapping[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = request["response_format"].get("json_schema", {}).get("schema", {})
    return schema


def _located(body: object) -> Iterator[str]:
    """Names that a validation error points at, such as pydantic's `loc` or a JSON pointer."""
    if isinstance(body, Mapping):
        for key in ("loc", "param", "field", "path"):
            place = body.get(key)
            if isinstance(place, list):
                yield next((part for part in map(str, place) if part not in ("body", "query")), "")
            elif isinstance(place, str) and place:
                yield place
        for part in body.values():
            yield from _located(part)
    elif isinstance(body, list):
        for part in body:
            yield from _located(part)


def _sent(name: str, sent: Collection[str]) -> str | None:
    """The option of a request that a server's name means, such as `body.temperature` or `generationConfig.topP`."""
    first = [part for part in re.split(r"[.\[\]/]+", name) if part and part not in ("body", "generationConfig")]
    return next((option for option in sent if first and _flat(first[0]) == _flat(option)), None)


def _flat(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _pattern(option: str) -> re.Pattern[str]:
    """An option in a sentence: max_tokens, max-tokens, max tokens, maxTokens; never as a part of another name."""
    return re.compile(rf"(?<![A-Za-z0-9_]){'[_ -]?'.join(map(re.escape, option.split('_')))}(?![A-Za-z0-9_])", re.I)


def _place(option: str, said: str) -> int:
    found = _pattern(option).search(said)
    return len(said) if found is None else found.start()


def _is_refused(option: str, said: str) -> bool:
    if _pattern(option).search(said) is None or (len(option) < 3 and f"'{option}'" not in said):
        return False
    if option in BOUNDS and _TOO_LARGE.search(said) and not re.search("unsupported|unrecogni|instead", said, re.I):
        return False
    return bool(_UNSUPPORTED.search(said) or (option in SAMPLING and _OF_A_VALUE.search(said)))
