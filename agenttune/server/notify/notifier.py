"""Tells people, in a thread of its own: what is found in the logs is queued, sent, tried again, and recorded.

What was told stands in the run's log as `notified`, so a server that is started again does not tell it twice; what
was not, it tells then. A server killed between a delivery and its record repeats that one message.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agenttune.control import LocalControl
from agenttune.errors import AgenttuneError, SystemFault, UserError
from agenttune.protocol.events import Notified
from agenttune.protocol.run_info import RunInfo
from agenttune.server.notify.channels import Channel, open_channels
from agenttune.server.notify.notices import (
    MOST_TOLD,
    PendingNotification,
    Watched,
    notice_of,
    pending_notifications,
    watch,
)

logger = logging.getLogger(__name__)
RETRY_AFTER_S = (5.0, 30.0, 120.0, 600.0)
"""Pauses between attempts (guess: an endpoint that is away for longer than 13 minutes stays away)."""
MOST_QUEUED = 200
"""Messages in the queue; further ones are found in the logs again later."""
CAPPED = ("approval", "noted")
"""What an agent can bring about as often as it likes."""
MOST_PER_MINUTE = 20
"""Messages of one run (guess: services block who sends more); the rest follows, if it still waits then."""
MINUTE_S = 60.0
ERROR_CHARACTERS = 300


@dataclass(eq=False)
class Delivery:
    """A message on its way.

    Attributes:
        left: Channels that have not taken it.
        due_s: When to try, by the monotonic clock.
    """

    pending: PendingNotification
    watched: Watched
    left: list[Channel]
    channels: int
    due_s: float
    attempts: int = 0


class Notifier:
    """Finds what people want to be told, and tells them.

    Args:
        control: Of the runs.
        url: Of this server, for links and shells.
        environment: Holds the addresses of channels.
        clock: Monotonic time in seconds.
        run_id: The only run to tell of; empty: all that have no channels of their own. A server does not run the code
            that those are made of: it would be named by a log.
        channels: Opens those of that run.
    """

    def __init__(
        self,
        control: LocalControl,
        url: str,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
        run_id: str = "",
        channels: Callable[[], list[Channel]] | None = None,
    ) -> None:
        self._run_id, self._open_own = run_id, channels
        self._control, self._url, self._environment, self._clock = control, url, environment, clock
        self._watched: dict[str, tuple[Watched, list[Channel]]] = {}
        self._silent: set[str] = set()
        self._warned: set[str] = set()
        self._sent_s: dict[str, deque[float]] = {}
        self._jobs: list[Delivery] = []
        self._lock, self._looking, self._wake = threading.Lock(), threading.Lock(), threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="notifier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a message is on its way."""
        with self._lock:
            return bool(self._jobs)

    def close(self, patience_s: float) -> None:
        """Look once more, give every message one more attempt, and end, within `patience_s`."""
        self.look()
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def look(self) -> None:
        """Queue what is new in the logs. Sends nothing."""
        with self._looking:
            cards = {} if self._run_id else {info.run_id: info for info in self._control.runs()}
            for run_id in [self._run_id] if self._run_id else self._control.run_ids():
                if run_id in self._silent:
                    continue
                try:
                    self._look_at(run_id, cards.get(run_id))
                except SystemFault as fault:
                    self._warn(run_id, fault)
                except (UserError, ValueError) as error:  # its folder is gone, or a newer agenttune wrote its settings
                    self._warn(run_id, error)
                    self._silent.add(run_id)
        self._wake.set()

    def _warn(self, run_id: str, error: Exception) -> None:
        """Once for each run: this is looked at every two seconds."""
        if run_id not in self._warned:
            logger.warning("%s: nobody is told of it: %s", run_id, error)
        self._warned.add(run_id)

    def _look_at(self, run_id: str, card: RunInfo | None) -> None:
        known = self._watched.get(run_id) or self._begin(run_id, card)
        if known is None:
            self._silent.add(run_id)
            return
        watched, channels = known
        # Asked of the control, which also finds out that a run's process is gone.
        ended = self._control.info(run_id).ended_at_s is not None
        pending = pending_notifications(self._control, watched)
        for item in pending:
            if item.what not in CAPPED or self._may_ask(run_id):
                watched.told.add(item)
                with self._lock:
                    self._jobs.append(Delivery(item, watched, list(channels), len(channels), self._clock()))
        if ended and not pending:
            self._silent.add(run_id)
            del self._watched[run_id]

    def _begin(self, run_id: str, card: RunInfo | None) -> tuple[Watched, list[Channel]] | None:
        watched = watch(self._control, run_id, card)
        if watched is None or bool(watched.settings.channels) != (self._open_own is not None):
            return None
        try:
            channels = (
                self._open_own() if self._open_own else open_channels(watched.settings.url_env, self._environment)
            )
        except UserError as error:
            self._record_no_channels(run_id, str(error))
            return None
        self._watched[run_id] = watched, channels
        return self._watched[run_id]

    def _record_no_channels(self, run_id: str, error: str) -> None:
        """Once, whichever server finds it first."""
        before, info = self._control.events(run_id, limit=MOST_TOLD, kinds=["notified"]), self._control.info(run_id)
        if info.is_live and not any(isinstance(e.body, Notified) and e.body.what == "setup" for e in before):
            words = f"the control server (process {os.getpid()}) cannot tell anybody: {error}; start it again with it"
            self._control.record(run_id, Notified(what="setup", ok=False, attempts=0, error=words), info.step)

    def _may_ask(self, run_id: str) -> bool:
        sent, now_s = self._sent_s.setdefault(run_id, deque(maxlen=MOST_PER_MINUTE)), self._clock()
        if len(sent) == MOST_PER_MINUTE and now_s - sent[0] < MINUTE_S:
            return False
        with self._lock:
            if len(self._jobs) >= MOST_QUEUED:
                return False
        sent.append(now_s)
        return True

    def _work(self) -> None:
        while True:
            closing = self._closing
            self.deliver(everything=closing)
            if closing:
                return
            self._wake.wait(self._pause_s())
            self._wake.clear()

    def _pause_s(self) -> float | None:
        with self._lock:
            due = [job.due_s for job in self._jobs]
        return max(0.0, min(due) - self._clock()) if due else None

    def deliver(self, everything: bool = False) -> None:
        """Try what is due now, one after the other; with `everything`, also what is not."""
        with self._lock:
            due = [job for job in self._jobs if everything or job.due_s <= self._clock()]
        for job in due:
            try:
                self._attempt(job)
            except (AgenttuneError, ValueError) as error:
                self._give_up(job, error)

    def _give_up(self, job: Delivery, error: Exception) -> None:
        """Drop a message that failed for another reason than its channels; recorded if the log can be written."""
        logger.warning("%s: %s was not told: %s", job.pending.run_id, job.pending.what, error)
        if job in self._jobs:
            self._drop(job)
            with contextlib.suppress(AgenttuneError):  # it is in the server's log already
                self._record(job, str(error))

    def _attempt(self, job: Delivery) -> None:
        notice = notice_of(self._control, job.pending, job.watched.settings, self._url)
        if notice is None:
            self._drop(job)
            if job.attempts:
                self._record(job, f"it no longer waited; before that {_names(job)} did not take it")
            return
        job.attempts += 1
        job.left = [channel for channel in job.left if not channel.send(notice.title, notice.body)]
        if not job.left or job.attempts > len(RETRY_AFTER_S):
            self._drop(job)
            self._record(job, f"{_names(job)} did not take it" if job.left else "")
        else:
            job.due_s = self._clock() + RETRY_AFTER_S[job.attempts - 1]

    def _drop(self, job: Delivery) -> None:
        with self._lock:
            self._jobs.remove(job)

    def _record(self, job: Delivery, error: str) -> None:
        body = Notified(
            what=job.pending.what,
            channels=job.channels - len(job.left),
            ok=not error,
            attempts=job.attempts,
            error=error[:ERROR_CHARACTERS],
        )
        run_id = job.pending.run_id
        self._control.record(run_id, body, self._control.info(run_id).step, job.pending.command_id or None)


def _names(job: Delivery) -> str:
    return ", ".join(channel.name for channel in job.left)
