"""What is trained, watched and kept, and how people hear of it."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from agenttune.config.launchers import AccelerateSettings, Launcher, TorchrunSettings
from agenttune.config.plugins import PluginEntry
from agenttune.config.setting import Positive, Settings
from agenttune.errors import UserError
from agenttune.protocol.invalid_values import did_you_mean, shape
from agenttune.protocol.run_info import MOST_TAGS, Tag

_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")


def check_origins(origins: Collection[str]) -> list[str]:
    """The origins, in small letters.

    Raises:
        UserError: One of them is none. `*` would let any page that somebody opens steer the runs of this machine, and
            `null` is the origin of pages of no origin at all.
    """
    found = [origin.lower() for origin in origins]
    for origin in found:
        if not _ORIGIN.fullmatch(origin):
            raise UserError(
                f"{origin!r:.100} is no origin of a page: write each one out, as scheme, host and port without a path, "
                "such as http://localhost:5173; there is no '*'",
                field="server.allowed_origins",
            )
    return found


DEFAULT_PORT = 7007
"""Of Interactive Training v1 too. Taken where nobody asked for a port, or the next one that is free."""
RUN_NAME = shape(
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,40}$", "at most 41 letters, digits and any of . _ -, and begin with letter or digit"
)


def _as_text(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float)) else value


Word = Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | bool | int | float)]
"""What a process gets as text; quotes are not needed. From a YAML file it comes as it is written there."""


SCRIPT_FOLDER = "script_folder"
"""In the context of a validation: the folder in which the script must exist."""


class RunSettings(Settings):
    """What to train."""

    script: str | None = None
    """Path of a Python script, from the folder of the config file."""
    module: str | None = None
    """Or a module, as for `python -m`."""
    args: list[Word] = Field(default_factory=list)
    """Arguments of the script, each as it is written here."""
    name: str = Field("run", pattern=RUN_NAME)
    """The run's id is this name with the time of its start."""
    tags: list[Tag] = Field(default_factory=list, max_length=MOST_TAGS)
    """Words by which the run is found again among others; the page can change them later."""
    env: dict[str, Word] = Field(default_factory=dict)
    """Extra environment variables of the script."""
    launcher: Launcher = "python"
    """What starts the script: python (one process, or the script starts its own), torchrun or accelerate."""
    torchrun: TorchrunSettings = TorchrunSettings()
    """With torchrun: nproc_per_node (auto), nnodes (1), node_rank, master_addr, master_port, rdzv_backend,
    rdzv_endpoint, rdzv_id, max_restarts (0), and options: a list of any other words for it. See docs/distributed.md."""
    accelerate: AccelerateSettings = AccelerateSettings()
    """With accelerate: config_file (from `accelerate config`), num_processes, num_machines, machine_rank,
    main_process_ip, main_process_port, mixed_precision, cpu, and options."""

    @field_validator("script")
    @classmethod
    def _script_exists(cls, script: str | None, info: ValidationInfo) -> str | None:
        """Told with all other mistakes of the file, where whoever loads it says in which folder it runs."""
        folder = (info.context or {}).get(SCRIPT_FOLDER)
        if script is not None and folder is not None and not (path := folder / script).is_file():
            near = did_you_mean(path.name, sorted(p.name for p in path.parent.glob("*.py")))
            raise ValueError(f"there is no file {path}{near}")
        return script

    @model_validator(mode="after")
    def _one_of_both(self) -> RunSettings:
        if (self.script is None) == (self.module is None):
            raise ValueError("give either 'script' or 'module'")
        return self

    @model_validator(mode="after")
    def _launcher_is_the_one_configured(self) -> RunSettings:
        others = {"torchrun", "accelerate"} & self.model_fields_set - {self.launcher}
        if idle := [name for name in sorted(others) if getattr(self, name) != type(getattr(self, name))()]:
            raise ValueError(f"'{idle[0]}' has options, but 'launcher' is {self.launcher}; set launcher: {idle[0]}")
        return self


class GoalSettings(Settings):
    """What counts as good."""

    metric: str = "eval_loss"
    """A metric of the trainer's log."""
    direction: Literal["minimize", "maximize"] = "minimize"
    """Whether less or more of it is better."""
    constraints: list[str] = Field(default_factory=list)
    """What must not be given up for it, in words, for a language model."""
    context: str = ""
    """Anything else that a language model should know of this training, in words."""


class WakeSettings(Settings):
    """When the policy looks at the run."""

    every_steps: int = Field(20, ge=1)
    """At least every so many optimizer steps."""
    early_every_steps: int = Field(5, ge=1)
    """The same for the first steps, in which a rate that is far too high destroys the most; never more than
    `every_steps`."""
    early_until_step: int = Field(20, ge=0)
    """Until which step that is."""
    on_finding: bool = True
    """Also whenever a detector reports something new."""
    on_evaluation: bool = True
    """Also after each evaluation."""
    on_answer: bool = True
    """Also on an operator's decision or note, and when the probation of a change ends."""
    mode: Literal["async", "lockstep"] = "async"
    """Whether training goes on while the policy decides, or waits for it every so many steps."""
    lockstep_limit_s: Positive = 60.0
    """lockstep: how long training waits for one decision, in seconds."""
    poll_s: Positive = 0.5
    """How often the agent looks for new log rows, in seconds."""
    stall_after_s: Positive = 120.0
    """No step for so many seconds counts as a stall."""

    def pace(self, step: int) -> int:
        """Steps from one look to the next that lead to a step."""
        return min(self.every_steps, self.early_every_steps) if step <= self.early_until_step else self.every_steps

    def is_time(self, step: int) -> bool:
        """Whether a look is due at a step by its number alone."""
        return step > 0 and step % self.pace(step) == 0


class NotifySettings(Settings):
    """Who is told when nobody watches, through apprise (`pip install agenttune-toolkit[notify]`)."""

    on: list[Literal["approval", "reverted", "noted", "ended"]] = Field(default_factory=list)
    """What is told: approval (a command waits for a person), reverted (probation undid a change), noted (an agent wrote
    a remark, such as a rule that says what was tried in vain), ended (the run did). None given: nobody is told
    anything."""
    url_env: str = Field(
        "AGENTTUNE_NOTIFY_URLS", pattern=shape(r"^[A-Za-z_][A-Za-z0-9_]*$", "the name of an environment variable")
    )
    """Name of the environment variable with apprise's URLs, such as ntfys://my-topic, between commas or spaces."""
    channels: list[PluginEntry] = Field(default_factory=list)
    """Channels of your own beside apprise's, each ./mine.py:Mine or an installed name, or a mapping with that as its
    `type` and its parameters."""
    links: bool = False
    """Whether a message about a request carries a link to a page that approves or rejects it; see notifications.md."""
    public_url: str | None = None
    """Where those who get a link reach the control server, such as https://my-tunnel.example; null: its own address."""
    link_minutes: Positive = 60.0
    """How long a link works, in minutes; never longer than its request waits."""

    @model_validator(mode="before")
    @classmethod
    def _bare_on(cls, raw: object) -> object:
        # In YAML 1.1 a bare `on` is the value true, also as a key.
        return {"on" if key is True else key: value for key, value in raw.items()} if isinstance(raw, dict) else raw

    @field_validator("public_url")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not _ADDRESS.fullmatch(url):
            raise ValueError(f"{url!r:.120} is no address such as https://host:port, without user, query or fragment")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _links_are_sent(self) -> NotifySettings:
        if self.links and "approval" not in self.on:
            raise ValueError("links come with messages about approval; add it to 'on'")
        return self


_ADDRESS = re.compile(
    r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?|https?://\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?/?"
)


class RoundParameter(Settings):
    """A parameter of the script that a language model may choose at the start of a round."""

    argument: str = Field(pattern=shape(r"^--?[A-Za-z0-9][A-Za-z0-9_.-]*$", "an option of the script, such as --lr"))
    """The script's option, such as --lr."""
    minimum: float
    """Smallest allowed value."""
    maximum: float
    """Largest allowed value."""
    type: Literal["float", "int"] = "float"
    """Kind of number."""
    description: str = ""
    """What it is, for the model."""

    @model_validator(mode="after")
    def _in_order(self) -> RoundParameter:
        if self.minimum > self.maximum:
            raise ValueError(f"the minimum {self.minimum} is above the maximum {self.maximum}")
        if self.type == "int" and not (self.minimum.is_integer() and self.maximum.is_integer()):
            raise ValueError(f"the bounds of an int must be whole numbers, not {self.minimum} and {self.maximum}")
        return self


def from_count(value: object) -> object:
    return {"count": value} if isinstance(value, int) else value


class RoundsSettings(Settings):
    """Several runs in a row: round 0 is left alone, later ones are planned, steered and reflected on."""

    count: int = Field(0, ge=0)
    """Rounds after round 0; 0: one run, no rounds."""
    parameters: dict[str, RoundParameter] = Field(default_factory=dict)
    """What a plan may choose, by name."""
    references: list[str] = Field(default_factory=lambda: ["guardian"])
    """Policies whose runs, from the file's own start, stand beside the rounds."""
    plan_only: bool = True
    """Also run each round's plan without acting, so that good starts are not counted as good steering."""

    @field_validator("parameters")
    @classmethod
    def _one_each(cls, parameters: dict[str, RoundParameter]) -> dict[str, RoundParameter]:
        options = [parameter.argument for parameter in parameters.values()]
        for option in options:
            if options.count(option) > 1:
                raise ValueError(f"two parameters set {option}; give each an option of its own")
        return parameters


class CheckpointSettings(Settings):
    """What is kept of the checkpoints that commands save; the trainer's own are its own affair."""

    max_gib: float | None = Field(20.0, gt=0)
    """Disk that they may take, in GiB; null for no limit."""
    memory_gib: float = Field(4.0, gt=0)
    """Memory that snapshots may take, in GiB, with that made ready for the next one."""
    keep_last: int = Field(2, ge=1)
    """How many of the newest are never deleted."""
    keep_best: int = Field(1, ge=0)
    """How many of the best by the goal metric are never deleted."""
    keep_states: bool = True
    """Whether a run keeps states to go back to by itself, in what the checkpoints of commands leave free of that
    memory, else of that disk: `start` (before its first step), `best` (of its best evaluation) and some good ones."""
    good_states: int = Field(3, ge=0)
    """How many good ones: taken while no critical finding stands and the loss is at its best but for noise."""
    good_every_frac: float = Field(0.04, gt=0, le=1)
    """How often, as a part of the run's steps."""
    load_best_at_end: bool = False
    """Whether the weights of `best` are put into the model when training has come to its end, if the end is worse."""

    @model_validator(mode="after")
    def _best_is_kept(self) -> CheckpointSettings:
        if self.load_best_at_end and not self.keep_states:
            raise ValueError("load_best_at_end needs keep_states: true, which keeps the best state")
        return self


class ServerSettings(Settings):
    """The control server."""

    host: str = "127.0.0.1"
    """Address to bind; anything but loopback needs a token."""
    port: int | None = Field(None, ge=0, le=65535)
    """A port that is taken is then an error; null takes 7007, or the next one that is free; 0 any that is free."""
    token_env: str = "AGENTTUNE_TOKEN"
    """Name of the environment variable that holds the bearer token, if there is one."""
    local_role: Literal["agent", "viewer", "none"] = "agent"
    """As whom a program on this machine acts that sends no token, where the server wants none; none: not at all."""
    request_s: Positive = 30.0
    """Seconds that a client has for its whole request, and to take in some more of an answer."""
    allowed_origins: list[str] = Field(default_factory=list)
    """Pages of other servers that may use this one, such as http://localhost:5173; they act as local_role."""

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: list[str]) -> list[str]:
        try:
            return check_origins(origins)
        except UserError as error:
            raise ValueError(error.message) from None


class StoreSettings(Settings):
    """Where logs are kept."""

    runs_dir: str = "runs"
    """Folder for one sub-folder a run, from the folder of the config file; on a local disk."""
