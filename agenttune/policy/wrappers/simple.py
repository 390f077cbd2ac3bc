"""Wrappers around one policy: cooldown, patience, shadow, and a thread of its own for a slow one."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace

from agenttune.policy.base import Decision, asked_at_step, by_agents
from agenttune.policy.wrappers.wrapper import Wrapper
from agenttune.protocol.observation import Observation


@dataclass(eq=False)
class Cooldown(Wrapper):
    """Asks the inner policy only when `steps` steps have passed since the newest command of an agent."""

    steps: int

    def decide(self, observation: Observation) -> Decision:
        newest = max((asked_at_step(c) for c in by_agents(observation)), default=None)
        if newest is not None and observation.step - newest < self.steps:
            words = f"waiting until step {newest + self.steps} after the command at step {newest}"
            return Decision(reason=words, skipped=True)
        return self.inner.decide(observation)


@dataclass(eq=False)
class Patience(Wrapper):
    """Lets a command through when the inner policy asked for its kind `times` times in a row within `steps` steps.

    No observation shows what was held back, so it is counted here. A restarted agent counts anew: it waits longer than
    it must, never shorter.
    """

    times: int
    steps: int
    _row: list[tuple[int, frozenset[str]]] = field(default_factory=list, init=False, repr=False)

    def decide(self, observation: Observation) -> Decision:
        return self.inner.decide(observation).then(lambda decision: self._hold(decision, observation.step))

    def _hold(self, decision: Decision, step: int) -> Decision:
        if decision.skipped:
            return decision
        if not decision.proposals:
            self._row.clear()
            return decision
        self._row = [(at, kinds) for at, kinds in self._row if step - self.steps < at < step]
        self._row.append((step, frozenset(draft.command.kind for draft in decision.proposals)))
        let_through, held = [], {}
        for draft in decision.proposals:
            count = self._times_in_a_row(draft.command.kind)
            if count >= self.times:
                let_through.append(draft)
            else:
                held[draft.command.kind] = f"asked for {count} of {self.times} times in a row"
        if let_through:
            self._row.clear()
        words = [decision.reason, *(f"{kind} is held back: {why}" for kind, why in held.items())]
        return replace(decision, proposals=let_through, reason="; ".join(filter(None, words)))

    def _times_in_a_row(self, kind: str) -> int:
        wanted = [kind in kinds for _, kinds in reversed(self._row)]
        return wanted.index(False) if False in wanted else len(wanted)


@dataclass(eq=False)
class Shadow(Wrapper):
    """Proposes nothing: the inner policy's proposals are recorded, to be scored afterwards."""

    def decide(self, observation: Observation) -> Decision:
        return self.inner.decide(observation).then(_in_shadow)


def _in_shadow(decision: Decision) -> Decision:
    if not decision.proposals:
        return decision
    shadowed = [*decision.shadowed, *decision.proposals]
    return replace(decision, proposals=[], shadowed=shadowed, reason=f"in shadow: {decision.reason}")


@dataclass(eq=False)
class Background(Wrapper):
    """Asks a slow policy in a thread, one question at a time; the policy is never called from two threads at once.

    `decide` returns at once: with the answer to come, or, while the last question is still worked on, with nothing.

    Args:
        inner: The policy.
        prompt_s: An answer that comes within so many seconds is waited for and returned as it is.
    """

    prompt_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _answer: Future[Decision] | None = field(default=None, init=False, repr=False)
    _since_step: int = field(default=0, init=False, repr=False)

    def decide(self, observation: Observation) -> Decision:
        with self._lock:
            if self._answer is not None and not self._answer.done():
                return Decision(reason=f"still thinking since step {self._since_step}", skipped=True)
            self._answer, self._since_step = Future(), observation.step
            thread = threading.Thread(
                target=self._think, args=(observation, self._answer), name=f"policy {self.name}", daemon=True
            )
        thread.start()
        if self.prompt_s and wait([self._answer], self.prompt_s).done:
            return self._answer.result()
        return Decision(reason=f"thinking since step {observation.step}", later=self._answer)

    def _think(self, observation: Observation, answer: Future[Decision]) -> None:
        try:
            decision = self.inner.decide(observation)
        except BaseException as error:  # for whoever waits for the answer
            answer.set_exception(error)
        else:
            answer.set_result(decision)
