"""The dashboard in a real Chromium: `python -m benchmarks.dashboard [first zoom memory many weight pages]`.

- first: from the navigation to the first curve on the screen, of a run of a million points and thirty metrics, from
  loopback, by a browser with an empty cache. The page notes itself when a canvas first has a coloured pixel.
- zoom: times between frames while the same chart is zoomed and panned for some seconds, a step each frame.
- memory: JavaScript heap (after a collection) and DOM nodes while an hour of live events comes in within a minute or
  two; on the overview and on the metrics page.
- many: a folder of a thousand runs: the server's first list ever and of a second server, frames while it is scrolled,
  and a search.
- weight: bytes over the wire until the first curve is there, and of the whole page, compressed.
- pages: what ten open pages cost the training that they look at, once as clients without a browser and once in
  Chromium (`benchmarks.open_pages`); about eight minutes.

Wants the dashboard built (`make page`) and a Chromium (`make test-e2e` says how it is found). With `--write` the
figures go into RESULTS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agenttune.control.page_link import page_link
from agenttune.dashboard.build import is_current, weight_bytes
from agenttune.protocol.events import Decided, Evaluated, RunStarted, StatusChanged
from agenttune.protocol.metrics import Point
from agenttune.protocol.run_info import RunInfo
from agenttune.store.process_liveness import started_s
from agenttune.store.run_log import RunLog
from benchmarks.core.processes import Bench, MeasurementFailed, bench
from benchmarks.open_pages import measure_open_pages
from benchmarks.page import describe_machine, write_section

PARTS = ("first", "zoom", "memory", "many", "weight", "pages")
MANY = 1000
VIEWERS = ("clients", "browsers")
METRICS = 30
BATCH = 5000
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
RUN = "million"
CURVE_TIMEOUT_MS = 60_000
ZOOM_S = 5.0
HOUR_STEPS, HOUR_EVENTS = 72_000, 720
"""Of an hour at twenty steps a second, with a decision each five seconds."""
SAMPLES = 12
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
NOTE_FIRST_CURVE = """() => {
  const look = () => {
    for (const canvas of document.querySelectorAll('.uplot canvas')) {
      if (!canvas.width || !canvas.height) continue;
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      for (let i = 0; i < data.length; i += 4) {
        const [r, g, b] = [data[i], data[i + 1], data[i + 2]];
        if (data[i + 3] > 100 && Math.max(r, g, b) - Math.min(r, g, b) > 60) {
          window.firstCurveMs = performance.now();
          return;
        }
      }
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}"""
FIRST_CURVE = """limit => new Promise(done => {
  const look = () => {
    if (window.firstCurveMs || performance.now() > limit) done(window.firstCurveMs ?? null);
    else setTimeout(look, 10);
  };
  look();
})"""
ZOOM = """seconds => new Promise(done => {
  const over = document.querySelector('.uplot .u-over'), box = over.getBoundingClientRect();
  const times = [], began = performance.now();
  let last = began;
  const step = now => {
    times.push(now - last);
    last = now;
    if (now - began > seconds * 1000) return done(times.slice(2));
    const phase = (now - began) / 1000, deltaY = Math.sin(phase * 2) > 0 ? -40 : 40;
    const where = { clientX: box.left + box.width * (0.5 + 0.3 * Math.sin(phase)), clientY: box.top + box.height / 2 };
    over.dispatchEvent(new WheelEvent('wheel', { ...where, deltaY, ctrlKey: true, bubbles: true, cancelable: true }));
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        path = own if os.path.exists(own) else next(filter(None, map(shutil.which, BROWSERS)), None)
        if path is None:
            raise MeasurementFailed("no Chromium on this machine; playwright install chromium")
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


def make_million(server: Bench, points: int) -> None:
    """A finished run of so many rows, each with thirty metrics."""
    log = _live_run(server, RUN, points)
    noise = random.Random(0)
    for first in range(1, points + 1, BATCH):
        log.append_points(_row(step, points, noise) for step in range(first, min(first + BATCH, points + 1)))
    log.close()


def _row(step: int, points: int, noise: random.Random) -> Point:
    falling = 1.5 + 3 * math.exp(-step / points * 5)
    values = {f"group_{i % 5}/metric_{i}": falling * (1 + i / 10) + noise.gauss(0, 0.1) for i in range(METRICS - 3)}
    values |= {"loss": falling + noise.gauss(0, 0.1), "grad_norm": abs(noise.gauss(1, 0.3))}
    return Point(step=step, at_s=1.7e9 + step / 20, values={**values, "lr": 1e-3 * (1 - step / (points + 1))})


def _live_run(server: Bench, run_id: str, max_steps: int) -> RunLog:
    pid = os.getpid()
    info = RunInfo(
        run_id=run_id,
        name=run_id,
        status="running",
        created_at_s=time.time(),
        max_steps=max_steps,
        goal_metric="loss",
        pid=pid,
        pid_started_s=started_s(pid),
    )
    log = RunLog.create(server.runs_dir / run_id, info)
    log.append(RunStarted(framework="bench", pid=pid, max_steps=max_steps, capabilities=["update_optimizer"]), step=0)
    return log


class Window:
    """A signed-in page with an empty cache."""

    def __init__(self, browser: Any, server: Bench, run_id: str, tab: str = "") -> None:
        self.context = browser.new_context(**DESKTOP)
        self.page = self.context.new_page()
        # The first request only takes the cookie; what is measured begins with a page's address.
        self.context.request.get(page_link(server.url, server.runs_dir, run_id)[0])
        self.cdp = self.context.new_cdp_session(self.page)
        self.received_bytes = 0
        self.cdp.send("Network.enable")
        self.cdp.on("Network.loadingFinished", self._count)
        self.page.add_init_script(f"({NOTE_FIRST_CURVE})()")
        self.address = f"{server.url}/runs/{run_id}{tab and '/'}{tab}"

    def _count(self, event: dict[str, Any]) -> None:
        self.received_bytes += int(event["encodedDataLength"])

    def open(self) -> float:
        """Milliseconds from the navigation to the first curve."""
        self.page.goto(self.address)
        found = self.page.evaluate(FIRST_CURVE, CURVE_TIMEOUT_MS)
        if found is None:
            raise MeasurementFailed(f"no curve on {self.address} within {CURVE_TIMEOUT_MS / 1000:g} s")
        return float(found)

    def heap_mb(self) -> tuple[float, int]:
        """JavaScript heap in MB after a collection, and DOM nodes."""
        self.cdp.send("HeapProfiler.collectGarbage")
        self.cdp.send("Performance.enable")
        told = {metric["name"]: metric["value"] for metric in self.cdp.send("Performance.getMetrics")["metrics"]}
        return told["JSHeapUsedSize"] / 1e6, int(told["Nodes"])

    def close(self) -> None:
        self.context.close()


def measure_first(server: Bench, browser: Any, tab: str, repeats: int) -> str:
    times, weight = [], 0
    for _ in range(repeats):
        window = Window(browser, server, RUN, tab)
        times.append(window.open())
        weight = window.received_bytes
        window.close()
    return (
        f"first curve on the {tab or 'overview'} page: median {statistics.median(times):.0f} ms, worst "
        f"{max(times):.0f} ms of {repeats} (goal 1,000 ms); {weight / 1000:.0f} kB received by then"
    )


def measure_zoom(server: Bench, browser: Any, tab: str) -> str:
    window = Window(browser, server, RUN, tab)
    window.open()
    window.page.wait_for_timeout(1000)
    times = sorted(window.page.evaluate(ZOOM, ZOOM_S))
    window.close()
    p95, slow = times[int(len(times) * 0.95)], sum(1 for t in times if t > 20.0) / len(times)
    return (
        f"frames while zooming on the {tab or 'overview'} page: median {statistics.median(times):.1f} ms, p95 "
        f"{p95:.1f} ms, longest {times[-1]:.1f} ms, {slow:.1%} over 20 ms, of {len(times)} (goal 16.7 ms)"
    )


def measure_memory(server: Bench, browser: Any, tab: str, seconds: float) -> str:
    name = f"hour{tab}"
    log, noise = _live_run(server, name, HOUR_STEPS), random.Random(1)
    log.append_points([_row(1, HOUR_STEPS, noise)])
    window = Window(browser, server, name, tab)
    window.open()
    per_sample = HOUR_STEPS // SAMPLES
    samples = []
    for sample in range(SAMPLES):
        began = time.monotonic()
        for first in range(sample * per_sample + 2, (sample + 1) * per_sample + 2, 100):
            log.append_points(_row(step, HOUR_STEPS, noise) for step in range(first, first + 100))
            log.append(Decided(policy="bench", woken_by="schedule", reason="nothing to do"), step=first)
            # Playwright's events are read meanwhile; the page has its time.
            window.page.wait_for_timeout(max(1.0, seconds * 1000 / SAMPLES / (per_sample / 100)))
        window.page.wait_for_timeout(500)
        samples.append(window.heap_mb())
        sys.stderr.write(f"  {samples[-1][0]:.1f} MB, {samples[-1][1]} nodes, {time.monotonic() - began:.0f} s\n")
    log.close()
    window.close()
    early, late = samples[SAMPLES // 3], samples[-1]
    return (
        f"memory on the {tab or 'overview'} page over an hour of events ({HOUR_STEPS} rows, {HOUR_EVENTS} decisions, "
        f"hastened): heap {early[0]:.1f} MB "
        f"after a third, {late[0]:.1f} MB at the end ({late[0] / early[0]:.2f} times); DOM nodes {early[1]}, {late[1]}"
    )


SCROLL = """seconds => new Promise(done => {
  const box = document.querySelector('[role=region][aria-label=Runs]');
  const times = [], began = performance.now();
  let last = began;
  const step = now => {
    times.push(now - last);
    last = now;
    if (now - began > seconds * 1000) return done(times.slice(2));
    box.scrollTop = (now - began) / (seconds * 1000) * (box.scrollHeight - box.clientHeight);
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""


def make_many(runs_dir: Path, count: int) -> None:
    """So many finished runs, each with some hundred rows and a dozen evaluations."""
    now_s, noise = time.time(), random.Random(2)
    for number in range(count):
        name = f"run-{number:04d}"
        made_s = now_s - 60.0 * (number + 1)
        tags = ["sweep", f"seed-{number % 7}"]
        info = RunInfo(run_id=name, name=name, status="running", created_at_s=made_s, max_steps=600, tags=tags)
        with contextlib.closing(RunLog.create(runs_dir / name, info)) as log:
            rows = ({"loss": 3 - step / 300 + noise.random() / 10, "lr": 1e-3} for step in range(1, 601))
            log.append_points(
                Point(step=step, at_s=made_s + step / 10, values=values) for step, values in enumerate(rows, 1)
            )
            for step in range(50, 601, 50):
                log.append(Evaluated(metrics={"eval_loss": 3 - step / 300}), step=step)
            log.append(StatusChanged(status="finished", reason=""), step=600)
        os.utime(runs_dir / name / "log.db", (made_s + 60, made_s + 60))


def measure_many(folder: Path, count: int) -> Iterator[str]:
    (folder / "many" / "runs").mkdir(parents=True)
    make_many(folder / "many" / "runs", count)
    firsts = []
    for _ in range(2):  # the second server finds what the first has kept
        with bench(folder / "many") as server:
            began = time.perf_counter()
            with urllib.request.urlopen(f"{server.url}/api/v1/overview?limit=100", timeout=60) as answer:
                answer.read()
            firsts.append(time.perf_counter() - began)
            if len(firsts) == 2:
                with chromium() as browser:
                    yield _looked_through(server, browser, count)
    yield (
        f"the server's first list of {count} runs: {firsts[0]:.2f} s when none was ever read, {firsts[1]:.2f} s of the "
        "next server (goal 1 s)"
    )


def _looked_through(server: Bench, browser: Any, count: int) -> str:
    window = Window(browser, server, "run-0000")
    window.address = server.url
    page = window.page
    began = time.perf_counter()
    page.goto(window.address)
    page.get_by_role("link", name="run-0000", exact=True).wait_for()
    shown_s = time.perf_counter() - began
    times = sorted(page.evaluate(SCROLL, ZOOM_S))
    page.get_by_role("searchbox").fill("run-0777")
    began = time.perf_counter()
    page.get_by_role("link", name="run-0777", exact=True).wait_for()
    found_s = time.perf_counter() - began
    window.close()
    slow = sum(1 for t in times if t > 20.0) / len(times)
    return (
        f"{count} runs in the list: on screen after {shown_s:.2f} s; frames while scrolling through all of them median "
        f"{statistics.median(times):.1f} ms, p95 {times[int(len(times) * 0.95)]:.1f} ms, {slow:.1%} over 20 ms; one is "
        f"found {found_s:.2f} s after its name was typed"
    )


def measure_weight() -> str:
    gzip, brotli = (sum(weight_bytes(suffix=suffix).values()) / 1000 for suffix in (".gz", ".br"))
    return f"all scripts and styles together: {brotli:.0f} kB by brotli, {gzip:.0f} kB by gzip (goal 400 kB)"


def keep_open(pages: int, folder: Path, url: str, run_id: str, opened: Path) -> None:
    """Ten pages of a run until the process is ended; half of them look at all metrics."""
    server = Bench(folder, url, 0)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with chromium() as browser:
        windows = [Window(browser, server, run_id, "metrics" if i % 2 else "") for i in range(pages)]
        for window in windows:
            window.open()
        opened.touch()
        while not ended.is_set():
            windows[0].page.wait_for_timeout(200)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="*", default=PARTS, help=", ".join(PARTS))
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-s", type=float, default=90.0, help="seconds that the hour of events takes")
    parser.add_argument("--runs", type=int, default=MANY, help="of the folder that is looked through")
    parser.add_argument("--pages", type=int, default=10)
    parser.add_argument("--depth", type=int, default=2, help="layers of the model that trains beside the pages")
    parser.add_argument("--viewers", nargs="+", choices=VIEWERS, default=VIEWERS, help="who opens the pages")
    parser.add_argument("--rows-per-s", type=float, default=300.0, help="of the run that a script feeds")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tabs", nargs="+", default=["", "metrics"], help="pages of a run that are looked at")
    parser.add_argument("--write", action="store_true", help="put the figures into RESULTS.md")
    parser.add_argument(
        "--keep-open", nargs=5, metavar=("PAGES", "FOLDER", "URL", "RUN", "OPENED"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    if given.keep_open:
        pages, folder, url, run_id, opened = given.keep_open
        keep_open(int(pages), Path(folder), url, run_id, Path(opened))
        return 0
    if not is_current():
        sys.stderr.write("the dashboard is not built from these sources: make page\n")
        return 1
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as scratch:
        lines = list(_measured(given, Path(scratch)))
    text = "\n".join(f"- {line}" for line in lines)
    print(f"{text}\n{machine.line()}")
    if given.write:
        about = f"`python -m benchmarks.dashboard`, {given.points:,} rows of {METRICS} metrics. {machine.line()}"
        write_section("dashboard", f"## The dashboard\n\n{about}\n\n{text}\n")
    return 0


def _measured(given: argparse.Namespace, folder: Path) -> Iterator[str]:
    if {"first", "zoom", "memory"} & set(given.parts):
        with bench(folder) as server, chromium() as browser:
            if {"first", "zoom"} & set(given.parts):
                began = time.monotonic()
                make_million(server, given.points)
                sys.stderr.write(f"  made the run in {time.monotonic() - began:.0f} s\n")
            for tab in given.tabs:
                if "first" in given.parts:
                    yield measure_first(server, browser, tab, given.repeats)
                if "zoom" in given.parts:
                    yield measure_zoom(server, browser, tab)
                if "memory" in given.parts:
                    yield measure_memory(server, browser, tab, given.memory_s)
    if "many" in given.parts:
        yield from measure_many(folder, given.runs)
    if "weight" in given.parts:
        yield measure_weight()
    if "pages" in given.parts:
        for viewers in given.viewers:
            yield measure_open_pages(folder, viewers, given.pages, given.depth, given.rounds, given.rows_per_s)


if __name__ == "__main__":
    sys.exit(main())
