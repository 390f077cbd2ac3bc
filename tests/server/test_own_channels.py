"""Channels of the user's own: told in the process beside their run, with the others, and never by a server."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agenttune.config import NotifySettings
from agenttune.errors import UserError
from agenttune.server.notify.channels import all_channels
from agenttune.server.notify.notifier import RETRY_AFTER_S, Notifier
from tests.server.receiving import Receiver
from tests.server.test_notifying import URLS, Desk, receiver  # noqa: F401

CODE = '''
from pathlib import Path

from agenttune.server.notify import Channel


class ToFile(Channel):
    """Appends each message to a file."""

    def __init__(self, path: str):
        self.path = Path(path)

    def send(self, title, body):
        with self.path.open("a") as file:
            file.write(f"{title}|{body.splitlines()[0]}\\\\n")
        return True


class Raises(Channel):
    def send(self, title, body):
        raise OSError("SECRET-ADDRESS is away")


class Silent(Channel):
    def send(self, title, body):
        pass
'''


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE, encoding="utf-8")
    return tmp_path / "config.yaml"


def beside(desk: Desk, config: Path, *entries: object, **environment: str) -> Notifier:
    """As in the process beside the run."""
    text = "\n".join(str(entry) for entry in entries)
    config.write_text(f"notify:\n  channels:\n{text}\n", encoding="utf-8")
    settings = NotifySettings.model_validate(yaml.safe_load(config.read_text(encoding="utf-8"))["notify"])
    opened = lambda: all_channels(settings, config, environment)  # noqa: E731
    control = desk.notifier._control
    return Notifier(control, "http://127.0.0.1:7007", environment, lambda: desk.tick_s, "r1", opened)


def test_a_message_goes_to_all_channels_and_a_server_leaves_it_to_them(
    tmp_path: Path,
    config: Path,
    receiver: Receiver,  # noqa: F811
) -> None:
    desk = Desk(tmp_path / "runs", receiver.url, channels=["./mine.py:ToFile"])
    desk.ask()
    desk.work()
    assert desk.told() == []  # the server would have to run code that a log names
    entry = f"  - {{type: ./mine.py:ToFile, path: {tmp_path / 'told'}}}"
    notifier = beside(desk, config, entry, **{URLS: receiver.url})
    notifier.look()
    notifier.deliver()
    title, _ = (tmp_path / "told").read_text(encoding="utf-8").split("|")
    assert title == "Approve update_optimizer in r1?"
    assert receiver.message()
    [(what, _, body)] = desk.told()
    assert (what, body.ok, body.channels) == ("approval", True, 2)


@pytest.mark.parametrize("name", ["Raises", "Silent"])
def test_one_that_fails_is_tried_again_and_recorded_without_its_address(
    tmp_path: Path, config: Path, name: str
) -> None:
    desk = Desk(tmp_path / "runs", "", channels=[f"./mine.py:{name}"])
    desk.ask()
    notifier = beside(desk, config, f"  - ./mine.py:{name}")
    notifier.look()
    notifier.deliver()
    for pause_s in RETRY_AFTER_S:
        desk.tick_s += pause_s
        notifier.deliver()
    [(_, _, body)] = desk.told()
    assert (body.ok, body.error) == (False, f"{name} did not take it")


def test_one_that_cannot_be_used_is_left_out(tmp_path: Path, config: Path) -> None:
    entry = f"  - {{type: ./mine.py:ToFile, path: {tmp_path / 'told'}}}"
    desk = Desk(tmp_path / "runs", "", channels=["./mine.py:ToFile"])
    desk.ask()
    notifier = beside(desk, config, "  - ./mine.py:Gone", entry, **{URLS: "not-a-url"})
    notifier.look()
    notifier.deliver()
    assert [body.ok for _, _, body in desk.told()] == [True]
    with pytest.raises(UserError, match="has no class 'Gone'"):
        all_channels(NotifySettings(channels=["./mine.py:Gone"]), config, {})
