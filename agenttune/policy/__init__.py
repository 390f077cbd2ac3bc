"""Policies: what to do about what is seen. The extension point: each maps an observation to drafts of commands.

Rules, lookahead, baselines and plans are here; `llm/` asks language models, `wrappers/` go around any policy. None of
them has a path to the trainer or the log; they only propose.
"""

from agenttune.policy.base import Decision, Draft, Policy, PolicyContext

__all__ = ["Decision", "Draft", "Policy", "PolicyContext"]
