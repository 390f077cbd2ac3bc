"""What a call costs, and whether another one may be made."""

from __future__ import annotations

from agenttune.config import BudgetSettings, LlmSettings, Price
from agenttune.errors import ConfigError
from agenttune.protocol.model_calls import Ledger, Usage


def check_price(llm: LlmSettings, budgets: BudgetSettings) -> None:
    """A cap on money needs a price.

    Raises:
        ConfigError: Says how to give one.
    """
    if budgets.max_usd is not None and llm.prices.get(llm.model or "") is None:
        raise ConfigError(
            f"budgets.max_usd is {budgets.max_usd:g}, but the price of {llm.model!r} is not known: add it under "
            "llm.prices (input_usd and output_usd, in US dollars per million tokens), or cap max_calls or max_tokens "
            "instead of max_usd",
            field="llm.prices",
            allowed=sorted(llm.prices),
        )


def cost_usd(usage: Usage | None, price: Price | None) -> float | None:
    """US dollars; None where the price or the tokens are not known."""
    if price is None:
        return None
    if usage is None:
        return 0.0 if price.input_usd == price.output_usd == 0 else None
    cached_price = price.input_usd if price.cached_input_usd is None else price.cached_input_usd
    fresh = usage.input_tokens - usage.cached_input_tokens
    total = fresh * price.input_usd + usage.cached_input_tokens * cached_price + usage.output_tokens * price.output_usd
    return total / 1e6


def cap_reached(caps: BudgetSettings, spent: Ledger) -> str:
    """Why no further call may be made; empty if one may. A cap that cannot be checked counts as reached."""
    if caps.max_calls is not None and spent.calls >= caps.max_calls:
        return f"the budget of {caps.max_calls} model calls is used up (budgets.max_calls)"
    if caps.max_tokens is not None and spent.tokens >= caps.max_tokens:
        return f"the budget of {caps.max_tokens} tokens is used up (budgets.max_tokens)"
    if caps.max_tokens is not None and spent.uncounted_calls:
        return (
            f"the server does not count tokens, so budgets.max_tokens ({caps.max_tokens}) cannot be kept; "
            "cap max_calls instead"
        )
    if caps.max_usd is None:
        return ""
    if spent.usd is None:
        return (
            f"what calls cost is not known, so budgets.max_usd ({caps.max_usd:g}) cannot be kept; cap max_calls instead"
        )
    return f"the budget of {caps.max_usd:g} USD is used up (budgets.max_usd)" if spent.usd >= caps.max_usd else ""
