"""Channels to people: what apprise's URLs in an environment variable amount to, and the user's own.

The URLs hold passwords. They stay in the environment: no error, event or log line has any part of one but the name of
the service behind it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from agenttune.config import NotifySettings
from agenttune.config.plugins import PluginUse, find_class
from agenttune.errors import UserError

if TYPE_CHECKING:
    from apprise import Apprise

logger = logging.getLogger(__name__)
NAME_CHARACTERS = 60
_BETWEEN = re.compile(r"\s+|,(?=\s*[A-Za-z][A-Za-z0-9+.-]*://)")
"""A comma may also stand inside a URL, between receivers of one message."""


class Channel(ABC):
    """One way to reach people."""

    @property
    def name(self) -> str:
        """What the log calls it, such as `Slack`; never an address."""
        return type(self).__name__

    @abstractmethod
    def send(self, title: str, body: str) -> bool:
        """Send plain text; whether it was taken. What was not, or raised, is tried again later."""


class AppriseChannel(Channel):
    """A service that apprise knows."""

    def __init__(self, service: Apprise, name: str) -> None:
        self.service, self._name = service, name

    @property
    def name(self) -> str:
        return self._name

    def send(self, title: str, body: str) -> bool:
        from apprise import NotifyFormat

        return bool(self.service.notify(body=body, title=title, body_format=NotifyFormat.TEXT))


class PluginChannel(Channel):
    """A channel of the user's own: an error of it is a message that was not taken."""

    def __init__(self, inner: Channel) -> None:
        self._inner = inner

    @property
    def name(self) -> str:
        return str(self._inner.name)[:NAME_CHARACTERS]

    def send(self, title: str, body: str) -> bool:
        try:
            return self._inner.send(title, body) is True
        except (Exception, SystemExit):
            logger.exception("channel %s failed", self.name)
            return False


def all_channels(settings: NotifySettings, config: Path, environment: Mapping[str, str] = os.environ) -> list[Channel]:
    """The user's own channels, and apprise's if the environment names any; one that cannot be used is left out.

    Raises:
        UserError: None can be used; says why.
    """
    opened, why = list[Channel](), list[str]()
    for index, entry in enumerate(settings.channels):
        try:
            use = PluginUse.of_entry("channel", entry, config, ("notify", "channels", index))
            opened.append(PluginChannel(find_class(use, Channel).make()))
        except UserError as error:
            logger.warning("%s", error)
            why.append(error.message)
    try:
        opened += open_channels(settings.url_env, environment) if environment.get(settings.url_env) else []
    except UserError as error:
        logger.warning("%s", error)
        why.append(error.message)
    if not opened:
        raise UserError("; ".join(why) or "no channel is named", field="notify.channels")
    return opened


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
    return AppriseChannel(channel, str(service.service_name))
