"""A scripted expert behind the shipped `llm` policy: what can be decided from the observation's text alone."""

from __future__ import annotations

from agenttune.bench.cell import Outcome
from agenttune.bench.contenders.contender import Contender, ContenderSettings, Trial, register
from agenttune.bench.contenders.policy import PolicyContender, PolicySettings
from agenttune.testing import PlaybookExpert, ScriptedEndpoint

MODEL = "scripted expert"


class ExpertSettings(ContenderSettings):
    """The expert and the policy that asks it."""

    policy: str = "llm"
    """A policy with a language model, whose prompt and tools are measured."""


@register
class Expert(Contender):
    """Follows the playbook from the prompt alone, over a real endpoint: measures the prompt, not a model."""

    name, about, role = "expert", "a scripted expert that reads the prompt alone", "policy"
    settings = ExpertSettings
    acts_through_gate = True
    policies = ("policy",)
    given: ExpertSettings

    def play(self, trial: Trial) -> Outcome:
        with ScriptedEndpoint(PlaybookExpert(), model=MODEL) as endpoint:
            asked = PolicySettings(policy=self.given.policy, model=MODEL, base_url=endpoint.base_url)
            trial.answers = None  # kept answers would outlive the script
            return PolicyContender(asked).play(trial)
