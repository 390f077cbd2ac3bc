"""The tokens of a run: its agent's, and those of links for who sits at this machine. They end with the run.

The launcher revokes them when it ends. If it is killed, training and agent go on, and so do the tokens, until the run
has ended. Below: which secrets of the launcher's environment its processes do not inherit; a training script runs
anybody's code, and many experiment trackers upload their environment.
"""

from __future__ import annotations

import contextlib
import glob
from pathlib import Path

from agenttune.config import Config
from agenttune.control.discovery import TOKEN_ENV
from agenttune.control.page_link import open_in_browser, page_link
from agenttune.control.tokens import Token, create_token, revoke_token
from agenttune.errors import UserError
from agenttune.protocol.proposals import Principal

LASTS_S = 30 * 86_400.0
"""No run takes longer, whatever its log says (guess)."""


class RunTokens:
    """Tokens that are good for one run.

    Args:
        runs_dir: The folder of runs.
        run_id: The run.

    Raises:
        AgenttuneError: The folder's tokens cannot be written.
    """

    def __init__(self, runs_dir: Path, run_id: str) -> None:
        self._runs_dir, self._run_id = runs_dir, run_id
        self._made: list[Token] = []
        self._agent = self._make("agent", "agent")

    def _make(self, role: Principal, name: str) -> str:
        pattern = glob.escape(self._run_id)
        text, token = create_token(self._runs_dir, role, name, [pattern], LASTS_S, ends_with_run=self._run_id)
        self._made.append(token)
        return text

    def environment(self, token_env: str) -> dict[str, str]:
        """For the agent: its own token in the place of the owner's, which it is not to have."""
        return {TOKEN_ENV: self._agent, token_env: self._agent}

    def link(self, url: str) -> str:
        """A link to the run's page for whoever sees this terminal; each works once."""
        link, token = page_link(url, self._runs_dir, self._run_id, lasts_s=LASTS_S, ends_with_run=self._run_id)
        self._made.append(token)
        return link

    def open_page(self, url: str) -> bool:
        """Have the user's browser open the run's page; False where there is none."""
        return open_in_browser(self.link(url), self._made[-1], self._runs_dir)

    def revoke(self) -> None:
        """End all; one that is gone already is no matter."""
        while self._made:
            with contextlib.suppress(UserError):
                revoke_token(self._runs_dir, self._made.pop().id)


def not_for_script(config: Config) -> frozenset[str]:
    """The owner's token and the addresses of channels: it finds its run by its folder."""
    return frozenset({TOKEN_ENV, config.server.token_env, config.notify.url_env})


def not_for_reviewer(config: Config) -> frozenset[str]:
    """The same, but for the addresses where it tells people."""
    return not_for_script(config) - ({config.notify.url_env} if config.notify.channels else set())


def not_for_agent(config: Config) -> frozenset[str]:
    """The addresses of channels; its own token stands in the place of the owner's."""
    return frozenset({config.notify.url_env})


def not_for_server(config: Config) -> frozenset[str]:
    """Keys of models, which it never asks, and a token that is not the one it goes by."""
    keys = {config.llm.api_key_env, config.gate.reviewer.api_key_env or config.llm.api_key_env}
    return frozenset({TOKEN_ENV, *keys} - {config.server.token_env, config.notify.url_env})
