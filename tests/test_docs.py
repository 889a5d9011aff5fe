"""`nightload docs`: all that there is on one page, the same bytes for the same warehouse, no person on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from conftest import Night, settle
from databases import DATABASES, databases, point
from pipelines.catalog.docs.samples import NAMES, PEOPLE, VALUES
from pipelines.catalog.introspect import ColumnThere
from pipelines.config.project import find
from pipelines.warehouse.open import open_reader
from sandbox_process import SandboxProcess, start_sandbox


@pytest.fixture(scope="module")
def vendors() -> Iterator[SandboxProcess]:
    with start_sandbox("--scale", "0.05") as running:
        yield running


@pytest.fixture(scope="module")
def nights(vendors: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Night]]:
    with databases(*DATABASES) as urls:
        found = {}
        for name, url in urls.items():
            found[name] = point(settle(Night(home=tmp_path_factory.mktemp(name)), vendors), url)
            assert found[name].run().code == 0
        yield found


@pytest.fixture(params=DATABASES)
def loaded(request: pytest.FixtureRequest, nights: dict[str, Night]) -> Night:
    return nights[request.param]


def files(night: Night, folder: Path, *options: str) -> dict[str, str]:
    ran = night.main("docs", "--dir", str(folder), *options)
    assert ran.code == 0, ran.err
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


class _Page(HTMLParser):
    """The page's tables by id, and every address that it would ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if tag == "details":
            self.ids.add(str(told["id"]))
        self.links += [str(told[name]) for name in ("src", "href", "srcset", "action") if name in told]


def test_every_table_and_column_is_there_and_nothing_is_asked_of_the_network(loaded: Night, tmp_path: Path) -> None:
    html = files(loaded, tmp_path)["warehouse.html"]
    page = _Page(html)
    tables = {row["table"] for row in loaded.main("tables", "--json").json["tables"] if row["live"]}
    assert tables
    assert tables <= page.ids
    assert "nightload.run_tables" in page.ids
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert "://" not in re.sub(r"<code>.*?</code>", "", html)
    for told in ("eventName", "last good load 20", "(key)", "城市", "the rows found again in the warehouse"):
        assert told in html


def test_the_same_warehouse_gives_the_same_bytes(loaded: Night, tmp_path: Path) -> None:
    first = files(loaded, tmp_path / "a", "--no-freshness")
    assert loaded.run().code == 0
    assert files(loaded, tmp_path / "b", "--no-freshness") == first
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    ran = loaded.main("docs", "--dir", str(tmp_path / "a"), "--no-freshness")
    assert ran.out.count("(unchanged)") == 3
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()} == before


def test_no_person_is_on_the_page(loaded: Night, tmp_path: Path) -> None:
    html = files(loaded, tmp_path)["warehouse.html"]
    with open_reader(find(str(loaded.home), loaded.settings.get("NIGHTLOAD_WAREHOUSE"))) as reader:
        people = {
            text
            for sql in (
                "SELECT name FROM tonalytica.users UNION SELECT email FROM tonalytica.users",
                "SELECT email FROM tune.account_users UNION SELECT last_name FROM tune.account_users",
                "SELECT 手机号 FROM growingio.segmentation_users",
            )
            for (text,) in reader.query(sql)
            if text and len(text) > 3
        }
    shown = set(re.findall(r"<code>(.*?)</code>", html))
    names = {text for text in people if "@" in text}
    assert names
    assert not names & shown
    assert not [text for text in shown if "@" in text and "." in text]
    for table in ("tonalytica.users", "tune.account_users", "growingio.segmentation_users"):
        (section,) = re.findall(rf'<details id="{table}">(.*?)</details>', html, re.S)
        assert not re.findall(r"<td><code>", section.replace("<td class=key><code>", "").split("<th>examples", 1)[1]
                              .replace("<tr><td><code>", ""))  # fmt: skip
    results = re.findall(r'<details id="tonalytica_results\.\w+">(.*?)</details>', html, re.S)
    assert len(results) > 50
    assert not [1 for section in results if re.search(r"<td><code>", section.replace("<tr><td><code>", ""))]


@pytest.mark.parametrize(
    "name",
    ["email", "E-Mail", "手机号", "邮箱", "ip", "client_ip", "device_id", "city", "用户名", "user_id", "creatorId"],
)
def test_a_column_that_sounds_personal_is_one(name: str) -> None:
    assert NAMES.search(name)


@pytest.mark.parametrize("value", ["a@b.cn", "13800138000", "+86 138-0013-8000", "10.0.0.1",
                                   "6d92078a-8246-4ba4-ae5b-76104861e7dc"])  # fmt: skip
def test_a_value_that_looks_personal_hides_its_column(value: str) -> None:
    assert VALUES.search(value)


def test_ordinary_names_are_no_persons() -> None:
    for name in ("metric_name", "status", "description", "visible_range", "tips", "shipped"):
        assert not NAMES.search(name)
    for table in ("queries", "published_apis", "campaigns"):
        assert not PEOPLE.search(table)


def test_relations_are_those_that_hold(loaded: Night, tmp_path: Path) -> None:
    written = files(loaded, tmp_path)
    for line in (
        'Ref: "tonalytica"."widgets"."dashboard_id" > "tonalytica"."dashboards"."id"',
        'Ref: "tonalytica"."visualizations"."query_id" > "tonalytica"."queries"."id"',
        'Ref: "tune"."advertiser_campaigns"."site_id" > "tune"."advertiser_sites"."id"',
        'Ref: "dataworks"."published_api_error_codes".("project_id", "api_id") > '
        '"dataworks"."published_apis".("project_id", "api_id")',
        'Ref: "growingio"."chart_points".("project_uid", "chart_id") > '
        '"growingio"."charts".("project_uid", "chart_id")',
    ):
        assert line in written["warehouse.dbml"].splitlines()
    assert '    "tonalytica.dashboards" |o--o{ "tonalytica.widgets" : "dashboard_id"' in written["warehouse.mmd"]
    entities = set(re.findall(r'^    "([^"]+)" \{$', written["warehouse.mmd"], re.M))
    drawn = re.findall(r'^    "([^"]+)" \|o--o\{ "([^"]+)" : "[^"]+"$', written["warehouse.mmd"], re.M)
    assert drawn and {name for pair in drawn for name in pair} == entities
    assert written["warehouse.dbml"].count("{") == written["warehouse.dbml"].count("}")


def test_both_databases_have_the_same_relations(nights: dict[str, Night], tmp_path: Path) -> None:
    drawn = [files(nights[name], tmp_path / name)["warehouse.dbml"].split("Ref: ")[1:] for name in DATABASES]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) > 50


def test_a_name_cannot_break_the_page(tmp_path: Path) -> None:
    from pipelines.catalog.docs.page import Described, page

    name = '<script>alert(1)</script>"&\n'
    column = ColumnThere(dataset="d", table=name, name=name, type="text", about=None, label=f"{name}2", key=True)
    table = Described(dataset="d", name=name, about=name, columns=[column], rows=1, live=None, fresh=None,
                      examples={name: [name]})  # fmt: skip
    text = page([table], [])
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&amp;" in text


def test_a_folder_that_cannot_be_written_is_told(loaded: Night, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = loaded.main("docs", "--dir", str(tmp_path / "file" / "docs"))
    assert (ran.code, ran.err.count("\n")) == (2, 1)
