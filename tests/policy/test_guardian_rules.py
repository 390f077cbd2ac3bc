"""Each rule of the shipped guardian that goes back, plans anew or raises: when it acts, and with what.

All cases are far from the thresholds of `policies/guardian.yaml`, which are tuned on the benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agenttune.policy.load import load_policy
from agenttune.policy.rule_names import names_of
from agenttune.policy.rules import RulePolicy
from agenttune.protocol.commands import (
    Command,
    LoadCheckpoint,
    ModelLayerOperation,
    Probe,
    UpdateOptimizer,
    UpdateSchedule,
)
from agenttune.protocol.events import KeptAs
from agenttune.protocol.lr_course import LrCourse, Track
from agenttune.protocol.observation import CheckpointView, Evaluation, Observation
from agenttune.protocol.proposals import Ack, Author, Change, CommandRecord, Proposal, State
from agenttune.protocol.run_facts import RunFacts
from agenttune.protocol.run_info import KnobState
from agenttune.protocol.weight_looks import WeightLook
from agenttune.testing.situations import series_view
from tests.policy.conftest import AGENT, decay, observe

LR, MAX_STEPS = 0.1, 400
GUARDIAN = load_policy("guardian")


def state(step: int, kept_as: KeptAs) -> CheckpointView:
    return CheckpointView(checkpoint_id=f"{kept_as}-{step}", step=step, keep_in="memory", kept_as=kept_as)


def look(step: int, ratio: float, straightness: float = math.nan, early: float | None = None) -> WeightLook:
    """A look at two layers, which began with the run."""
    early = ratio if early is None else early
    figures: dict[str, Any] = {"step": step, "since_step": 0, "steps": 1, "straightness": straightness}
    ratios = {"ratios": {"a": ratio, "b": ratio}, "rms": {"a": 1.0, "b": 1.0}}
    return WeightLook.model_validate({**figures, **ratios, "update_ratio": ratio, "early_update_ratio": early})


def seen(
    losses: Sequence[float],
    *,
    ratio: float = 0.03,
    straightness: float = 0.1,
    early: float | None = None,
    best: int | None = None,
    evals: Sequence[tuple[int, float]] = (),
    rates: Sequence[float] | None = None,
    ahead: float | None = None,
    can_be_planned: bool = True,
    commands: Sequence[CommandRecord] = (),
    has_states: bool = True,
) -> Observation:
    """A run that was looked at, with the states that it keeps by itself.

    Args:
        rates: So far; constant where not given.
        ahead: The rate that is planned for the rest of the run.
    """
    step = len(losses)
    known = observe(losses, lr=LR, max_steps=MAX_STEPS, evals=evals, commands=commands)
    states = [state(0, "start"), *([] if best is None else [state(best, "best")])] if has_states else []
    changed: dict[str, Any] = {"checkpoints": states, "weights": [look(step, ratio, straightness, early)]}
    if rates is not None:
        knob = known.knobs[0].model_copy(update={"effective": rates[-1] if ahead is None else ahead})
        changed |= {"series": {**known.series, "lr": series_view("lr", rates)}, "knobs": [knob]}
    if ahead is not None:
        track = Track(groups=[0], shares=[1.0], rates=[ahead] * 2, lowest=[ahead] * 2, highest=[ahead] * 2)
        course = LrCourse(kind="a function of the step", steps=[step, MAX_STEPS], tracks=[track])
        changed["schedule"] = course.model_copy(update={"can_be_planned": can_be_planned})
    return known.model_copy(update=changed)


def asked(observation: Observation) -> tuple[str, Any]:
    """The rule that acts on this, and its command; empty and None if none does."""
    drafts = GUARDIAN.decide(observation).proposals
    if not drafts:
        return "", None
    [draft] = drafts
    return draft.rationale.split(":")[0], draft.command


def acted(rule: str, step: int = 1) -> CommandRecord:
    """A command of a rule that a return has left behind: it counts, and the curve does not show it."""
    proposal = Proposal(command=UpdateOptimizer(lr=LR), author=AGENT, rationale=f"{rule}: x", based_on_step=step)
    ack = Ack(outcome="applied", step=step, branch="left")
    return CommandRecord(proposal=proposal, state=State.APPLIED, ack=ack, submitted_seq=1, submitted_step=step)


def most_times(rule: str) -> int:
    """How often a rule may act in a run."""
    assert isinstance(GUARDIAN, RulePolicy)
    most = next(r.max_times for r in GUARDIAN.rules if r.name == rule)
    assert most is not None
    assert most <= 3
    return most


# -- a wreck -----------------------------------------------------------------------------------------------------------


def wreck_of_the_first_steps(commands: Sequence[CommandRecord] = ()) -> Observation:
    return seen([2.3, 9.0, 40.0, 80.0, 120.0], ratio=2.0, commands=commands)


def lost(commands: Sequence[CommandRecord] = ()) -> Observation:
    return seen([*decay(60, 2.3, 1.0), *[math.nan] * 4], best=40, evals=[(20, 1.5), (40, 1.2)], commands=commands)


def blown_up(commands: Sequence[CommandRecord] = ()) -> Observation:
    losses = [*decay(60, 2.3, 1.0), *[30.0 + i for i in range(20)]]
    return seen(losses, ratio=0.4, best=40, evals=[(20, 1.5), (40, 1.2)], commands=commands)


def far_behind_the_best(commands: Sequence[CommandRecord] = ()) -> Observation:
    """Labels became noise: evaluations double, and the training loss goes where it started."""
    evals = [(10, 1.8), (20, 1.5), (30, 1.3), (40, 1.2), (50, 1.1), (60, 1.0), (80, 2.2), (100, 2.3)]
    return seen([*decay(64, 2.3, 1.0), *[2.25] * 36], best=60, evals=evals, commands=commands)


def overfitting(commands: Sequence[CommandRecord] = ()) -> Observation:
    costs = [2.0, 1.6, 1.3, 1.1, 1.0, 1.0, 1.08, 1.16, 1.24, 1.32]
    evals = [(20 * (i + 1), cost) for i, cost in enumerate(costs)]
    return seen(decay(200, 2.3, 0.1), best=100, evals=evals, commands=commands)


WRECKS = {
    "begin_lower": wreck_of_the_first_steps,
    "back_from_nan": lost,
    "back_from_blow_up": blown_up,
    "back_to_best": far_behind_the_best,
    "back_from_overfitting": overfitting,
}


def test_a_run_that_throws_its_weights_away_begins_again_with_a_rate_it_bears() -> None:
    """An update of twice the weights' size: at a twentieth of the rate it is a tenth."""
    rule, command = asked(wreck_of_the_first_steps())
    assert rule == "begin_lower"
    assert isinstance(command, LoadCheckpoint)
    assert (command.checkpoint_id, command.reset_optimizer) == ("start-0", True)
    assert command.lr == pytest.approx(LR / 20)


@pytest.mark.parametrize(
    ("early", "sgd", "adam"), [(0.3, "", ""), (0.5, "", "begin_lower"), (0.8, *["begin_lower"] * 2)]
)
def test_with_adam_steps_of_two_fifths_of_the_weights_are_too_large(early: float, sgd: str, adam: str) -> None:
    """Seen under Adam: 3.25, 0.46 and 0.48 where the same run begun again with less ended at 0.28, 0.23 and 0.27."""
    known = seen(decay(10, 2.3, 2.0), ratio=0.2, early=early)
    assert asked(known)[0] == sgd
    rule, command = asked(with_adam(known))
    assert rule == adam
    assert command is None or command.lr == pytest.approx(LR * max(0.1 / early, 0.01))


@pytest.mark.parametrize(
    ("rule", "first", "then"), [("back_from_nan", 0.5, 0.1), ("back_from_blow_up", 0.3, 0.1)], ids=["NaN", "blow-up"]
)
def test_a_wreck_goes_back_to_before_it_lower_each_time(rule: str, first: float, then: float) -> None:
    """Seen: a cut alone kept the wreck (1.35 where a healthy run has 0.149)."""
    name, command = asked(WRECKS[rule]())
    assert name == rule
    assert (command.checkpoint_id, command.reset_optimizer) == ("best-40", True)
    assert command.lr == pytest.approx(LR * first)
    name, again = asked(WRECKS[rule]([acted(rule)]))
    assert (name, again.lr) == (rule, pytest.approx(LR * then))


def test_a_state_of_after_the_trouble_began_is_not_gone_back_to() -> None:
    known = blown_up()
    late = [*known.checkpoints, state(75, "good")]
    assert asked(known.model_copy(update={"checkpoints": late}))[1].checkpoint_id == "best-40"


def test_evaluations_that_double_while_the_training_loss_agrees_go_back_to_the_best() -> None:
    rule, command = asked(far_behind_the_best())
    assert rule == "back_to_best"
    assert (command.checkpoint_id, command.reset_optimizer) == ("best-60", True)
    assert command.lr == pytest.approx(LR * 0.1)


def test_overfitting_goes_back_to_the_best_evaluation() -> None:
    """Seen: overfitting was found in 3 of 3 runs, and nothing used it."""
    rule, command = asked(overfitting())
    assert rule == "back_from_overfitting"
    assert (command.checkpoint_id, command.lr) == ("best-100", pytest.approx(LR * 0.1))


@pytest.mark.parametrize(
    "losses", [[2.07] * 200, decay(200, 2.07, 2.0), [-1.0] * 200], ids=["flat", "hardly lower", "negative"]
)
def test_where_no_training_loss_came_down_worse_evaluations_are_no_overfitting(losses: list[float]) -> None:
    """Seen in healthy pairs of generator and discriminator: returns cost one 0.604 instead of 0.410."""
    costs = [1.0, 0.82, 0.61, 0.65, 0.66, 0.68, 0.7, 0.71, 0.72, 0.73]
    evals = [(20 * (i + 1), cost) for i, cost in enumerate(costs)]
    assert asked(seen(losses, best=60, evals=evals)) == ("", None)
    assert asked(seen(decay(200, 2.07, 0.5), best=60, evals=evals))[0] == "back_from_overfitting"
    below = [value - 3 for value in decay(200, 2.07, 0.5)], [(step, 2 * cost - 3) for step, cost in evals]
    assert asked(seen(below[0], best=60, evals=below[1]))[0] == "back_from_overfitting"


@pytest.mark.parametrize(
    ("epoch_steps", "evaluations"), [(40, 3), (160, 3), (201, math.inf), (5000, math.inf), (None, 5)]
)
def test_where_nothing_was_seen_twice_worse_evaluations_are_no_overfitting(
    epoch_steps: int | None, evaluations: float
) -> None:
    """Seen in a healthy training whose sequences grew: 2.83 where the same run untouched ended at 0.71."""
    costs = [2.0, 1.6, 1.3, 1.1, 1.0, 1.1, 1.22, 1.3, 1.38, 1.46]
    for count in range(7, 11):
        evals = [(20 * (i + 1), cost) for i, cost in enumerate(costs[:count])]
        known = seen(decay(20 * count, 2.3, 0.1), best=100, evals=evals)
        known = known.model_copy(update={"facts": RunFacts(epoch_steps=epoch_steps)})
        assert (asked(known)[0] == "back_from_overfitting") is (
            count - 5 >= evaluations and count * 20 >= (epoch_steps or 0)
        )


@pytest.mark.parametrize(("later", "rule"), [(0.05, "back_from_overfitting"), (0.9, "")], ids=["falls", "harder data"])
def test_where_the_training_loss_rose_since_the_best_other_data_came(later: float, rule: str) -> None:
    """Seen in a healthy loop without epochs, whose data became harder: 0.79 instead of 0.69."""
    costs = [e.metrics["eval_loss"] for e in overfitting().evaluations]
    evals = [(20 * (i + 1), cost) for i, cost in enumerate(costs)]
    assert asked(seen([*decay(110, 2.3, 0.1), *decay(90, later, later)], best=100, evals=evals))[0] == rule


@pytest.mark.parametrize("makes", [overfitting, far_behind_the_best])
@pytest.mark.parametrize("best", [1.0, 1.9, 2.2, 3.0])
def test_a_best_evaluation_that_is_hardly_better_than_the_beginning_is_no_measure(
    makes: Callable[[], Observation], best: float
) -> None:
    """Seen in healthy curricula, where evaluations get worse until all of the data comes: 2.79 instead of 0.30."""
    known = makes()
    higher = [Evaluation(step=e.step, metrics={"eval_loss": best * e.metrics["eval_loss"]}) for e in known.evaluations]
    moved = known.model_copy(update={"evaluations": higher})
    start = names_of(known)["loss"]["start"]
    assert names_of(moved)["evals"]["learnt"] == pytest.approx((start - best) / start)
    assert (asked(moved)[0] == "") is (best > 2)
    before = moved.model_copy(update={"facts": RunFacts(trained_before=True)})
    assert asked(before)[0] in ("back_to_best", "back_from_overfitting"), "fine-tuning begins where little is gained"
    other = moved.model_copy(update={"goal_metric": "eval_cost", "evaluations": []})
    assert math.isnan(names_of(other)["evals"]["learnt"])


def test_a_best_evaluation_by_luck_is_no_measure() -> None:
    """Seen under noisy evaluations, in healthy runs: 0.31 instead of 0.25, and 0.32 instead of 0.28."""

    def rule(*values: float) -> str:
        evals = [(20 * (i + 1), value) for i, value in enumerate(values)]
        best = 20 * (1 + values.index(min(values)))
        return asked(seen(decay(20 * len(values), 2.3, 0.3), best=best, evals=evals))[0]

    assert rule(0.999, 0.677, 0.229, 0.293, 0.425) == "", "so few do not tell their noise"
    assert rule(1.294, 0.602, 0.328, 0.336, 0.101, 0.255, 0.321, 0.268, 0.314) == "", "within the noise of the others"
    assert rule(1.0, 0.8, 0.62, 0.5, 0.43, 1.2, 1.3) == "back_to_best"
    assert rule(1.0, 0.8, 0.62, 0.43, 1.2, 1.3) == "back_to_best"
    assert rule(1.0, 0.8, 0.62, 0.5, 0.43, 0.44, 0.5, 0.53, 0.56) == "", "nobody told its epochs: five"
    assert rule(1.0, 0.8, 0.62, 0.5, 0.43, 0.44, 0.5, 0.53, 0.56, 0.6) == "back_from_overfitting"


@pytest.mark.parametrize("rule", WRECKS)
def test_no_rule_goes_back_more_often_than_it_may(rule: str) -> None:
    """Seen: cuts repeated down to 3e-5 without asking whether the last one had helped."""
    most = most_times(rule)
    assert asked(WRECKS[rule]([acted(rule, i) for i in range(1, most)]))[0] == rule
    assert asked(WRECKS[rule]([acted(rule, i) for i in range(1, most + 1)]))[0] != rule


@pytest.mark.parametrize("rule", WRECKS)
def test_without_states_nothing_goes_back(rule: str) -> None:
    """Where the budget kept none, the rate alone can be cut."""
    name, command = asked(WRECKS[rule]().model_copy(update={"checkpoints": []}))
    assert name in ("", "cut_far", "cut", "cut_non_finite")
    assert command is None or command.lr < LR


def test_one_bad_batch_is_waited_out() -> None:
    """Seen: a spike that had passed cost ten times the rate for good (+73 %)."""
    well = decay(60, 2.3, 1.0)
    for bad in ([30.0], [30.0, 25.0], [math.nan]):
        after = decay(100, 2.3, 1.0)[60 + len(bad) : 80]
        assert asked(seen([*well, *bad, *after], best=40, evals=[(20, 1.5), (40, 1.2)])) == ("", None)


# -- one layer ---------------------------------------------------------------------------------------------------------


def one_layer_broke(commands: Sequence[CommandRecord] = (), size: float = 40.0, update: float = 9.0) -> Observation:
    """At step 65 the weights of layer `b` become `size` times as large, while the others go on."""
    known = seen([*decay(64, 2.3, 1.0), *[1.9] * 4], best=40, evals=[(20, 1.5), (40, 1.2)], commands=commands)
    usual = {"a": 0.03, "b": 0.03, "c": 0.03}
    looks = [
        WeightLook(
            step=step,
            since_step=0,
            steps=5,
            straightness=0.1,
            update_ratio=0.03,
            early_update_ratio=0.03,
            ratios=usual | ({"b": update} if step > 64 else {}),
            rms={"a": 1.0, "b": size if step > 64 else 1.0, "c": 1.0},
        )
        for step in range(6, 67, 5)
    ]
    states = [*known.checkpoints, state(60, "good"), state(66, "good")]
    return known.model_copy(update={"weights": looks, "checkpoints": states})


@pytest.mark.parametrize(("size", "update"), [(40.0, 9.0), (0.0, 1.0)], ids=["scaled", "dead"])
def test_where_one_layer_broke_the_run_goes_back_at_the_same_rate(size: float, update: float) -> None:
    """Seen: a tenth of the rate after a layer had died cost a third of what the run would have learnt."""
    rule, command = asked(one_layer_broke(size=size, update=update))
    assert rule == "back_from_layer_fault"
    assert command == LoadCheckpoint(checkpoint_id="good-60"), "of before it, and nothing else is changed"


def test_a_layer_that_breaks_again_from_there_is_trained_no_longer() -> None:
    """Seen: a layer whose updates were 500 times too large, three returns and 300 times less rate for all (0.93)."""
    commands = [acted("back_from_layer_fault", 60)]
    back, hold = GUARDIAN.decide(one_layer_broke(commands)).proposals
    assert back.rationale.startswith("hold_layer: layer b ")
    assert back.command == LoadCheckpoint(checkpoint_id="good-60")
    assert hold.command == ModelLayerOperation(
        layer_name="b", operation_name="requires_grad_", params={"requires_grad": False}
    )
    commands.append(acted("hold_layer", 60))
    assert asked(one_layer_broke(commands))[0] not in ("back_from_layer_fault", "hold_layer"), "nothing twice"


def test_a_dropout_that_lets_nothing_through_is_lowered() -> None:
    facts = RunFacts(dropping={"b.drop": 0.99})
    rule, command = asked(seen(decay(30, 2.3, 2.2)).model_copy(update={"facts": facts}))
    assert (rule, command.layer_name, command.param_name, command.value) == ("drop_less", "b.drop", "p", 0.1)


def frozen_layer(commands: Sequence[CommandRecord] = (), still: float = 0.0) -> Observation:
    """Layer `b` has never moved; the optimizer holds it, as it would not be looked at else."""
    known = seen(decay(60, 2.3, 1.0), commands=commands)
    usual = {"a": 0.03, "b": still, "c": 0.03}
    looks = [
        look(step, 0.03).model_copy(update={"ratios": usual, "rms": dict.fromkeys(usual, 1.0)}) for step in (5, 10)
    ]
    return known.model_copy(update={"weights": looks})


def test_whether_a_frozen_layer_is_to_be_trained_a_person_is_asked_once() -> None:
    [draft] = GUARDIAN.decide(frozen_layer()).proposals
    assert draft.rationale.startswith("unfreeze: layer b ")
    assert draft.command == ModelLayerOperation(
        layer_name="b", operation_name="requires_grad_", params={"requires_grad": True}
    )
    assert draft.ask_always
    waiting = CommandRecord(
        proposal=Proposal(command=draft.command, author=AGENT, rationale=draft.rationale, based_on_step=60),
        state=State.PROPOSED,
        submitted_seq=1,
        submitted_step=60,
    )
    for state_of_it in (State.PROPOSED, State.EXPIRED, State.REJECTED):
        record = waiting.model_copy(update={"state": state_of_it})
        assert asked(frozen_layer([record])) == ("", None)
    assert asked(frozen_layer(still=1e-4)) == ("", None)


def test_no_other_rule_of_the_guardian_waits_for_a_person() -> None:
    assert isinstance(GUARDIAN, RulePolicy)
    assert [rule.name for rule in GUARDIAN.rules if rule.ask == "always"] == ["unfreeze"]


# -- a collapsed schedule ----------------------------------------------------------------------------------------------


def collapsed(commands: Sequence[CommandRecord] = (), can_be_planned: bool = True) -> Observation:
    rates = [LR] * 60 + [LR * 0.01] * 20
    losses = decay(80, 2.3, 1.5)
    return seen(losses, rates=rates, ahead=LR * 0.01, commands=commands, can_be_planned=can_be_planned)


def test_a_collapsed_schedule_is_planned_anew_once() -> None:
    """Seen: the rate at 2 % of its base with two thirds to go was left; one rule took the regret from 1.00 to 0.26."""
    rule, command = asked(collapsed())
    assert rule == "plan_anew"
    assert isinstance(command, UpdateSchedule)
    assert command.shape == "cosine"
    assert command.peak_lr == pytest.approx(LR)
    assert command.final_lr is not None
    assert command.final_lr < LR / 5
    assert asked(collapsed([acted("plan_anew")])) == ("", None)


def test_a_collapsed_schedule_that_cannot_be_replaced_is_set_by_hand() -> None:
    """Seen: OneCycleLR, StepLR or ExponentialLR laid out for a tenth of the run: the same refused request, 60 times."""
    rule, command = asked(collapsed(can_be_planned=False))
    assert rule == "plan_by_hand"
    assert isinstance(command, UpdateOptimizer)
    assert command.lr == pytest.approx(LR * (1.05 - 80 / MAX_STEPS))


def set_by_hand(lr: float) -> Observation:
    """Much later."""
    rates = [LR] * 60 + [LR * 0.01] * 20 + [lr] * 220
    commands = [acted("plan_by_hand")]
    return seen(decay(300, 2.3, 0.5), rates=rates, ahead=lr, commands=commands, can_be_planned=False)


def test_a_rate_that_was_set_by_hand_falls_to_the_end() -> None:
    rule, command = asked(set_by_hand(LR * 0.85))
    assert rule == "plan_by_hand"
    assert isinstance(command, UpdateOptimizer)
    assert command.lr == pytest.approx(LR * 0.3)
    assert asked(set_by_hand(LR * 0.3)) == ("", None)


# -- a rate that is too low --------------------------------------------------------------------------------------------


def hardly_moves(ratio: float = 1e-4, commands: Sequence[CommandRecord] = (), **more: Any) -> Observation:
    return seen([2.3 - 1e-5 * i for i in range(20)], ratio=ratio, straightness=0.2, commands=commands, **more)


def goes_straight(straightness: float = 0.95, commands: Sequence[CommandRecord] = (), **more: Any) -> Observation:
    losses = [2.3 - 1e-4 * i for i in range(80)]
    return seen(losses, ratio=0.01, straightness=straightness, commands=commands, **more)


LOW = {"raise_far": hardly_moves, "raise_straight": goes_straight}


def test_a_rate_whose_updates_are_nothing_is_raised_towards_those_that_train() -> None:
    """Seen: `raise` fired in none of 111 runs; its test asked for a fall that a low rate cannot show."""
    rule, command = asked(hardly_moves())
    assert rule == "raise_far"
    assert isinstance(command, UpdateOptimizer)
    assert command.lr_sets == "base"
    assert command.lr == pytest.approx(LR * 10), "ten times at most"


def test_a_rate_at_which_the_weights_go_straight_on_and_nothing_falls_is_raised() -> None:
    rule, command = asked(goes_straight())
    assert rule == "raise_straight"
    assert (command.lr, command.lr_sets) == (pytest.approx(LR * 2), "base"), "to updates of two hundredths"


def test_a_hump_where_steps_are_of_a_usual_size_and_nothing_was_learnt_is_no_wreck() -> None:
    """Seen in healthy adversarial training, whose loss hardly falls: a return cost it half of what it gained."""
    losses = [*[2.0, 1.98] * 20, *[9.0 + i / 10 for i in range(20)]]
    evals = [(20, 1.9), (40, 1.8)]
    assert asked(seen(losses, ratio=0.1, early=0.2, best=40, evals=evals))[0] == ""
    assert asked(seen(losses, ratio=0.1, early=0.5, best=40, evals=evals))[0] in ("begin_lower", "back_from_blow_up")


def test_evaluations_that_come_back_are_left_alone() -> None:
    """Seen in a healthy regression with heavy tails: two evaluations far above the best, the second on its way back."""
    evals = [(20 * (i + 1), v) for i, v in enumerate([0.65, 0.43, 0.24, 0.2, 0.16, 0.19, 0.62, 0.31])]
    assert asked(seen(decay(160, 1.0, 0.2), best=100, evals=evals))[0] == ""
    stays = [*evals[:-1], (160, 0.62), (180, 0.63)]
    assert asked(seen(decay(180, 1.0, 0.2), best=100, evals=stays))[0] in ("back_to_best", "back_from_overfitting")


def test_three_evaluations_a_little_worse_are_no_overfitting_until_they_go_on() -> None:
    """Seen in a healthy recurrent network: a return cost it 0.333 instead of 0.242, as the next one was the best."""
    costs = [1.398, 1.224, 0.8, 0.744, 0.661, 0.537, 0.563, 0.585, 0.58]

    def rule(*more: float) -> str:
        evals = [(25 * (i + 1), cost) for i, cost in enumerate([*costs, *more])]
        return asked(seen(decay(evals[-1][0], 2.3, 0.3), best=150, evals=evals))[0]

    assert rule() == ""
    assert rule(0.402) == ""
    assert rule(0.62, 0.66) == "back_from_overfitting"


@pytest.mark.parametrize("rule", LOW)
def test_no_rate_is_raised_more_often_than_it_may_or_after_a_wreck(rule: str) -> None:
    most = most_times(rule)
    assert asked(LOW[rule](commands=[acted(rule, i) for i in range(1, most + 1)]))[0] != rule
    for wreck in ("begin_lower", "back_from_nan", "back_from_blow_up", "back_to_best", "cut", "cut_far"):
        assert asked(LOW[rule](commands=[acted(wreck)])) == ("", None)


@pytest.mark.parametrize("rule", LOW)
def test_no_rate_is_raised_while_it_warms_up(rule: str) -> None:
    step = len(LOW[rule]().series["step_loss"].values)
    rising = [LR * (i + 1) / 100 for i in range(step)]
    assert asked(LOW[rule](rates=rising)) == ("", None)


def test_a_rate_is_not_raised_where_the_loss_has_fallen_far_or_half_the_run_is_done() -> None:
    falls = decay(80, 2.3, 0.3)
    assert asked(seen(falls, ratio=1e-4, straightness=0.95)) == ("", None)
    flat = [2.3 - 1e-4 * i for i in range(250)]
    assert asked(seen(flat, ratio=1e-4, straightness=0.95))[0] not in LOW


# -- healthy runs ------------------------------------------------------------------------------------------------------

SHAPES: dict[str, tuple[list[float], list[float]]] = {
    "decay, constant rate": (decay(MAX_STEPS, 2.3, 0.4, 0.05), [LR] * MAX_STEPS),
    "noisy, warm-up and line": (
        decay(MAX_STEPS, 4.6, 2.0, 0.2, seed=1),
        [LR * min((i + 1) / 20, (MAX_STEPS - i) / 380) for i in range(MAX_STEPS)],
    ),
    "slow, cosine": (
        decay(MAX_STEPS, 2.3, 1.2, 0.03, seed=2, tau=0.5),
        [LR * (0.5 + 0.5 * math.cos(math.pi * i / MAX_STEPS)) for i in range(MAX_STEPS)],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_healthy_run_is_left_alone_at_every_look(shape: str) -> None:
    losses, rates = SHAPES[shape]
    for step in [*range(5, 21, 5), *range(40, MAX_STEPS, 20)]:
        evals = [(s, losses[s - 1] * 1.02) for s in range(20, step + 1, 40)]
        best = min(evals, key=lambda e: e[1])[0] if evals else None
        known = seen(losses[:step], best=best, evals=evals, rates=rates[:step], straightness=0.3)
        assert asked(known) == ("", None), f"at step {step}"


def test_tiny_steps_that_go_straight_are_raised_though_the_loss_has_fallen() -> None:
    """Seen: at a hundredth of the rate squared errors, and losses behind normalized layers, lose much at once."""
    for end in (0.8, -1.0):
        rule, command = asked(seen(decay(80, 2.3, end), ratio=6e-4, straightness=0.9))
        assert rule == "raise_tiny"
        assert isinstance(command, UpdateOptimizer)
        assert command.lr == pytest.approx(LR * 10)
        assert asked(seen(decay(80, 2.3, end), ratio=6e-4, straightness=0.5)) == ("", None)
        assert asked(with_adam(seen(decay(80, 2.3, end), ratio=6e-3, straightness=0.9)))[0] == "try_higher"


def stands_still(early: float = 0.35, left: float = 1.0, steps: int = 240, moves: float = 0.0) -> Observation:
    """Evaluations have stood still, but for `moves` of each, for long; the rest is planned at `left` of the rate."""
    evals = [(20 * (i + 1), max(2.0 - 0.3 * i, 0.5) * (1 - moves) ** i + 0.004 * (i % 2)) for i in range(steps // 20)]
    losses = decay(steps, 2.3, 0.5, 0.02)
    return with_adam(seen(losses, early=early, best=100, evals=evals, ahead=LR * left))


@pytest.mark.parametrize(("early", "factor"), [(0.26, 0.05 / 0.26), (0.35, 0.05 / 0.35), (5.0, 0.1)])
def test_at_a_standstill_after_large_first_steps_the_rate_is_lowered(early: float, factor: float) -> None:
    """Seen: a rate thirty times too high in a run of 3,000 steps (0.107, at a good rate 0.063)."""
    rule, command = asked(stands_still(early))
    assert rule == "lower_flat"
    assert isinstance(command, UpdateOptimizer)
    assert command.lr == pytest.approx(LR * factor)
    assert command.lr_sets == "base"


def test_a_standstill_at_the_rate_that_it_began_again_with_is_lowered_from_smaller_steps_on() -> None:
    """Seen: begun again at a tenth of the weights, a long run ended at 0.138; lowered once more, at 0.088."""
    begun = stands_still(early=0.1).model_copy(update={"commands": [acted("begin_lower")]})
    rule, command = asked(begun)
    assert rule == "lower_flat"
    assert command.lr == pytest.approx(LR * 0.3)
    unknown = [look(240, math.nan, 0.1, math.nan)]
    assert asked(begun.model_copy(update={"weights": unknown})) == ("", None), "nothing is known of its steps"


def test_a_standstill_after_steps_of_a_usual_size_or_before_a_fall_of_the_rate_is_left_alone() -> None:
    assert asked(stands_still(early=0.2)) == ("", None)
    assert asked(stands_still(left=0.5)) == ("", None), "the schedule will lower it"
    assert asked(stands_still(steps=100)) == ("", None), "early in the run"
    assert asked(stands_still(steps=380)) == ("", None), "too late to gain"
    assert asked(stands_still(moves=0.1)) == ("", None), "it still gets better"
    plain = stands_still()
    assert asked(plain.model_copy(update={"knobs": plain.knobs[:1]})) == ("", None), "SGD"
    acting = acted("lower_flat")
    assert asked(plain.model_copy(update={"commands": [acting]})) == ("", None), "once"


def falls_straight(ratio: float = 6e-3, straightness: float = 0.9, steps: int = 80, **more: Any) -> Observation:
    """The loss falls well under AdamW, as it does at a tenth of a good rate."""
    return with_adam(seen(decay(steps, 2.3, 1.2), ratio=ratio, straightness=straightness, **more))


def with_adam(known: Observation) -> Observation:
    return known.model_copy(update={"knobs": [*known.knobs, KnobState(name="eps", effective=1e-8)]})


def still_low(ratio: float, commands: Sequence[CommandRecord]) -> Observation:
    """The loss has kept its start under SGD, and the way is a little less straight than `raise_straight` asks for."""
    return seen([2.3 - 1e-4 * i for i in range(80)], ratio=ratio, straightness=0.58, commands=commands)


@pytest.mark.parametrize("rule", ["raise_far", "raise_straight", "raise_tiny", "raise_low"])
def test_sgd_whose_steps_a_raise_has_made_usual_is_not_raised_again(rule: str) -> None:
    """Seen: tenfold, and three times more 30 steps later: 0.337 instead of 0.320."""
    assert asked(still_low(0.02, [acted(rule)])) == ("", None)
    assert asked(still_low(0.01, [acted(rule)]))[0] == "raise_low", "steps that are still small: it was not enough"
    assert asked(still_low(0.02, []))[0] == "raise_low", "nothing was raised yet"
    assert asked(with_adam(still_low(0.02, [acted(rule)])))[0] == "raise_low", (
        "whose steps a raise makes no larger still"
    )


@pytest.mark.parametrize(("ratio", "factor"), [(3e-3, 5), (6e-3, 5), (1.9e-2, 5)])
def test_a_rate_by_which_the_weights_go_straight_on_is_tried_against_a_higher_one(ratio: float, factor: float) -> None:
    """Seen: at a tenth of the good rate eleven of thirteen networks were left as they were: their loss falls well."""
    rule, command = asked(falls_straight(ratio))
    assert rule == "try_higher"
    assert isinstance(command, Probe)
    (candidate,) = command.candidates
    assert isinstance(candidate, UpdateOptimizer)
    assert candidate.lr == pytest.approx(LR * factor)
    assert candidate.lr_sets == "base"
    assert command.include_current, "against changing nothing, which costs nothing but steps"
    assert command.extra_steps <= 0.05 * MAX_STEPS
    assert command.lower_rates == "never"


def test_the_smaller_the_updates_the_higher_the_rate_that_is_tried_tenfold_at_most() -> None:
    for ratio, factor in ((1.25e-3, 8), (6e-4, 10)):
        # Which may not act again.
        rule, command = asked(falls_straight(ratio, commands=[acted("raise_tiny"), acted("raise_tiny", 2)]))
        assert rule == "try_higher"
        assert isinstance(command, Probe)
        (candidate,) = command.candidates
        assert isinstance(candidate, UpdateOptimizer)
        assert candidate.lr == pytest.approx(LR * factor)


def test_nothing_is_tried_where_the_rate_may_be_meant_so() -> None:
    sgd = falls_straight().model_copy(update={"knobs": seen(decay(80, 2.3, 1.2)).knobs})
    assert asked(sgd) == ("", None), "its steps grow with the gradients: small ones at first are as they should be"
    assert asked(falls_straight(straightness=0.5)) == ("", None), "batches push to and fro: a usual rate"
    assert asked(falls_straight(0.05)) == ("", None), "steps of a usual size"
    assert asked(falls_straight(steps=20)) == ("", None), "too early to tell how straight"
    assert asked(falls_straight(steps=170)) == ("", None), "too late for it to pay"
    noisy = [2.0 + (-1) ** i * (1.4 - i / 100) for i in range(80)]
    assert asked(with_adam(seen(noisy, ratio=6e-3, straightness=0.9))) == ("", None), (
        "all noise: a few steps tell nothing"
    )
    assert asked(with_adam(seen(decay(80, 2.3, 0.1), ratio=6e-3, straightness=0.9))) == ("", None), (
        "the loss has nearly gone"
    )
    assert asked(falls_straight(rates=[LR * (i + 1) / 100 for i in range(80)])) == ("", None), "the rate warms up"
    knows = falls_straight().model_copy(update={"facts": RunFacts(trained_before=True)})
    assert asked(knows) == ("", None), "a fine-tuning"
    little: dict[str, Any] = {"trainable": 700_000, "samples": 200}
    for facts in ({"epochs": 30.0}, {"epoch_steps": 10}):
        by_heart = falls_straight().model_copy(update={"facts": RunFacts(**little, **facts)})
        assert asked(by_heart) == ("", None), "sooner by heart is no gain"
    for facts in ({"epochs": 3.0}, {}, {"epochs": 200.0, "samples": 50_000}):
        known = falls_straight().model_copy(update={"facts": RunFacts(**{**little, **facts})})
        assert asked(known)[0] == "try_higher"


def done(command: Command, step: int, changes: Sequence[Change] = (), rule: str = "") -> CommandRecord:
    """A command that was applied on the way that led here."""
    author = AGENT if rule else Author(principal="operator", name="ann")
    proposal = Proposal(command=command, author=author, rationale=f"{rule}: x", based_on_step=step)
    ack = Ack(outcome="applied", step=step, branch="main", changes=list(changes))
    return CommandRecord(proposal=proposal, state=State.APPLIED, ack=ack, submitted_seq=1, submitted_step=step)


RAISED = Change(name="lr", previous=LR, requested=LR * 5, effective=LR * 5, previous_base=LR, base=LR * 5)


def tried(step: int, adopted: bool) -> CommandRecord:
    """A trial of `try_higher`, and what came of it."""
    raised = UpdateOptimizer(lr=LR * 5, lr_sets="base")
    return done(Probe(candidates=(raised,), steps=10), step, [RAISED] if adopted else (), "try_higher")


def test_a_vain_trial_is_made_once_more_later_and_an_adopted_one_may_be_followed_by_another() -> None:
    assert asked(falls_straight(commands=[tried(50, adopted=False)])) == ("", None)
    assert asked(falls_straight(steps=100, commands=[tried(50, adopted=False)]))[0] == "try_higher"
    assert asked(falls_straight(commands=[tried(50, adopted=True)]))[0] == "try_higher"
    most = most_times("try_higher")
    assert asked(falls_straight(commands=[tried(10 * i, adopted=True) for i in range(1, most + 1)])) == ("", None)


def test_what_somebody_else_has_set_is_not_tried_against() -> None:
    assert asked(falls_straight(commands=[done(UpdateOptimizer(lr=LR * 5), 40, [RAISED])])) == ("", None)
