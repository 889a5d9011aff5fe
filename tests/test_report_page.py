"""The page: one file that needs nothing else, says in words what it shows in colour, and stays small for a year."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from conftest import Night
from ledger_story import NOON, Story, command, story
from pipelines.monitoring.alerts import sweep
from pipelines.monitoring.html_report import write
from sandbox_process import SandboxProcess
from sources.core.redaction import clear, register_secret
from test_ledger import few_tables

VOID = {"meta", "br", "link", "img", "input", "hr"}
GOOD = {"tune.clicks": {}, "tune.campaigns": {}}


class Page(HTMLParser):
    """What is in a page: its elements with their attributes, and its text by section. Refuses what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self.classes: Counter[str] = Counter()
        self._open: list[str] = []
        self._section = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.classes.update((dict(attrs).get("class") or "").split())
        if tag == "section":
            self._section = dict(attrs)["aria-labelledby"] or ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self._section = "" if tag == "section" else self._section

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self._open):
            self.sections[self._section] = self.sections.get(self._section, "") + data

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Story]:
    with story(tmp_path) as it:
        yield it


def page(told: Story) -> Page:
    return Page(write(told.place, told.place.report, now=NOON).read_text(encoding="utf-8"))


def test_the_page_needs_nothing_but_itself(told: Story) -> None:
    told.night(0, {"tune": GOOD, "dataworks": "no"})
    text = write(told.place, told.place.report, now=NOON).read_text(encoding="utf-8")
    found = Page(text)
    assert found.tags.isdisjoint({"script", "link", "img", "iframe", "object", "form", "base", "a"})
    loads = {"src", "href", "srcset", "action", "data", "style", "xlink:href", "poster", "background"}
    assert not [name for _, attributes in found.elements for name in attributes if name in loads or name[:2] == "on"]
    assert not re.search(r"https?:|url\(|@import|@font-face", text)
    policy = next(attributes for tag, attributes in found.elements if "http-equiv" in attributes)
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert "prefers-color-scheme:dark" in text
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in found.elements


def test_the_page_tells_the_night(told: Story) -> None:
    told.night(2, {"tune": GOOD, "dataworks": {"dataworks.files": {"rows": 4321}}})
    sweep(told.place, now=NOON - timedelta(days=2))
    change = {
        "vendor": "tune",
        "dataset": "tune",
        "table_name": "clicks",
        "column_name": "渠道",
        "change": "new column",
    }
    parted = {"dataworks.files": {"status": "mismatch", "error": "9 extracted, 8 are in the warehouse", "landed": 8}}
    run_id = told.night(0, {"tune": "the key is not accepted. Write a new one", "dataworks": parted}, changes=[change])
    sweep(told.place, now=NOON)
    found = page(told)
    assert "2 open incidents · stale: dataworks, tune" in found.sections[""]
    assert "2 vendors, 3 tables" in found.sections[""]
    assert "tune failed, and nothing of it was published" in found.sections["now"]
    assert "What to do: Fix the reported error" in found.sections["now"]
    assert "1 of 2 nights green; not green: 2026-05-20 failed" in found.sections["vendors"]
    assert "1 of 2 nights green; not green: 2026-05-20 counts part" in found.sections["vendors"]
    assert "tune failed stale" in " ".join(re.sub(r"[✗✓≠]|\(\w+\)", " ", found.sections["vendors"]).split())
    assert "duration, the last 2 nights: last 61 s, most 61 s" in found.sections["vendors"]
    assert "dataworks 0 of 1 tables proven, 1 stale" in found.sections["counts"]
    assert "9 extracted, 8 are in the warehouse" in found.sections["counts"]
    assert "tune changed its tables" in found.sections["noticed"]
    assert run_id in found.sections["runs"]
    assert "tune.clicks: new column 渠道" in found.sections["changes"]
    assert "the key is not accepted. Write a new one1 time" in found.sections["errors"]


def test_all_is_well_is_said_too(told: Story) -> None:
    told.night(0, {"tune": GOOD})
    found = page(told)
    assert "everything is fresh and nothing is wrong" in found.sections[""]
    assert "now" not in found.sections
    assert "nothing went wrong" in found.sections["errors"]


def test_no_colour_stands_alone(told: Story) -> None:
    """Each badge has a word, each drawing a label that a screen reader speaks, each column a head."""
    told.night(1, {"tune": "no", "dataworks": {"dataworks.files": {"status": "mismatch", "error": "8"}}})
    told.night(0, {"tune": GOOD, "dataworks": {"dataworks.files": {}}})
    text = write(told.place, told.place.report, now=NOON).read_text(encoding="utf-8")
    found = Page(text)
    words = re.findall(r'<span class="badge \w+"><span aria-hidden="true">.</span>(.*?)</span>', text)
    assert len(words) == found.classes["badge"] > 10
    assert all(re.search(r"\w", word) for word in words)
    for tag, attributes in found.elements:
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
        if attributes.get("role") in ("img", "region"):
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] == "col"
    drawn = re.findall(r'<path class="(?:warn|cross)"[^>]*>(.*?)</path>', text)
    assert drawn == ["<title>2026-05-19: counts part</title>", "<title>2026-05-19: failed</title>"]
    headings = [tag for tag, _ in found.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == "h1" and headings.count("h1") == 1
    assert ("html", {"lang": "en"}) in found.elements


WILD = "<script>alert(1)</script>\"'><b onclick=x>&amp;\x00\ud800城市"


def test_whatever_a_vendor_says_is_text(told: Story) -> None:
    change = {"vendor": WILD, "dataset": WILD, "table_name": WILD, "column_name": WILD, "change": "new column"}
    wild = WILD.replace("\ud800", "")
    told.night(1, {wild: {f"{wild}.{wild}": {"status": "failed", "error": wild}}}, error=wild)
    told.night(
        0,
        {wild: wild},
        error=wild,
        status="failed",
        changes=[{name: value.replace("\ud800", "") for name, value in change.items()}],
    )
    sweep(told.place, now=NOON)
    found = page(told)
    assert found.tags.isdisjoint({"script", "b onclick"})
    assert not [attributes for _, attributes in found.elements if "onclick" in attributes]
    for section in ("", "now", "vendors", "counts", "runs", "changes", "errors"):
        if section:
            assert "<script>alert(1)</script>" in found.sections[section], section


def test_a_secret_that_got_into_the_ledger_is_not_on_the_page(told: Story) -> None:
    try:
        register_secret("CANARYkey")
        told.night(0, {"tune": "it said CANARYkey and api_key=CANARYother to https://u:CANARYthird@host/"})
        sweep(told.place, now=NOON)
        text = write(told.place, told.place.report, now=NOON).read_text(encoding="utf-8")
    finally:
        clear()
    assert "it said ***" in text and "CANARY" not in text


def test_a_vendor_that_a_crashed_run_never_came_to_shows_the_crash(told: Story) -> None:
    told.night(1, {"tune": GOOD})
    run_id = told.night(0, {"tune": GOOD}, status="crashed", error="it ended without a word")
    told.ledger.forget_vendor(run_id, "tune")
    assert "1 of 2 nights green; not green: 2026-05-20 crashed" in page(told).sections["vendors"]


def test_the_last_run_of_a_day_is_what_counts(told: Story) -> None:
    told.night(0.05, {"tune": "no"})
    told.night(0, {"tune": GOOD})
    told.night(1.1, {"tune": "no"})
    assert "1 of 2 nights green; not green: 2026-05-18 failed" in page(told).sections["vendors"]


def test_a_year_of_nights_stays_small(told: Story) -> None:
    """A year, five vendors, eighty tables each, in the worst case: everything fails, with long words."""
    vendors = ("dataworks", "growingio", "thinkingengine", "tonalytica", "tune")
    error = "the vendor says something that takes a while to read and ends in the way out. " * 5
    with told.ledger.at_once():
        for ago in range(365):
            few = 80 if ago < 20 else 2  # counts are told of the last runs only, so older tables add nothing
            bad = {
                vendor: {
                    f"{vendor}.a_table_with_a_name_{n}": {"status": "failed", "error": f"{error}{n} {ago}"[:500]}
                    for n in range(few)
                }
                for vendor in vendors
            }
            told.night(ago, bad)
    sweep(told.place, now=NOON)
    began = time.process_time()
    path = write(told.place, told.place.report, now=NOON)
    assert path.stat().st_size < 1_000_000
    assert time.process_time() - began < 10
    found = Page(path.read_text(encoding="utf-8"))
    assert found.classes["vendor"] == 5 and found.classes["cross"] == 5 * 365


def test_the_page_can_be_put_elsewhere_and_says_when_it_cannot(tmp_path: Path) -> None:
    night = command(tmp_path)
    ran = night.main("report")
    assert (ran.code, "no run yet" in ran.err, ran.err.count("\n")) == (2, True, 1)
    with story(tmp_path) as told:
        told.night(0, {"tune": GOOD})
        mode = told.place.ledger.stat().st_mode & 0o777
    ran = night.main("report", "--out", str(tmp_path / "pages" / "index.html"))
    assert (ran.code, ran.out) == (0, f"{tmp_path / 'pages' / 'index.html'}\n")
    assert (tmp_path / "pages" / "index.html").stat().st_mode & 0o777 == mode
    (tmp_path / "file").write_text("")
    ran = night.main("report", "--out", str(tmp_path / "file" / "index.html"))
    assert (ran.code, "the report cannot be written" in ran.err, ran.err.count("\n")) == (2, True, 1), ran.err


def test_a_page_that_cannot_be_written_fails_no_run(file_night: Night, sandbox: SandboxProcess) -> None:
    small = few_tables(file_night)
    (small.state / "report.html").mkdir(parents=True)
    ran = small("run", "--json", "-v")
    assert (ran.code, ran.json["status"]) == (0, "ok")
    assert "post-run hook report failed: the report cannot be written" in ran.err
    assert [path.name for path in small.state.iterdir() if path.name.startswith(".")] == []


def test_the_page_is_as_new_as_the_night(night: Night, sandbox: SandboxProcess) -> None:
    small = few_tables(night)
    ran = small("run", "--json")
    found = Page((small.state / "report.html").read_text(encoding="utf-8"))
    assert ran.json["run_id"] in found.sections["runs"]
    assert "tonalytica.alerts" in found.sections["counts"]
    assert "1 of 1 nights green" in found.sections["vendors"]
    small.set(api_key="CANARYwrong")
    assert small("run").code == 1
    text = (small.state / "report.html").read_text(encoding="utf-8")
    assert "the key is not accepted" in Page(text).sections["now"] and "CANARY" not in text


def test_old_nights_leave_the_page(told: Story) -> None:
    told.night(400, {"tune": "long ago"})
    told.night(0, {"tune": GOOD})
    assert "1 of 1 nights green" in page(told).sections["vendors"]
    assert "long ago" not in page(told).sections["errors"]
    assert write(told.place, told.place.report, now=NOON + timedelta(days=3))
