"""A policy for a replay: language models in it are asked only if the user said so."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agenttune.config import BudgetSettings, LlmSettings
from agenttune.errors import UserError
from agenttune.policy.base import Policy, PolicyContext
from agenttune.policy.load import open_policy
from agenttune.policy.wrappers.wrapper import notice_of, unavailable

WITHOUT_MODEL = (
    "--allow-calls asks it at each decision, at its price; --from-transcripts shows what it answered during the run"
)


@dataclass(frozen=True)
class Admitted:
    """A policy, and what a reader of its replay should know of it."""

    policy: Policy
    note: str = ""


def admit(name_or_path: str, context: PolicyContext, allow_calls: bool) -> Admitted:
    """Open a policy for a replay.

    Args:
        name_or_path: As for `open_policy`.
        context: With the language model and its caps.
        allow_calls: Whether language models may really be called, which costs money.

    Raises:
        UserError: It cannot decide without a language model, and calls are not allowed; or it cannot be called.
    """
    if not allow_calls:
        # Neither a model nor a key nor a call left: there is nothing that could be called by mistake.
        context = replace(context, llm=LlmSettings(), budgets=BudgetSettings(max_calls=0), environ={})
    policy = open_policy(name_or_path, context).policy
    why_not = unavailable(policy)
    if why_not and allow_calls:
        raise UserError(f"policy {name_or_path!r} cannot be asked: {why_not}", field="policy")
    if why_not:
        raise UserError(
            f"policy {name_or_path!r} decides with a language model, and a replay makes no calls by itself: "
            f"{WITHOUT_MODEL}",
            field="policy",
        )
    note = notice_of(policy)
    return Admitted(policy, f"{note}; {WITHOUT_MODEL}" if note and not allow_calls else note)
