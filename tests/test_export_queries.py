"""One file per query, in names that every file system takes; a second export changes nothing, and no file of others."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Night, one_database
from pipelines.operations.redash.export_queries import file_name, header
from pipelines.operations.redash.sql_tables import tables_of
from reference import truth
from sandbox_process import SandboxProcess

VENDOR = "tonalytica"
Row = dict[str, Any]


@pytest.fixture
def loaded(sandbox: SandboxProcess, night: Night) -> Night:
    night.set(exclude=["results"])
    load(night)
    return night


def load(night: Night) -> None:
    ran = night.run(VENDOR)
    assert ran.code == 0, ran.out


def edit(sandbox: SandboxProcess, key: int, op: str = "update", **row: Any) -> None:
    sandbox.control(VENDOR, "POST", "edit", {"table": "queries", "op": op, "key": key, "row": row})


def query_named(sandbox: SandboxProcess, name: str) -> Row:
    return next(row for row in truth(sandbox, "queries") if row["name"] == name)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino)
        for file in folder.rglob("*")
        if file.is_file()
    }


def export(night: Night, folder: Path) -> Row:
    ran = night.main("export-queries", str(folder), "--json")
    assert ran.code == 0, ran.err
    return ran.json


def test_each_query_is_one_file_with_its_text_and_what_it_is(
    sandbox: SandboxProcess, loaded: Night, tmp_path: Path
) -> None:
    folder = tmp_path / "repository" / "queries"
    told = export(loaded, folder)
    live = [row for row in truth(sandbox, "queries") if row["_where"] in ("list", "archive")]
    found = {path: content for path, (content, *_) in snapshot(folder).items()}
    assert len(found) == len(live) == len(told["written"]) and set(found) == set(told["written"])
    by_id = {int(re.match(r"(?:archived/)?(\d+)[-.]", path)[1]): path for path in found}  # type: ignore[index]
    sources = {row["id"]: row for row in truth(sandbox, "data_sources")}
    base = sandbox.tonalytica["base_url"]
    for row in live:
        path = by_id[row["id"]]
        assert path.startswith("archived/") is row["is_archived"]
        head, _, text = found[path].decode().partition("\n\n")
        assert text.removesuffix("\n") == row["query"].removesuffix("\n")
        lines = head.split("\n")
        source = sources[row["data_source_id"]]
        assert lines[0] == f"-- nightload: query {row['id']} of {base}"
        assert lines[2:5] == [
            f"-- data source: {source['name']} ({source['id']}, {source['type']})",
            f"-- owner: {row['user']['name']} ({row['user']['id']})",
            f"-- url: {base}/queries/{row['id']}",
        ]
        assert all(line.startswith("-- ") for line in lines) and len(lines) == 9
        assert [line.split(":")[0] for line in lines[5:]] == ["-- updated", "-- tags", "-- schedule", "-- state"]
        assert all(f'"{tag}"' in lines[6] for tag in row["tags"])
    assert "archived" in folder.joinpath(by_id[query_named(sandbox, "Archived 0")["id"]]).read_text()
    scheduled = next(row for row in live if row["schedule"] and row["schedule"]["day_of_week"])
    assert "time 03:15, day of week Monday, until 2027-01-01" in found[by_id[scheduled["id"]]].decode()


def test_a_second_export_changes_nothing(loaded: Night, tmp_path: Path) -> None:
    folder = tmp_path / "q"
    first = export(loaded, folder)
    before = snapshot(folder)
    load(loaded)
    second = export(loaded, folder)
    assert second == {
        "written": [], "moved": [], "removed": [], "unchanged": len(first["written"]), "in_the_way": []
    }  # fmt: skip
    assert snapshot(folder) == before


def test_files_follow_their_queries(sandbox: SandboxProcess, loaded: Night, tmp_path: Path) -> None:
    folder = tmp_path / "q"
    export(loaded, folder)
    before = snapshot(folder)
    names = ("Every type", "Deep JSON", "Leading zeros", "Archived 0", "Sales Report")
    ids = {row["name"]: row["id"] for row in truth(sandbox, "queries") if row["name"] in names}
    edit(sandbox, ids["Every type"], name="Всё / 全部")
    edit(sandbox, ids["Deep JSON"], op="delete")
    edit(sandbox, ids["Leading zeros"], is_archived=True)
    edit(sandbox, ids["Archived 0"], is_archived=False)
    edit(sandbox, ids["Sales Report"], query="select 2 as edited")
    load(loaded)
    told = export(loaded, folder)
    every, deep, zeros, archived, sales = (
        ids[name] for name in ("Every type", "Deep JSON", "Leading zeros", "Archived 0", "Sales Report")
    )
    assert sorted(told["moved"]) == sorted(
        [
            [f"{every}-every-type.sql", f"{every}-всё-全部.sql"],
            [f"{zeros}-leading-zeros.sql", f"archived/{zeros}-leading-zeros.sql"],
            [f"archived/{archived}-archived-0.sql", f"{archived}-archived-0.sql"],
        ]
    )
    assert told["removed"] == [f"{deep}-deep-json.sql"]
    assert told["written"] == [f"{sales}-sales-report.sql"]
    after = snapshot(folder)
    assert len(after) == len(before) - 1
    assert after[f"{sales}-sales-report.sql"][0].endswith(b"\n\nselect 2 as edited\n")
    # nothing else was so much as touched
    same = set(before) & set(after) - {f"{sales}-sales-report.sql"}
    assert len(same) == len(before) - 5 and all(after[path] == before[path] for path in same)
    assert not [path for path in after if "partial" in path]


def test_a_file_that_was_edited_or_lost_is_written_again(
    sandbox: SandboxProcess, loaded: Night, tmp_path: Path
) -> None:
    export(loaded, tmp_path / "q")
    before = {path: content for path, (content, *_) in snapshot(tmp_path / "q").items()}
    lost, edited = sorted(before)[:2]
    (tmp_path / "q" / lost).unlink()
    (tmp_path / "q" / edited).write_bytes(before[edited] + b"-- more")
    assert sorted(export(loaded, tmp_path / "q")["written"]) == [lost, edited]
    assert {path: content for path, (content, *_) in snapshot(tmp_path / "q").items()} == before


def test_files_of_others_stay(sandbox: SandboxProcess, loaded: Night, tmp_path: Path) -> None:
    folder = tmp_path / "q"
    export(loaded, folder)
    every, deep = query_named(sandbox, "Every type")["id"], query_named(sandbox, "Deep JSON")["id"]
    exported = (folder / f"{every}-every-type.sql").read_bytes()
    theirs = {
        "README.md": b"mine",
        "notes.sql": b"select 'mine'",
        f"{every}-mine.sql": b"-- mine\nselect 1",
        "my-copy.sql": exported,
        f"{deep}-copy-of-another.sql": exported,
        f"sub/{every}-every-type.sql": exported,
        "999999-gone.sql": b"-- nightload: queries I like\n",
        "archived/mine.sql": b"select 1",
    }
    for path, content in theirs.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    edit(sandbox, every, name="renamed")
    edit(sandbox, deep, op="delete")
    load(loaded)
    told = export(loaded, folder)
    assert told["moved"] == [[f"{every}-every-type.sql", f"{every}-renamed.sql"]]
    assert told["removed"] == [f"{deep}-deep-json.sql"]
    assert {path: (folder / path).read_bytes() for path in theirs} == theirs


@one_database
@pytest.mark.parametrize("kind", ["file", "link", "dangling", "folder"])
def test_what_stands_in_the_way_is_told_and_stays(
    sandbox: SandboxProcess, loaded: Night, tmp_path: Path, kind: str
) -> None:
    folder, elsewhere = tmp_path / "q", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.write_bytes(b"mine")
    way = folder / f"{query_named(sandbox, 'Every type')['id']}-every-type.sql"
    match kind:
        case "file":
            way.write_bytes(b"mine")
        case "folder":
            way.mkdir()
        case "link":
            way.symlink_to(elsewhere)
        case _:
            way.symlink_to(tmp_path / "nowhere")
    ran = loaded.main("export-queries", str(folder))
    assert ran.code == 1 and way.name in ran.err and len(ran.err.splitlines()) == 1
    assert elsewhere.read_bytes() == b"mine" and not (tmp_path / "nowhere").exists()
    assert way.is_symlink() is (kind in ("link", "dangling")) and way.is_dir() is (kind == "folder")
    others = [row for row in truth(sandbox, "queries") if row["_where"] in ("list", "archive")]
    assert ran.out.count("written  ") == len(others) - 1


@one_database
@pytest.mark.parametrize("kind", ["file", "archived file", "archived link"])
def test_what_is_no_folder_is_refused_before_anything_is_written(loaded: Night, tmp_path: Path, kind: str) -> None:
    folder, elsewhere = tmp_path / "q", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "file":
        folder.write_bytes(b"mine")
    else:
        folder.mkdir()
        if kind == "archived file":
            (folder / "archived").write_bytes(b"mine")
        else:
            (folder / "archived").symlink_to(elsewhere)
    before = snapshot(tmp_path)
    ran = loaded.main("export-queries", str(folder))
    assert ran.code == 2 and "is not a folder" in ran.err and len(ran.err.splitlines()) == 1
    assert {path: kept for path, kept in snapshot(tmp_path).items() if not path.startswith("data")} == {
        path: kept for path, kept in before.items() if not path.startswith("data")
    }
    assert list(elsewhere.iterdir()) == []


@one_database
def test_the_files_of_another_server_are_never_mixed_with_ours(loaded: Night, tmp_path: Path) -> None:
    folder = tmp_path / "q"
    export(loaded, folder)
    before = snapshot(folder)
    loaded.set(base_url="https://another.example")
    ran = loaded.main("export-queries", str(folder))
    assert ran.code == 2 and "of another server" in ran.err
    assert snapshot(folder) == before


def test_no_warehouse_and_no_queries_in_it_are_one_line_each(night: Night, tmp_path: Path) -> None:
    ran = night.main("export-queries", str(tmp_path / "q"))
    # an empty database is one that is there
    told = {"duckdb": "there is no warehouse", "postgres": "holds nothing of tonalytica"}[night.database.kind]
    assert ran.code == 2 and told in ran.err and "nightload run" in ran.err and len(ran.err.splitlines()) == 1
    night.set(exclude=["results", "queries"])
    load(night)
    ran = night.main("export-queries", str(tmp_path / "q"))
    assert ran.code == 2 and "nightload run tonalytica" in ran.err and len(ran.err.splitlines()) == 1
    assert not (tmp_path / "q").exists()


HOSTILE = [
    "a\nselect * from stolen; --",
    "*/ select * from stolen /*",
    "a\r\ndrop table stolen",
    "a\u2028drop table stolen",
    "a\x85drop table stolen\x0bx\x0cy",
    "\u202e\x1b[31mred",
    "\x00 nul",
    "; drop table stolen; --",
    "{{ stolen }} $$ stolen $$ ' \" `",
]


def row_of(name: str) -> Row:
    return {
        "id": 7, "name": name, "data_source_id": 1, "user_id": 2, "updated_at": "2026-01-01", "tags": [name],
        "schedule": None, "is_draft": False, "is_archived": False,
    }  # fmt: skip


@one_database
@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_gets_out_of_its_comment(sandbox: SandboxProcess, loaded: Night, tmp_path: Path, name: str) -> None:
    key = query_named(sandbox, "Every type")["id"]
    edit(sandbox, key, name=name, tags=[name], query="select * from harmless")
    load(loaded)
    export(loaded, tmp_path / "q")
    (file,) = (tmp_path / "q").glob(f"{key}[-.]*")
    content = file.read_bytes().decode()
    # as a whole, and inside of a block comment that somebody puts around the header
    assert tables_of(content.replace("{{", "").replace("}}", ""), ("postgres",)).tables == ("harmless",)
    head, _, text = content.partition("\n\n")
    assert "*/" not in head and "/*" not in head
    assert text == "select * from harmless\n"
    assert re.fullmatch(r"\d+[\w-]*\.sql", file.name)


@given(st.text(), st.text())
def test_a_header_is_as_many_comment_lines_as_it_has_fields(name: str, source: str) -> None:
    lines = list(header(row_of(name), base="https://x", source={"name": source, "type": name}, users={2: source}))
    assert len(lines) == 9
    for line in lines:
        assert line.startswith("-- ") and line.isprintable() and len(line.splitlines()) == 1


@given(st.text(max_size=300), st.integers(1, 2**63 - 1))
def test_a_file_name_is_safe_everywhere(name: str, query: int) -> None:
    found = file_name(query, name)
    assert re.fullmatch(rf"{query}(-[^\x00-,./:-@\[-`{{-\x7f]+)?\.sql", found)
    assert len(found.encode()) <= 140 and found == found.lower() == os.path.basename(found)
    assert not found.endswith("-.sql") and "--" not in found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("日活跃钱包数（去重）", "7-日活跃钱包数-去重.sql"),
        ("../../etc/passwd", "7-etc-passwd.sql"),
        ("CON", "7-con.sql"),
        ("a." * 3, "7-a-a-a.sql"),
        ("🚀", "7.sql"),
        ("", "7.sql"),
        ("cafe\u0301", "7-café.sql"),
        ("हिन्दी", "7-हिन्दी.sql"),
        ("甲" * 255, f"7-{'甲' * 44}.sql"),
        ("Sales Report", "7-sales-report.sql"),
    ],
)
def test_names_stay_readable(name: str, found: str) -> None:
    assert file_name(7, name) == found
