"""A browser's window that notes whatever a page does beyond showing itself, and measures how it looks."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import urlsplit

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESKTOP: dict[str, Any] = {"viewport": {"width": 1200, "height": 900}}
LEAST_CONTRAST = 4.5
"""For text, WCAG 2.2 AA, success criterion 1.4.3."""
THUMB_PX = 44
"""WCAG 2.2 AAA, success criterion 2.5.5, and what makers of phones advise."""
SMALLEST_PX = 12.5
"""Of text on a phone (a guess at what is read without effort)."""

_TEXTS = """() => {
  const parse = c => { const n = c.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat([1]);
  const light = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    const canvas = matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
    return layers.reverse().reduce((under, top) => over(top, under), canvas);
  };
  const faint = e => {
    let all = 1;
    for (let at = e; at; at = at.parentElement) all *= getComputedStyle(at).opacity;
    return all;
  };
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const note = (e, text) => {
    const style = getComputedStyle(e), under = ground(e);
    const ink = parse(e instanceof SVGElement ? style.fill : style.color);
    const seen = over([...ink.slice(0, 3), ink[3] * faint(e)], under);
    const [a, b] = [light(seen), light(under)].sort((x, y) => y - x);
    found.push([text.trim().slice(0, 60), (a + 0.05) / (b + 0.05), parseFloat(style.fontSize)]);
  };
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (walk.currentNode.data.trim() && e.checkVisibility() && e.tagName !== 'title') note(e, walk.currentNode.data);
  }
  for (const e of document.querySelectorAll('input:not([type=hidden]), textarea'))
    if (e.checkVisibility()) note(e, 'in the field ' + e.name);
  return found;
}"""
_TOO_SMALL = """px => [...document.querySelectorAll('button, summary, textarea, input:not([type=hidden]), main a')]
  .filter(e => e.checkVisibility())
  .map(e => [e.textContent.trim().slice(0, 40) || e.name, e.getBoundingClientRect().height])
  .filter(([, height]) => height < px)"""
_SPILL = "() => document.scrollingElement.scrollWidth - document.documentElement.clientWidth"
_TAGS = "() => [...document.querySelectorAll('*')].map(e => e.tagName.toLowerCase())"


class Text(NamedTuple):
    """Some text as it is drawn: its contrast with what is behind it, and its size."""

    words: str
    contrast: float
    size_px: float


class Visit:
    """A window, and what happened in it.

    Attributes:
        page: Playwright's page.
        asked: Addresses that it asked for.
        complaints: What a quiet page never causes: dialogs, errors, words in the console, new windows.
    """

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", self._dismiss)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("console", self._hear)
        self.page.on("popup", lambda page: self.complaints.append(f"a new window: {page.url}"))

    def _dismiss(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _hear(self, message: Any) -> None:
        # The browser itself says so of an answer of 400 and more; that the page has it is what tests look at.
        if not message.text.startswith("Failed to load resource: the server responded with a status of"):
            self.complaints.append(f"console: {message.text}")

    def open(self, address: str) -> int:
        """Go there; returns the status of the answer, 0 for a file."""
        answer = self.page.goto(address)
        return int(answer.status) if answer is not None and address.startswith("http") else 0

    def press(self, name: str) -> None:
        """Touch a button, and wait for the page that answers."""
        with self.page.expect_navigation():
            self.page.get_by_role("button", name=name, exact=True).click()

    @property
    def title(self) -> str:
        return str(self.page.get_by_role("heading", level=1).first.inner_text())

    @property
    def words(self) -> str:
        """All that can be read on the page."""
        return " ".join(str(self.page.locator("body").inner_text()).split())

    @property
    def tags(self) -> list[str]:
        """Every element, in order."""
        return list(self.page.evaluate(_TAGS))

    @property
    def hosts(self) -> set[str]:
        """Whom the pages asked for anything."""
        return {urlsplit(address).hostname or urlsplit(address).scheme for address in self.asked}

    def spill_px(self) -> int:
        """How far the page can be scrolled sideways."""
        return int(self.page.evaluate(_SPILL))

    def texts(self) -> list[Text]:
        return [Text(*found) for found in self.page.evaluate(_TEXTS)]

    def hard_to_read(self) -> list[Text]:
        """Texts of too little contrast, or too small."""
        return [text for text in self.texts() if text.contrast < LEAST_CONTRAST or text.size_px < SMALLEST_PX]

    def hard_to_hit(self) -> list[object]:
        """What is to be touched and is lower than a thumb needs."""
        return list(self.page.evaluate(_TOO_SMALL, THUMB_PX))

    def assert_quiet(self) -> None:
        """The pages did nothing but show themselves; a violation of their content security policy is in the console."""
        assert not self.complaints, self.complaints
