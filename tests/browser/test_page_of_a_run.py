"""The dashboard over a real training run: what a person does on it happens in the training, and is seen on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agenttune.control.discovery import ServerAddress
from agenttune.dashboard.build import BUILT
from tests.browser.training import Training, until
from tests.browser.visits import DESKTOP, Visit

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (BUILT / "index.html").exists(), reason="the page is not built: make page"),
]


@pytest.fixture(scope="module")
def training(server: tuple[Path, ServerAddress]) -> Iterator[Training]:
    made = Training(server[0], "tiny-run")
    made.reach(30)
    yield made
    made.close()


@pytest.fixture
def desktop(browser: Any) -> Iterator[Visit]:
    made = Visit(browser, **DESKTOP)
    yield made
    made.context.close()
    made.assert_quiet()


def enter(training: Training, server: tuple[Path, ServerAddress], visit: Visit, tab: str = "") -> Any:
    """Follow the link that `agenttune run` prints, to one of the run's pages."""
    assert visit.open(training.link(server[1].url, tab)) == 200
    assert "key=" not in visit.page.url
    return visit.page


def send(page: Any, reason: str = "") -> None:
    """In the dialog: the gate has said that it would let it pass, and it is sent."""
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("The gate lets it pass").wait_for()
    if reason:
        dialog.get_by_label("Why").fill(reason)
    dialog.get_by_role("button", name="Send", exact=True).click()
    dialog.get_by_text("Applied at step").wait_for()
    dialog.get_by_role("button", name="Done").click()


def test_a_layer_is_frozen_and_reset_with_the_gates_words_before(
    training: Training, server: tuple[Path, ServerAddress], desktop: Visit
) -> None:
    page = enter(training, server, desktop, "model")
    tree = page.get_by_role("tree", name="Layers")
    tree.focus()
    page.keyboard.press("End")
    assert "layer=second" in page.url
    page.get_by_role("button", name="Freeze…").click()
    send(page, "the head is good")
    tree.get_by_role("treeitem", name="second").get_by_text("frozen").wait_for()
    frozen = training.last("model_layer_operation")
    assert (frozen.state.value, frozen.proposal.rationale) == ("applied", "the head is good")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Reset parameters…").click()
    send(page)
    assert training.last("model_layer_operation").command.model_dump()["operation_name"] == "reset_parameters"


def test_norms_are_measured_when_asked_and_layers_are_found_by_name(
    training: Training, server: tuple[Path, ServerAddress], desktop: Visit
) -> None:
    page = enter(training, server, desktop, "model")
    page.get_by_role("button", name="Measure norms now").click()
    page.get_by_text("norms measured at step").wait_for()
    page.get_by_label("Search layers").fill("drop")
    assert page.get_by_role("treeitem").count() == 2  # the model, and its dropout
    page.get_by_role("treeitem", name="drop").click()
    page.get_by_label("New value of p").fill("1.25")
    page.get_by_role("button", name="Set… p").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("p is between 0 and 1, not 1.25").wait_for()
    assert dialog.get_by_role("button", name="Send", exact=True).is_disabled()
    page.keyboard.press("Escape")
    page.get_by_label("New value of p").fill("0.25")
    page.get_by_role("button", name="Set… p").click()
    dialog.get_by_text("The trainer checks it once more, and may still refuse it.").wait_for()
    send(page)
    page.get_by_role("cell", name="0.25", exact=True).wait_for()


def test_weights_of_a_mixture_keep_their_sum_and_reach_the_training(
    training: Training, server: tuple[Path, ServerAddress], desktop: Visit
) -> None:
    page = enter(training, server, desktop, "data")
    page.get_by_label("Percent of near").fill("80")
    page.get_by_label("Percent of near").blur()
    assert page.get_by_label("Percent of far").input_value() == "20"
    page.get_by_role("button", name="Send these weights…").click()
    send(page)
    page.get_by_role("row", name="near").get_by_text("80 %").wait_for()
    dataset = training.events("dataset_read")[-1].body.model_dump()
    assert dataset["runtime"]["weights"] == {"near": 0.8, "far": 0.2}
    assert page.get_by_role("img", name="Training loss of 2 sources").count() == 1


def test_a_checkpoint_is_saved_named_and_gone_back_to_as_a_branch(
    training: Training, server: tuple[Path, ServerAddress], desktop: Visit
) -> None:
    page = enter(training, server, desktop, "checkpoints")
    page.get_by_label("Tag of the checkpoint to save").fill("here")
    page.get_by_role("button", name="Save a checkpoint now…").click()
    send(page)
    page.get_by_role("button", name="Edit… here").click()
    page.get_by_label("Tag", exact=True).fill("back-to-this")
    page.get_by_role("switch", name="Pinned").check(force=True)
    page.get_by_role("button", name="Change…").click()
    send(page)
    row = page.get_by_role("row", name="back-to-this")
    row.get_by_text("pinned").wait_for()
    row.get_by_role("button", name="Load… back-to-this").click()
    page.get_by_label("Name of the new branch").fill("second-try")
    page.get_by_label("Base learning rate from there on").fill("0.0005")
    page.get_by_role("switch", name="Fresh optimizer").check(force=True)
    page.get_by_role("button", name="Go on…").click()
    send(page)
    page.locator(".react-flow__node").get_by_text("second-try").wait_for()
    until(lambda: training.info.branch == "second-try", "the branch")
    knob = next(knob for knob in training.info.knobs if knob.name == "lr")
    assert knob.effective == pytest.approx(0.0005)


def test_the_log_is_filtered_followed_and_linked_to(
    training: Training, server: tuple[Path, ServerAddress], desktop: Visit
) -> None:
    page = enter(training, server, desktop, "log")
    page.get_by_role("option").first.wait_for()
    seen = training.log.last_seq()
    until(
        lambda: page.locator(f"#entry-{training.log.last_seq()}").count() and training.log.last_seq() > seen, "the tail"
    )
    page.get_by_label("Text in the entries").fill("eval_loss")
    page.wait_for_url("**search=eval_loss**")
    page.get_by_role("option").filter(has_text="evaluated").first.click()
    page.wait_for_url("**at=**")
    moment = page.url
    words = page.get_by_role("heading", level=2).first.inner_text()
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save as JSONL").click()
    lines = Path(saving.value.path()).read_text("utf-8").splitlines()
    assert lines
    assert all("eval_loss" in line for line in lines)
    page.goto(moment)
    page.get_by_role("option", selected=True).wait_for()
    assert page.get_by_role("heading", level=2).first.inner_text() == words == "evaluated"


def test_a_viewer_sees_all_and_may_change_nothing(
    training: Training, server: tuple[Path, ServerAddress], desktop: Visit
) -> None:
    page = desktop.page
    desktop.open(training.link(server[1].url, "checkpoints", role="viewer"))
    button = page.get_by_role("button", name="Save a checkpoint now…")
    button.wait_for()
    assert button.get_attribute("aria-disabled") == "true"
    assert "operator" in str(button.get_attribute("aria-description"))
    before = len(training.log.commands())
    button.click(force=True)
    assert page.get_by_role("dialog").count() == 0
    assert len(training.log.commands()) == before
    page.goto(page.url.replace("/checkpoints", "/controls"))
    change = page.get_by_role("button", name="Change lr", exact=True)
    change.click(force=True)
    assert "operator" in str(change.get_attribute("aria-description"))
    assert page.get_by_role("dialog").count() == 0


def test_a_learning_rate_set_by_hand_is_the_effective_one(
    training: Training, server: tuple[Path, ServerAddress], desktop: Visit
) -> None:
    page = enter(training, server, desktop, "controls")
    page.get_by_label("Learning rate", exact=True).fill("0.0007")
    page.get_by_text("Would be let through").first.wait_for()
    page.get_by_role("button", name="Set learning rate").click()
    page.get_by_text("now 7e-4").wait_for()
    assert training.last("update_optimizer").state.value in ("applied", "kept")
    knob = next(knob for knob in training.info.knobs if knob.name == "lr")
    assert knob.effective == pytest.approx(0.0007)
    page.get_by_label("Learning rate", exact=True).fill("7")  # beyond the run's own bound; at once, as the answer comes
    page.get_by_text("Would be refused").first.wait_for()
    assert page.get_by_role("button", name="Set learning rate").is_disabled()
    page.get_by_label("Command", exact=True).select_option("model_layer_parameter_update")
    for name, value in {"layer_name": "drop", "param_name": "p", "value": "-1"}.items():
        page.locator(f"#model_layer_parameter_update_{name}").fill(value)
    page.get_by_text("p is between 0 and 1, not -1").wait_for()
    assert page.get_by_role("button", name="Send model layer parameter update").is_disabled()


def test_what_is_saved_of_a_chart_is_what_is_seen_of_it(
    training: Training, server: tuple[Path, ServerAddress], desktop: Visit
) -> None:
    page = enter(training, server, desktop, "metrics")
    page.goto(f"{page.url}?range=5-25&q=step_loss")
    page.locator("canvas").first.wait_for()
    saved = {}
    for kind in ("CSV", "PNG"):
        page.get_by_role("button", name="Save step_loss", exact=True).click()
        with page.expect_download() as saving:
            page.get_by_role("menuitem", name=kind).click()
        assert saving.value.suggested_filename == f"{training.run_id}-step_loss.{kind.lower()}"
        saved[kind] = Path(saving.value.path()).read_bytes()
    head, *rows = saved["CSV"].decode().split("\r\n")
    assert head.startswith("metric,branch,step,mean,")
    main = [row for row in rows if row.split(",")[1] == "main"]
    assert [int(row.split(",")[2]) for row in main] == list(range(5, 26))
    assert saved["PNG"].startswith(b"\x89PNG")


def test_one_parameter_group_has_a_rate_of_its_own_also_set_on_a_phone(
    training: Training, server: tuple[Path, ServerAddress], visit: Visit
) -> None:
    page = enter(training, server, visit, "controls")
    lr = page.get_by_role("row").filter(has=page.get_by_role("button", name="Change lr", exact=True))
    lr.scroll_into_view_if_needed()
    for cell in lr.get_by_role("cell").all():  # base, effective and the button, without a scroll aside
        box = cell.bounding_box()
        assert box["x"] + box["width"] <= page.viewport_size["width"]
    lr.get_by_role("button", name="2 groups").click()
    page.get_by_role("button", name="Change lr of group 1").click()
    dialog = page.get_by_role("dialog", name="Change lr of group 1")
    dialog.get_by_label("New value").fill("0.0003")
    dialog.get_by_text("Would be let through").wait_for()
    before = len(training.commands("update_optimizer"))
    dialog.get_by_role("button", name="Send").click()
    command = training.answered("update_optimizer", before)
    assert (command.state.value, command.command.model_dump()["param_group"]) == ("applied", 1)
    assert command.ack is not None
    assert [change.effective for change in command.ack.changes if change.name == "lr"] == [pytest.approx(3e-4)]
    page.get_by_role("row", name="group 1").get_by_text("3e-4").first.wait_for()


def test_two_tabs_stay_in_step_over_pause_evaluation_and_going_on(
    training: Training, server: tuple[Path, ServerAddress], desktop: Visit
) -> None:
    page = enter(training, server, desktop, "controls")
    other = desktop.context.new_page()
    other.goto(page.url)
    page.bring_to_front()  # a tab behind another one is not drawn on a busy machine, and then not to be clicked
    page.get_by_role("button", name="Pause", exact=True).click()
    other.bring_to_front()
    other.get_by_role("button", name="Resume", exact=True).wait_for()
    assert training.info.status == "paused"
    stands = training.info.step
    before = len(training.commands("do_evaluate"))
    other.get_by_role("button", name="Evaluate now").click()
    assert training.answered("do_evaluate", before).state.value == "applied"
    assert training.info.step == stands
    other.get_by_role("button", name="Resume", exact=True).click()
    page.bring_to_front()
    page.get_by_role("button", name="Pause", exact=True).wait_for()
    until(lambda: training.info.step > stands, "the next step")


def test_what_waits_is_approved_edited_and_rejected_and_two_tabs_agree(
    training: Training, server: tuple[Path, ServerAddress], desktop: Visit
) -> None:
    page = enter(training, server, desktop, "approvals")
    first = training.ask("the loss is flat", lr=2e-3)
    card = page.get_by_role("article")
    card.get_by_text("the loss is flat").wait_for()
    other = desktop.context.new_page()
    other.goto(page.url)
    other.get_by_role("article").wait_for()
    page.bring_to_front()
    card.get_by_role("button", name="Approve").click()
    until(lambda: training.command(first).state.value == "applied", "the approved rate")
    other.get_by_role("article").wait_for(state="detached")
    other.close()

    edited = training.ask("higher", lr=4e-3)
    card.get_by_text("higher").wait_for()
    card.get_by_role("button", name="Edit…").click()
    card.get_by_label("lr", exact=True).fill("0.003")
    card.get_by_role("button", name="Run with these values").click()
    until(lambda: training.command(edited).state.value == "applied", "the edited rate")
    changes = training.command(edited).ack
    assert changes is not None
    assert [change.effective for change in changes.changes if change.name == "lr"] == [pytest.approx(0.003)]

    refused = training.ask("much higher", lr=5e-2)
    card.get_by_text("much higher").wait_for()
    page.keyboard.press("r")
    page.keyboard.type("not now")
    card.get_by_role("button", name="Reject").click()
    until(lambda: training.command(refused).state.value == "rejected", "the refusal")
    verdict = training.command(refused).verdict
    assert verdict is not None
    assert "not now" in verdict.reason
