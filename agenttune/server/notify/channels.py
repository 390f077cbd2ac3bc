"""Channels to people: what apprise's URLs in an environment variable amount to.

The URLs hold passwords. They stay in the environment: no error, event or log line has any part of one but the name of
the service behind it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agenttune.errors import UserError

if TYPE_CHECKING:
    from apprise import Apprise

_BETWEEN = re.compile(r"\s+|,(?=\s*[A-Za-z][A-Za-z0-9+.-]*://)")
"""A comma may also stand inside a URL, between receivers of one message."""


@dataclass(frozen=True)
class Channel:
    """One way to reach people.

    Attributes:
        name: The service, such as `Slack`.
    """

    name: str
    service: Apprise

    def send(self, title: str, body: str) -> bool:
        """Send plain text; whether it was taken."""
        from apprise import NotifyFormat

        return bool(self.service.notify(body=body, title=title, body_format=NotifyFormat.TEXT))


def open_channels(url_env: str, environment: Mapping[str, str] = os.environ) -> list[Channel]:
    """The channels of an environment variable; nothing is sent.

    Raises:
        UserError: apprise is not installed, the variable is missing or empty, or apprise does not know a URL.
    """
    if importlib.util.find_spec("apprise") is None:
        raise UserError(
            "notify.on needs apprise: pip install 'agenttune-toolkit[notify]', or leave notify.on empty",
            field="notify.on",
        )
    urls = [url.strip(",") for url in _BETWEEN.split(environment.get(url_env, ""))]
    urls = [url for url in urls if url]
    if not urls:
        raise UserError(
            f"notify.on needs channels: set {url_env} (notify.url_env) to apprise URLs, such as ntfys://my-topic, "
            "or leave notify.on empty",
            field="notify.url_env",
        )
    return [_open(url, number, len(urls), url_env) for number, url in enumerate(urls, 1)]


def _open(url: str, number: int, count: int, url_env: str) -> Channel:
    from apprise import Apprise, AppriseAsset

    # Its messages quote parts of URLs.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    asset = AppriseAsset(app_id="agenttune", app_desc="agenttune", app_url="")
    service = Apprise.instantiate(url, asset=asset)
    if service is None:
        raise UserError(
            f"apprise cannot use URL {number} of {count} in {url_env}: look up its form in apprise's documentation, "
            "and write special characters in passwords as %XX",
            field="notify.url_env",
        )
    channel = Apprise(asset=asset)
    channel.add(service)
    return Channel(str(service.service_name), channel)
