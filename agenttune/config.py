"""`config.yaml` as typed settings. Every key is documented in `config.yaml` itself; unknown keys are refused.

Reading YAML lives here too, because only the parser knows the line that a wrong key stands on.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from agenttune import approval_names
from agenttune.commands import COMMAND_KINDS, Risk
from agenttune.errors import ConfigError, UserError
from agenttune.expressions import check
from agenttune.proposals import Approver

DEFAULT_PORT = 7007
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def _as_strings(value: object) -> object:
    return [str(v) if isinstance(v, (int, float)) else v for v in value] if isinstance(value, list) else value


def _from_pair(value: object) -> object:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return {"minimum": value[0], "maximum": value[1]}
    return value


Arguments = Annotated[list[str], BeforeValidator(_as_strings, json_schema_input_type=list[str | int | float])]
"""Command-line arguments; numbers need no quotes."""


class RunSettings(Settings):
    """What to train."""

    script: str | None = None
    """Path of a Python script, from the folder of the config file."""
    module: str | None = None
    """Or a module, as for `python -m`."""
    args: Arguments = Field(default_factory=list)
    """Arguments of the script."""
    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,40}$")
    """The run's id is this name with the time of its start."""
    env: dict[str, str] = Field(default_factory=dict)
    """Extra environment variables of the script."""

    @model_validator(mode="after")
    def _one_of_both(self) -> RunSettings:
        if (self.script is None) == (self.module is None):
            raise ValueError("give either 'script' or 'module'")
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


class Bounds(Settings):
    """An allowed range; either end may be open."""

    minimum: float | None = None
    """Smallest allowed value."""
    maximum: float | None = None
    """Largest allowed value."""

    @model_validator(mode="after")
    def _in_order(self) -> Bounds:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"the minimum {self.minimum} is above the maximum {self.maximum}")
        return self


Pair = tuple[float | None, float | None]
BoundsOrPair = Annotated[Bounds, BeforeValidator(_from_pair, json_schema_input_type=Bounds | Pair)]


class WindowSettings(Settings):
    """What agents may do within so many steps, all their commands together."""

    steps: int = Field(200, ge=1)
    """Length of the window, in steps, up to now."""
    max_change_factor: float | None = Field(None, gt=1)
    """Largest factor by which a knob may have changed over the window; null for no limit."""
    max_commands: int | None = Field(None, ge=0)
    """Commands in the window; null for no limit."""


class ApprovalRule(Settings):
    """Which commands of agents it speaks of, and who decides on them. What is left out does not matter."""

    name: str = Field("", pattern=r"^[A-Za-z0-9 _.-]{0,60}$")
    """For the log; default: its place in the list."""
    commands: list[str] = Field(default_factory=list)
    """Kinds of commands."""
    risks: list[Risk] = Field(default_factory=list)
    """Risk classes."""
    knobs: list[str] = Field(default_factory=list)
    """It changes none but these."""
    max_factor: float | None = Field(None, gt=1)
    """It changes each by no more than this factor, up or down."""
    approvers: list[Approver] = Field(min_length=1)
    """Who is asked, one after the other until one decides: auto approves at once, rule goes by the two conditions
    below, model asks a second language model, human waits for a person. Nobody decided: rejected."""
    approve_if: str = ""
    """rule: approves where this holds, such as factor <= 2 and steps_left > 100."""
    reject_if: str = ""
    """rule: rejects where this holds, which is looked at first; where neither holds, the next one is asked."""
    timeout_s: Positive = 900.0
    """How long all of them together are waited for, in seconds."""
    on_timeout: Literal["reject", "approve"] = "reject"
    """What a person's silence means; that of a model is never a yes."""
    training: Literal["continue", "pause"] = "continue"
    """Whether training goes on while it waits."""

    @field_validator("commands")
    @classmethod
    def _known(cls, kinds: list[str]) -> list[str]:
        return _known_kinds(kinds)

    @field_validator("approvers")
    @classmethod
    def _in_order(cls, approvers: list[Approver]) -> list[Approver]:
        if len(set(approvers)) < len(approvers):
            raise ValueError(f"each approver can be asked once, not {', '.join(approvers)}")
        if "auto" in approvers[:-1]:
            raise ValueError("auto always approves, so nobody after it would be asked; put it last")
        return approvers

    @field_validator("approve_if", "reject_if")
    @classmethod
    def _can_be_read(cls, condition: str) -> str:
        try:
            if condition:
                check(condition, approval_names.DOCUMENTED, approval_names.DOCUMENTED_FUNCTIONS)
        except UserError as error:
            raise ValueError(error.message) from None
        return condition

    @model_validator(mode="after")
    def _conditions_are_asked(self) -> ApprovalRule:
        has_condition = bool(self.approve_if or self.reject_if)
        if "rule" in self.approvers and not has_condition:
            raise ValueError("the approver 'rule' needs approve_if or reject_if")
        if has_condition and "rule" not in self.approvers:
            raise ValueError("approve_if and reject_if are looked at only if 'rule' is among the approvers")
        return self


class ReviewerSettings(Settings):
    """A model that reviews what another proposes; what is not given is as in `llm` of the config file."""

    model: str | None = None
    """Its name at the endpoint; better another model than the one that proposes."""
    base_url: str | None = None
    """Its endpoint."""
    api_key_env: str | None = None
    """Name of the environment variable that holds its key."""
    temperature: float | None = Field(0.0, ge=0, le=2)
    """Sampling temperature; null: the endpoint's own."""
    prompt: str = "review"
    """A template's name or path."""

    def llm(self, llm: LlmSettings) -> LlmSettings:
        """The settings of the model."""
        given = {name: value for name in ("model", "base_url", "api_key_env") if (value := getattr(self, name))}
        return llm.model_copy(update=given)


class GateReviewerSettings(ReviewerSettings):
    """The model that the approver `model` of a rule asks."""

    prompt: str = "approve"
    """A template's name or path."""


class GateSettings(Settings):
    """What commands may do. Bounds and `forbid` hold for everyone, the rest for agents."""

    bounds: dict[str, BoundsOrPair] = Field(default_factory=dict)
    """Absolute bounds by knob name, as [min, max]; for `lr` they hold for base and effective rate."""
    max_change_factor: float | None = Field(None, gt=1)
    """Largest factor by which one command of an agent may change a knob, up or down; null for no limit."""
    cooldown_steps: int = Field(0, ge=0)
    """Steps that must pass between two changes of the same knob by an agent."""
    window: WindowSettings = WindowSettings()
    """What agents may do within so many steps."""
    forbid: list[str] = Field(default_factory=list)
    """Commands that are refused, by kind."""
    allowed_layers: list[str] = Field(default_factory=list)
    """Layers that agents may change, as patterns such as transformer.h.*; none given: all."""
    quiet_first_steps: int = Field(0, ge=0)
    """First steps of the run, such as warm-up, in which agents change nothing."""
    quiet_last_steps: int = Field(0, ge=0)
    """The same for the last steps."""
    clamp: bool = False
    """Whether a value of an agent beyond a bound or factor becomes the nearest allowed one instead of being refused."""
    repeat_cooldown_steps: int = Field(50, ge=0)
    """Steps in which an agent's proposal that was refused is refused again unread."""
    max_per_minute: int = Field(120, ge=1)
    """Proposals of agents that are looked at in a minute; more are turned away unrecorded."""
    approval: list[ApprovalRule] = Field(default_factory=list)
    """Who decides on commands of agents: the first rule that fits, nobody if none does. No rules: all are approved."""
    reviewer: GateReviewerSettings = GateReviewerSettings()
    """The language model that the approver `model` asks."""
    usd_per_hour: float | None = Field(None, ge=0)
    """What the machine costs, in US dollars an hour: a request that holds training says what the waiting costs."""

    @field_validator("forbid")
    @classmethod
    def _known(cls, kinds: list[str]) -> list[str]:
        return _known_kinds(kinds)

    @field_validator("approval")
    @classmethod
    def _told_apart(cls, rules: list[ApprovalRule]) -> list[ApprovalRule]:
        names = [rule_name(rule, number) for number, rule in enumerate(rules, 1)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two rules are called {twice!r}; give each a name of its own")
        return rules

    @property
    def asks_model(self) -> bool:
        """Whether a rule asks a language model."""
        return any("model" in rule.approvers for rule in self.approval)


def rule_name(rule: ApprovalRule, number: int) -> str:
    """What a rule is called in the log; `number` is its place in the list, from 1."""
    return rule.name or f"rule {number}"


def _known_kinds(kinds: list[str]) -> list[str]:
    for kind in kinds:
        if kind not in COMMAND_KINDS:
            raise ValueError(f"unknown command {kind!r}{_did_you_mean(kind, COMMAND_KINDS)}")
    return kinds


STALL_WINDOWS = 16
"""Windows of probation after which a stall that noise still hides is no longer looked for (guess)."""


class ProbationSettings(Settings):
    """How changes by agents are watched, and undone if they hurt."""

    steps: int = Field(0, ge=0)
    """Steps for which the training loss is watched after a change; 0: it is not."""
    stall_steps: int | None = Field(None, ge=0)
    """Steps for which it is watched on while noise may hide that the change has stalled the run; null: 16 times
    `steps`, 0: never."""
    in_doubt: Literal["keep", "revert"] = "keep"
    """What happens to a change that may have stalled the run for all that could be seen in so many steps."""
    evaluations: int = Field(0, ge=0)
    """Evaluations for which a metric is watched after a change, beside the loss or instead of it; 0: it is not."""
    metric: str | None = None
    """The metric of evaluations that is watched; null: the goal's."""
    direction: Literal["minimize", "maximize"] | None = None
    """Which way that metric should go; null: as the goal."""
    depth: Literal["knob", "state"] = "knob"
    """What a revert puts back: the changed values, or the whole state of before the change, weights and all."""
    keep_in: Literal["memory", "disk"] = "memory"
    """Where the snapshot of before the change is kept; one that does not fit in memory goes to disk."""
    tolerance: float = Field(3.0, gt=0)
    """By how many standard errors the loss must be above its forecast to count as hurt."""
    min_rise_frac: float = Field(0.02, ge=0)
    """And by which part of its size at least."""
    cooldown_steps: int = Field(100, ge=0)
    """Steps after a revert in which agents may not change the same knob."""

    @property
    def is_on(self) -> bool:
        """Whether changes are watched at all."""
        return self.steps > 0 or self.evaluations > 0

    @property
    def longest_steps(self) -> int:
        """Steps after which nothing more is waited for."""
        stall_steps = STALL_WINDOWS * self.steps if self.stall_steps is None else self.stall_steps
        return max(self.steps, stall_steps)

    @model_validator(mode="after")
    def _metric_is_evaluated(self) -> ProbationSettings:
        if (self.metric or self.direction) and not self.evaluations:
            raise ValueError(
                "metric and direction are of evaluations: set evaluations to how many are awaited after a change; "
                "steps always watch the training loss"
            )
        return self


class NotifySettings(Settings):
    """Who is told when nobody watches, through apprise (`pip install agenttune-toolkit[notify]`)."""

    on: list[Literal["approval", "reverted", "ended"]] = Field(default_factory=list)
    """What is told: approval (a command waits for a person), reverted (probation undid a change), ended (the run did).
    None given: nobody is told anything."""
    url_env: str = Field("AGENTTUNE_NOTIFY_URLS", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable with apprise's URLs, such as ntfys://my-topic, between commas or spaces."""
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


class BudgetSettings(Settings):
    """What the agent may use up in one run."""

    max_commands: int | None = Field(100, ge=0)
    """Commands of agents that reach the trainer; null for no limit."""
    max_probe_frac: float | None = Field(0.2, ge=0)
    """Extra training steps of agents' probes, as a part of the run's steps; null for no limit."""
    max_probe_steps: int | None = Field(None, ge=0)
    """The same as a number of steps, whichever is reached first; null for no limit."""
    max_usd: float | None = Field(None, gt=0)
    """Money for calls of a language model, in US dollars; needs its price in `llm.prices`; null for no limit."""
    max_calls: int | None = Field(None, ge=0)
    """Calls of a language model; null for no limit."""
    max_tokens: int | None = Field(None, ge=0)
    """Tokens of such calls, input and output together; null for no limit."""


class Price(Settings):
    """What a model costs, in US dollars per million tokens."""

    input_usd: float = Field(ge=0)
    """Input."""
    output_usd: float = Field(ge=0)
    """Output."""
    cached_input_usd: float | None = Field(None, ge=0)
    """Input that the provider had in its cache; null: as other input."""


class LlmSettings(Settings):
    """The language model that policies may use, behind any endpoint that speaks OpenAI's Chat Completions."""

    model: str | None = None
    """Its name at the endpoint; without one, policies go by their rules alone."""
    base_url: str | None = None
    """The endpoint, such as http://127.0.0.1:8080/v1; without one, OPENAI_BASE_URL or OpenAI itself."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key."""
    protocol: Literal["auto", "tools", "json"] = "auto"
    """How it answers: with tool calls, or with JSON after a schema; auto finds out with a small call at the start."""
    temperature: float | None = Field(None, ge=0, le=2)
    """Sampling temperature; null: the endpoint's own."""
    max_output_tokens: int = Field(2000, ge=16)
    """Longest answer, in tokens."""
    timeout_s: Positive = 120.0
    """How long one attempt may take, in seconds."""
    max_attempts: int = Field(4, ge=1)
    """Attempts of one call, on errors that may pass."""
    prices: dict[str, Price] = Field(default_factory=dict)
    """Prices by model name."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request, such as a provider's own options."""


class RoundParameter(Settings):
    """A parameter of the script that a language model may choose at the start of a round."""

    argument: str = Field(pattern=r"^--?[A-Za-z0-9][A-Za-z0-9_.-]*$")
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


def _from_count(value: object) -> object:
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


class ServerSettings(Settings):
    """The control server."""

    host: str = "127.0.0.1"
    """Address to bind; anything but loopback needs a token."""
    port: int = Field(DEFAULT_PORT, ge=0, le=65535)
    """0 takes a free port."""
    token_env: str = "AGENTTUNE_TOKEN"
    """Name of the environment variable that holds the bearer token, if there is one."""
    local_role: Literal["agent", "viewer", "none"] = "agent"
    """As whom a program on this machine acts that sends no token, where the server wants none; none: not at all."""


class StoreSettings(Settings):
    """Where logs are kept."""

    runs_dir: str = "runs"
    """Folder for one sub-folder a run, from the folder of the config file; on a local disk."""


class Config(Settings):
    """All of `config.yaml`."""

    run: RunSettings
    """What to train."""
    goal: GoalSettings = GoalSettings()
    """What counts as good."""
    policy: str = "default"
    """A policy: a name in `policies/`, or the path of a policy file. default: the guardian's rules, then the language
    model where they have nothing to say, if one is configured."""
    wake: WakeSettings = WakeSettings()
    """When the policy looks at the run."""
    llm: LlmSettings = LlmSettings()
    """The language model."""
    gate: GateSettings = GateSettings()
    """What no command may do."""
    probation: ProbationSettings = ProbationSettings()
    """How changes are watched and undone."""
    notify: NotifySettings = NotifySettings()
    """Who is told when nobody watches."""
    budgets: BudgetSettings = BudgetSettings()
    """What the agent may use up."""
    rounds: Annotated[RoundsSettings, BeforeValidator(_from_count)] = RoundsSettings()
    """Several runs in a row."""
    checkpoints: CheckpointSettings = CheckpointSettings()
    """What is kept of the checkpoints that commands save."""
    server: ServerSettings = ServerSettings()
    """The control server."""
    store: StoreSettings = StoreSettings()
    """Where logs are kept."""

    @model_validator(mode="after")
    def _reviewer_is_known(self) -> Config:
        if self.gate.asks_model and not self.gate.reviewer.llm(self.llm).model:
            raise ValueError("a rule of gate.approval asks a model, but none is named: set gate.reviewer.model")
        return self

    @model_validator(mode="after")
    def _direction_is_known(self) -> Config:
        metric = self.probation.metric
        if metric is not None and metric != self.goal.metric and self.probation.direction is None:
            raise ValueError(
                f"probation.metric {metric!r} is not the goal's ({self.goal.metric!r}), so which way it should go is "
                "not known; set probation.direction to minimize or maximize"
            )
        return self

    @model_validator(mode="after")
    def _price_is_known(self) -> Config:
        if self.budgets.max_usd is not None and self.llm.model and self.llm.model not in self.llm.prices:
            raise ValueError(
                f"budgets.max_usd needs the price of {self.llm.model} in llm.prices (input_usd and output_usd per "
                "million tokens); or use budgets.max_calls or max_tokens"
            )
        return self


class AttachSettings(Settings):
    """What an agent needs beside a run that was started without a config file: the defaults of `Config`."""

    goal: GoalSettings = GoalSettings()
    """What counts as good."""
    wake: WakeSettings = WakeSettings()
    """When the policy looks at the run."""
    llm: LlmSettings = LlmSettings()
    """The language model."""
    budgets: BudgetSettings = BudgetSettings()
    """What the agent may use up."""
    server: ServerSettings = ServerSettings()
    """The control server."""


S = TypeVar("S", bound=BaseModel)


def load_config(path: Path) -> Config:
    """Read and check a config file.

    Raises:
        ConfigError: Missing file, broken YAML, unknown or missing key, wrong type; `file:line: key: problem`.
    """
    return load_yaml(path, Config)


Place = tuple[int | str, ...]
"""The keys and list indices that lead to a part of a YAML file; empty for the whole."""


def load_yaml(path: Path, model: type[S], at: Place = ()) -> S:
    """Read a YAML file, or the part of it at a place, into a pydantic model; errors name file, line and key.

    Raises:
        ConfigError: As for `load_config`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
        duplicate = next(_duplicate_keys(root), None) if root is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if duplicate is not None:
        raise ConfigError(f"{path}:{duplicate.start_mark.line + 1}: {duplicate.value}: this key stands here twice")
    for part in at:
        data = data[part]
    try:
        return model.model_validate({} if data is None else data)
    except ValidationError as error:
        raise _config_error(path, root, error, model, at) from None


def line_of(path: Path, place: Place) -> int:
    """The line (from 1) of a part of a YAML file that was read before."""
    return _line_of(yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader), place)


def _config_error(
    path: Path, root: yaml.Node | None, error: ValidationError, model: type[BaseModel], at: Place
) -> ConfigError:
    first = error.errors(include_url=False)[0]
    loc = first["loc"]
    key = ".".join(str(part) for part in (*at, *loc)) or "(top level)"
    line = _line_of(root, (*at, *loc))
    problem = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        names = _names_at(model, loc[:-1])
        problem = f"unknown key{_did_you_mean(str(loc[-1]), names)}; known here: {', '.join(sorted(names))}"
    elif first["type"] == "missing":
        problem = "this key is required"
    elif first["type"] != "value_error":
        problem += f" (got {first['input']!r:.80})"
    return ConfigError(f"{path}:{line}: {key}: {problem}", field=key)


def _duplicate_keys(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Keys that stand twice in one mapping, which YAML's own loader would silently merge."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                yield key
            seen.add(str(key.value))
            yield from _duplicate_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _duplicate_keys(item)


def _line_of(node: yaml.Node | None, loc: Place) -> int:
    """The line (from 1) of the deepest part of `loc` that stands in the file."""
    line = node.start_mark.line if node is not None else 0
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                continue
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
    return line + 1


def _names_at(model: type[BaseModel], loc: Place) -> list[str]:
    """The keys that a model allows at a place, following nested models, lists and mappings of models."""
    current: Any = model
    for part in loc:
        if isinstance(part, str) and hasattr(current, "model_fields") and part in current.model_fields:
            current = _model_inside(current.model_fields[part].annotation)
    return list(getattr(current, "model_fields", {}))


def _model_inside(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_inside(arg) for arg in getattr(annotation, "__args__", ()))
    return next((m for m in inner if m is not None), None)


def _did_you_mean(name: str, names: list[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
