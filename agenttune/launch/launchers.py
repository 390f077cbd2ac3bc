"""What starts the training script: python itself, or torchrun or accelerate with their options from the config."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from agenttune.config import RunSettings
from agenttune.errors import ConfigError

MODULES = {"torchrun": "torch.distributed.run", "accelerate": "accelerate.commands.launch"}
WRAPPER = "agenttune.trainer.distributed.launcher"
"""Runs either unchanged, and keeps which rank failed and how."""


def launcher_words(run: RunSettings, path: Path) -> list[str]:
    """What comes before the script's path, or before `-m` and its module.

    Args:
        run: The settings.
        path: The config file.
    """
    if run.launcher == "torchrun":
        return [sys.executable, "-m", WRAPPER, "torchrun", *run.torchrun.words()]
    if run.launcher == "accelerate":
        return [sys.executable, "-m", WRAPPER, "accelerate", *run.accelerate.words(accelerate_file(run, path))]
    return [sys.executable]


def launcher_environ(run: RunSettings) -> dict[str, str]:
    """What the launcher needs besides, where it is to start ranks again.

    With a store that is shared with the launcher, a rank may read where one of the attempt before was, and fail to
    connect: 3 of 6 restarts of two gloo ranks (torch 2.13, measured), none of 5 without.
    """
    restarts = run.launcher == "torchrun" and run.torchrun.max_restarts > 0
    return {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} if restarts else {}


def accelerate_file(run: RunSettings, path: Path) -> str | None:
    """The whole path of accelerate's config file; None for accelerate's own."""
    name = run.accelerate.config_file
    return None if name is None else str(path.parent / Path(name).expanduser())


def check_launcher(
    run: RunSettings,
    path: Path,
    is_installed: Callable[[str], bool] = lambda name: bool(importlib.util.find_spec(name)),
) -> None:
    """Find before anything starts what the launcher would only find when it does.

    Args:
        run: The settings.
        path: The config file.
        is_installed: Whether a package is there.

    Raises:
        ConfigError: It is not installed, or its file cannot be read; says how to mend it.
    """
    if run.launcher == "python":
        return
    package = MODULES[run.launcher].split(".")[0]
    if not is_installed(package):
        raise ConfigError(
            f"{path}: run.launcher: {run.launcher} is not installed beside agenttune; pip install {package}, or set "
            "launcher: python",
            field="run.launcher",
        )
    file = accelerate_file(run, path) if run.launcher == "accelerate" else None
    if file is not None:
        _check_accelerate_file(Path(file), path)


def _check_accelerate_file(file: Path, path: Path) -> None:
    field = "run.accelerate.config_file"
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise ConfigError(
            f"{path}: {field}: {file} cannot be read ({why}); `accelerate config --config_file {file}` writes one",
            field=field,
        ) from None
    if not isinstance(given, dict) or "compute_environment" not in given:
        raise ConfigError(
            f"{path}: {field}: {file} is no config file of accelerate (it has no compute_environment); "
            f"`accelerate config --config_file {file}` writes one",
            field=field,
        )


def other_nodes(run: RunSettings, path: Path) -> str:
    """What to start on the other machines of the job; empty if there are none."""
    what = [str(path.parent / run.script)] if run.script is not None else ["-m", str(run.module)]
    if run.launcher == "torchrun" and run.torchrun.is_on_several_nodes:
        line = shlex.join(["torchrun", *run.torchrun.words("N"), *what, *run.args])
        return f"on each other machine start, with its number for N where it is asked for:  {line}"
    if run.launcher == "accelerate" and (run.accelerate.num_machines or 1) > 1:
        words = run.accelerate.model_copy(update={"machine_rank": None}).words(accelerate_file(run, path))
        line = shlex.join(["accelerate", "launch", *words, "--machine_rank=N", *what, *run.args])
        return f"on each other machine start, with its number for N:  {line}"
    return ""
