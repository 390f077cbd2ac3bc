"""A slow policy that keeps nobody waiting: it thinks in a thread, and its answer comes later."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from agenttune.policy.base import Decision, Policy
from agenttune.policy.wrappers.wrapper import notice_of, unavailable
from agenttune.protocol.observation import Observation


class Background:
    """Asks `inner` in a thread, one question at a time.

    `decide` returns at once: with the answer to come, or, while the last one is still being worked on, with nothing.

    Args:
        inner: The slow policy. It is called from one thread at a time, but not always from the same.
    """

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self._lock = threading.Lock()
        self._answer: Future[Decision] | None = None
        self._since_step = 0

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def parts(self) -> tuple[Policy, ...]:
        return (self.inner,)

    @property
    def notice(self) -> str:
        return notice_of(self.inner)

    def unavailable(self) -> str:
        return unavailable(self.inner)

    def decide(self, observation: Observation) -> Decision:
        with self._lock:
            if self._answer is not None and not self._answer.done():
                return Decision(reason=f"still thinking since step {self._since_step}", skipped=True)
            self._answer, self._since_step = Future(), observation.step
            thread = threading.Thread(
                target=self._think, args=(observation, self._answer), name=f"policy {self.name}", daemon=True
            )
        thread.start()
        return Decision(reason=f"thinking since step {observation.step}", later=self._answer)

    def _think(self, observation: Observation, answer: Future[Decision]) -> None:
        try:
            decision = self.inner.decide(observation)
        except BaseException as error:  # for whoever waits for the answer
            answer.set_exception(error)
        else:
            answer.set_result(decision)
