"""The rounds of a study, one after the other: planned, carried out and reflected on."""

from __future__ import annotations

from collections.abc import Callable

from agenttune.errors import BudgetSpent, ModelUnavailable
from agenttune.launch.run_plan import Plan
from agenttune.launch.study.conclusion import conclusion, past_runs, summary_of
from agenttune.launch.study.planner import Planner, compared_runs, detailed_runs
from agenttune.launch.study.records import Arm, PlannedRound, Reflected, RunLaunched, Start, StudyNote, StudyPlace
from agenttune.launch.study.start import arguments_with
from agenttune.launch.study.state import COMPLETE, RoundRun, Study, fold
from agenttune.launch.study.study_log import StudyJournal, started

UNTOUCHED = "noop"
"""The policy of round 0, and of a plan without an agent."""

Launched = Callable[[str], None]
CarryOut = Callable[[Plan, Launched], int]
"""Runs a plan; calls the second argument with the run's id before its process starts; returns the exit code."""


class Halt(Exception):
    """The study cannot go on for now.

    Args:
        reason: Why, in a sentence.
        exit_code: Of the launcher.
    """

    def __init__(self, reason: str, exit_code: int = 1) -> None:
        super().__init__(reason)
        self.reason, self.exit_code = reason, exit_code


def study_of(journal: StudyJournal) -> Study:
    entries = journal.entries
    return fold(entries, started(entries, journal.folder), str(journal.folder), worked_on=True)


class Rounds:
    """Does what is left of a study, in order: round 0, the references, then round by round.

    Args:
        plan: The config file's.
        journal: What was done; what is done is written to it before the next thing begins.
        planner: Or why there is none.
        carry_out: Runs one run.
        say: Tells the user a line.
    """

    def __init__(
        self,
        plan: Plan,
        journal: StudyJournal,
        planner: Planner | str,
        carry_out: CarryOut,
        say: Callable[[str], None],
    ) -> None:
        self._plan, self._journal, self._planner = plan, journal, planner
        self._settings = plan.config.rounds
        self._carry_out, self._say = carry_out, say

    @property
    def study(self) -> Study:
        return study_of(self._journal)

    def go(self) -> int:
        """Returns the exit code: 1 if a run failed.

        Raises:
            Halt: It cannot go on for now.
        """
        if isinstance(self._planner, str):
            self._say(f"{self._planner}. Without one, only round 0 and the reference runs can be done")
        self._run(0, "untouched", UNTOUCHED, {})
        if self.study.reference is None:
            failed = self.study.runs[-1]
            raise Halt(f"round 0 failed: {failed.reason}; there is nothing to compare with")
        for policy in self._settings.references:
            self._run(0, "reference", policy, {})
        for number in range(1, self._settings.count + 1):
            self._round(number)
        # Round 0 is complete, whatever happened to earlier attempts at it.
        return 0 if all(r.outcome in COMPLETE for r in self.study.runs if r.counts and r.arm != "untouched") else 1

    def _round(self, number: int) -> None:
        if self.study.reflection(number) is None:
            planner = self._usable_planner()
            start = self._start(planner, number)
            act = self._run(number, "act", self._plan.config.policy, start)
            self._plan_only(number, start)
            self._reflect(planner, number, act)

    def _usable_planner(self) -> Planner:
        why = self._planner if isinstance(self._planner, str) else self._planner.unavailable()
        if isinstance(self._planner, str) or why:
            raise Halt(why)
        return self._planner

    def _start(self, planner: Planner, number: int) -> Start:
        planned = self.study.plan(number)
        if planned is not None:
            return planned.start
        body = self._planned(planner, number)
        self._journal.append(body, number)
        words = ", ".join(f"{name} {value!r}" for name, value in body.start.items()) or "the file's own start"
        self._say(f"round {number} of {self._settings.count} starts with {words}")
        return body.start

    def _planned(self, planner: Planner, number: int) -> PlannedRound:
        if not self._settings.parameters:
            return PlannedRound(start={}, chosen_by="file", reasoning="rounds.parameters declares none to choose")
        self._say(f"round {number} of {self._settings.count}: planning")
        try:
            past = past_runs(self._plan.runs_dir, detailed_runs(self.study))
            answer = planner.plan(self.study, number, self._plan.subject, past)
        except (BudgetSpent, ModelUnavailable) as error:
            raise Halt(f"no plan for round {number}: {error}") from error
        if answer.start is not None:
            return PlannedRound(
                start=answer.start, chosen_by="model", reasoning=answer.reasoning, refused=answer.refused
            )
        return self._fallback(number, answer.refused)

    def _fallback(self, number: int, refused: list[str]) -> PlannedRound:
        best = self.study.best()
        whose = f"the best start so far, of round {best.round}" if best and best.start else "the file's own start"
        reasoning = f"every plan for round {number} was refused ({refused[-1]}); it takes {whose}"
        self._note(reasoning, number)
        return PlannedRound(
            start=best.start if best else {}, chosen_by="best_so_far", reasoning=reasoning, refused=refused
        )

    def _plan_only(self, number: int, start: Start) -> None:
        if not self._settings.plan_only or self.study.done(number, "plan_only"):
            return
        args = self._args(start)
        same = next((r for r in self.study.runs if r.counts and r.policy == UNTOUCHED and r.args == args), None)
        if same is None:
            self._run(number, "plan_only", UNTOUCHED, start)
        elif not any(same.run_id in note for note in self.study.notes):
            self._note(f"round {number} has no run of the plan alone: {same.run_id} had the same start", number)

    def _reflect(self, planner: Planner, number: int, act: RoundRun) -> None:
        self._say(f"round {number} of {self._settings.count}: reflecting")
        try:
            past = past_runs(self._plan.runs_dir, compared_runs(self.study, number))
            text = planner.reflect(self.study, number, summary_of(self._plan.runs_dir, act.run_id), past)
        except (BudgetSpent, ModelUnavailable) as error:
            raise Halt(f"no reflection on round {number}: {error}") from error
        self._journal.append(Reflected(text=text or "(the model's answer was empty)"), number)

    def _note(self, text: str, number: int) -> None:
        self._journal.append(StudyNote(text=text), number)
        self._say(text)

    def _args(self, start: Start) -> list[str]:
        return arguments_with(self._plan.config.run.args, start, self._settings.parameters)

    def _run(self, number: int, arm: Arm, policy: str, start: Start) -> RoundRun:
        """The run that stands for this place: the one there is, or a new one.

        Raises:
            Halt: The user interrupted it.
        """
        done = self.study.done(number, arm, policy)
        if done is not None:
            return done
        place = StudyPlace(
            study=self.study.study, round=number, of=self._settings.count, arm=arm, policy=policy, start=start
        )
        plan = self._plan.with_run(self._args(start), policy, place)
        run_ids: list[str] = []

        def launched(run_id: str) -> None:
            run_ids.append(run_id)
            self._journal.append(RunLaunched(run_id=run_id, place=place, args=plan.config.run.args), number)

        code = self._carry_out(plan, launched)
        interrupted = code >= 128
        body = conclusion(plan.runs_dir, run_ids[0], watched=True, interrupted=interrupted)
        self._journal.append(body, number)
        if interrupted:
            raise Halt(f"interrupted in {place.words}", code)
        return next(run for run in self.study.runs if run.run_id == run_ids[0])
