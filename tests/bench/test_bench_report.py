"""The report of a benchmark: what stands in it, that hostile text is only read, and that it needs no network."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from agenttune.bench.cell import ORACLE, CellResult, Intervention
from agenttune.bench.metrics import cell_figures
from agenttune.bench.report import Page, benchmark_page, html, kept_run, markdown, write_report
from agenttune.bench.report.content import Table
from agenttune.bench.report.plots import LIGHT
from agenttune.bench.standings import standings
from agenttune.bench.store import Store
from agenttune.cli import app
from agenttune.errors import StoreFault, UserError
from agenttune.store.run_log import LOG_NAME
from tests.bench.made_results import KINDS, LEVELS, TASKS, result, suite

EVIL = "<script>alert(1)</script> $x_1$ | [a](http://evil) &amp; \x1b[31m"
FAULTS = ["healthy", "lr_x30", "one_layer", "label_noise"]


def spoil(made: CellResult) -> CellResult:
    """What happens in a benchmark: interventions, findings, a failure."""
    cell = made.cell
    trained = made.outcome.trained
    if cell.contender == "rules" and trained is not None:
        interventions = [
            Intervention(kind="update_optimizer", step=62, state="applied", words=f"lr 0.003: {EVIL}"),
            Intervention(kind="load_checkpoint", step=120, state="rejected", words="no"),
        ]
        findings = [("divergence", 60, "it grew"), ("layer_unstable", 70, "blocks.1")]
        found = result("rules", trained.final, cell.seed, cell.scenario.fault, cell.scenario.task, 40,
                       interventions=interventions, findings=findings, fault_layer="blocks.1")  # fmt: skip
    elif cell.contender == "bad" and cell.seed == 1:
        found = result("bad", seed=1, fault=cell.scenario.fault, task=cell.scenario.task,
                       failure=f"Traceback (most recent call last):\nValueError: {EVIL}")  # fmt: skip
    else:
        return made
    return found


@pytest.fixture(scope="module")
def results() -> list[CellResult]:
    made = suite(LEVELS | {EVIL: 0.6}, 5, FAULTS, ["digits", "valley"], change=spoil)
    facts = {"processor": "made up", "commit": "abc123", "python": "3.12"}
    return [r.model_copy(update={"machine": facts, "at_s": 1.7e9}) for r in made]


@pytest.fixture(scope="module")
def page(results: list[CellResult]) -> Page:
    return benchmark_page(results, "made up", "agenttune bench suites/made-up.yaml", TASKS, KINDS)


@pytest.fixture(scope="module")
def written(page: Page) -> tuple[str, str]:
    return markdown(page, "pictures"), html(page)


def test_everything_that_was_asked_for_is_there(page: Page) -> None:
    titles = [section.title for section in page.sections]
    for wanted in ("Leaderboard", "Regret by scenario", "Losing cases", "Failures", "Learning curves", "Costs"):
        assert wanted in titles
    assert {"Performance profiles", "Detection", "Raw values", "Simulators against real networks"} <= set(titles)
    assert {"regret", "regret-by-group", "profiles", "cost-time"} <= {figure.name for figure in page.figures}
    assert sum(figure.name.startswith("curve-") for figure in page.figures) == 8, "one a scenario"
    says = " ".join(page.says)
    assert re.search(r"rules: regret 0\.2\S* \[[^]]*\], harmed 0 of 10 healthy runs, better than", says)
    assert "harmed by: bad 10 of 10" in says
    assert "bad in digits/healthy, seed 1" in says, "losing cases are named in the text"
    assert not page.warnings


def test_of_too_few_seeds_nothing_is_claimed_and_names_are_code(results: list[CellResult]) -> None:
    """Seen before: "harmed 2 of 2, beyond chance" beside "too few seeds for a claim"; and `\\`oracle\\`` in the box."""
    few = [one for one in results if one.cell.seed < 2 and one.cell.contender != ORACLE]
    page = benchmark_page(few, "made up", "agenttune bench suites/made-up.yaml", TASKS, KINDS)
    text = markdown(page, "pictures")
    assert "Too few seeds for a claim" in text
    assert "harmed 4 of 4 healthy runs" in text
    assert "beyond chance" not in text.replace("no harm beyond chance", "")
    assert "Without `oracle` among the contenders" in text
    assert "\\`" not in text
    assert "Without <code>oracle</code> among" in html(page)


def test_under_every_table_stands_where_it_comes_from(page: Page, written: tuple[str, str]) -> None:
    tables = [block for section in page.sections for block in section.blocks if isinstance(block, Table)]
    for word in ("5 seeds (0 to 4)", "development range", "commit abc123", "python 3.12", "configuration ", "prompts "):
        assert word in page.origin
    assert written[1].count('class="origin"') == len(tables)
    assert written[0].count("<sub>") == len(tables)


def test_a_policy_that_failed_is_told_with_its_traceback(written: tuple[str, str]) -> None:
    for text in written:
        assert "ValueError" in text
        assert "8" in text[text.index("Failed cells") :][:400]


class Tags(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.links += [found[key] or "" for key in ("href", "xlink:href", "src") if key in found]
        self.ids += [found["id"] or ""] if "id" in found else []


def test_the_page_needs_nothing_and_runs_nothing(written: tuple[str, str]) -> None:
    read = Tags(written[1])
    assert "script" not in read.tags
    assert "img" not in read.tags
    assert read.links
    assert all(link.startswith("#") for link in read.links), "of this file alone"
    assert len(read.ids) == len(set(read.ids)), "each drawing's clips are its own"
    assert {link[1:] for link in read.links} <= set(read.ids)
    assert "default-src 'none'" in written[1]
    assert not re.search(r"url\((?!#)|@import", written[1])
    assert "\x1b" not in written[1]
    assert not any(colour in written[1] for colour in LIGHT), "by day and by night the page's own colours"


def test_hostile_text_is_only_read_in_markdown(written: tuple[str, str]) -> None:
    read = Tags(MarkdownIt("gfm-like", {"linkify": False}).render(written[0]))
    assert not {"script", "a", "iframe", "style"} & set(read.tags)
    assert all(link.startswith("pictures/") for link in read.links)
    assert "\x1b" not in written[0]
    row = next(line for line in written[0].splitlines() if line.startswith("| \\<script\\>"))
    head = written[0][written[0].index("| contender") :].splitlines()[0]
    assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"(?<!\\)\|", head)), "no bar of a name's own"


def test_a_report_repeats_to_the_letter(results: list[CellResult]) -> None:
    few = [r for r in results if r.cell.contender in ("none", "oracle", "rules") and r.cell.scenario.task == "digits"]
    first, second = (benchmark_page(few, "t", "", TASKS, KINDS) for _ in range(2))
    assert html(first) == html(second)
    assert markdown(first, "p") == markdown(second, "p")


def test_the_test_range_and_too_few_seeds_say_so_in_large_letters() -> None:
    made = [result(name, 0.5, seed, split="test") for name in ("none", "oracle", "rules") for seed in (10_000, 10_001)]
    page = benchmark_page(made, "t", "", TASKS, KINDS)
    assert page.warnings[0].startswith("TEST RANGE")
    assert "Too few seeds for a claim: 2" in page.warnings[1]
    assert '<p class="warning">TEST RANGE' in html(page)
    with pytest.raises(UserError, match="one of them at a time"):
        benchmark_page([*made, result("none", 0.5)], "t", "", TASKS, KINDS)
    other = made[0].model_copy(update={"cell": made[0].cell.model_copy(update={"version": "another"})})
    with pytest.raises(UserError, match="none in digits/lr_x30, seed 10000, is in these results twice"):
        benchmark_page([*made, other], "t", "", TASKS, KINDS)


def test_who_took_part_with_fewer_seeds_is_paired_in_these_and_told(results: list[CellResult], page: Page) -> None:
    fewer = [r for r in results if r.cell.contender != "rules" or r.cell.seed < 3]
    told = benchmark_page(fewer, "t", "", TASKS, KINDS)
    sentence = "With fewer seeds than the 5 of the others, and paired with them in these seeds alone: rules: 3."
    assert sentence in told.sections[0].blocks
    assert not any(isinstance(b, str) and b.startswith("With fewer seeds") for b in page.sections[0].blocks)
    board = told.sections[0].blocks[0]
    assert isinstance(board, Table)
    cells = {row[0]: row[-1] for row in board.rows}
    assert (cells["rules"], cells["idle"]) == ("24", "40")
    standing = next(s for s in standings(cell_figures(fewer, TASKS, KINDS)) if s.contender == "rules")
    assert standing.against_none is not None
    assert standing.against_none.pairs == 24
    assert standing.failed.of == 24


def test_a_report_of_whatever_there_is() -> None:
    """Nothing to measure by, one seed, everything failed: the page says what it can."""
    for made in (
        [result("rules", 0.5)],
        [result("none", float("nan")), result("rules", float("nan"))],
        [result(name, seed=seed, failure="it raised") for name in ("none", "rules") for seed in range(2)],
    ):
        page = benchmark_page(made, "t", "", TASKS, KINDS)
        assert "Leaderboard" in html(page)
        assert "Leaderboard" in markdown(page, "p")
    with pytest.raises(UserError, match="no results yet"):
        benchmark_page([], "t")


def test_files_lie_where_they_point(results: list[CellResult], tmp_path: Path) -> None:
    few = [r for r in results if r.cell.contender in ("none", "oracle", "rules") and r.cell.scenario.task == "digits"]
    text, page = write_report(few, tmp_path, "policies", "t", "", lambda r: None, TASKS, KINDS)
    assert page.is_file()
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text.read_text())
    assert len(pictures) >= 5
    for picture in pictures:
        drawn = (tmp_path / picture).read_text()
        assert drawn.startswith("<svg")
        assert 'fill="#ffffff"' in drawn
    assert kept_run(tmp_path, few[0]) is None


def test_the_run_that_is_shown_is_the_cells_own(tmp_path: Path) -> None:
    """Not that of the policy which it was made like."""
    made = result("matched_random")
    for place in ("like/run", "run"):
        folder = tmp_path / "runs" / made.cell.key / place
        folder.mkdir(parents=True)
        (folder / LOG_NAME).touch()
    assert kept_run(tmp_path, made) == tmp_path / "runs" / made.cell.key / "run"


def test_who_has_no_detectors_has_dashes(written: tuple[str, str]) -> None:
    text = written[0][written[0].index("## Detection") :].partition("</sub>")[0]
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert set(rows["bad"].replace(" ", "").strip("|").split("|")[1:]) == {"–"}
    assert "100 % of" in rows["rules"]


def test_the_commands_over_a_folder_of_results(tmp_path: Path) -> None:
    """As a user calls them: results that a runner kept, a picture of them, and errors that say the way out."""
    folder = tmp_path / "results"
    with Store(folder) as store:
        for name, final in (("none", 0.9), ("oracle", 0.3), ("restart", 0.4)):
            for seed in range(2):
                made = result(name, final, seed)
                scenario = made.cell.scenario.model_copy(update={"task": "sim_quadratic"})
                store.keep(made.model_copy(update={"cell": made.cell.model_copy(update={"scenario": scenario})}))
    call = CliRunner().invoke
    done = call(app, ["bench", "report", str(folder), "--out", str(tmp_path), "--name", "policies"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "policies.html").is_file()
    assert "Too few seeds" in (tmp_path / "policies.md").read_text()
    done = call(app, ["bench", "compare", "restart", "none", "--results", str(folder)])
    assert "restart against none: too few seeds for a claim." in done.output
    done = call(app, ["bench", "report", str(tmp_path / "nowhere")])
    assert isinstance(done.exception, StoreFault)
    assert "make some with: agenttune bench" in str(done.exception)
