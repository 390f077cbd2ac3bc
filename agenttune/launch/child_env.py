"""What the processes of a run do not inherit of the launcher's environment: secrets that are others' business.

The training script runs whoever's code, and many a tracker uploads its environment.
"""

from __future__ import annotations

from agenttune.config import Config
from agenttune.control.discovery import TOKEN_ENV


def not_for_script(config: Config) -> frozenset[str]:
    """The owner's token and the addresses of channels: it finds its run by its folder. Nor are they for a reviewer."""
    return frozenset({TOKEN_ENV, config.server.token_env, config.notify.url_env})


def not_for_agent(config: Config) -> frozenset[str]:
    """The addresses of channels; its own token stands in the place of the owner's."""
    return frozenset({config.notify.url_env})


def not_for_server(config: Config) -> frozenset[str]:
    """Keys of models, which it never asks, and a token that is not the one it goes by."""
    keys = {config.llm.api_key_env, config.gate.reviewer.api_key_env or config.llm.api_key_env}
    return frozenset({TOKEN_ENV, *keys} - {config.server.token_env, config.notify.url_env})
