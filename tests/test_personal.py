"""Personal columns: one table of them; kept, hashed or dropped as the configuration says, for every vendor."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from people import EMAIL, VENDORS, Home, fresh, home_of
from postgres_server import fresh_database, postgres_server
from sandbox_process import SandboxProcess, start_sandbox
from sources import VENDORS as PACKAGES
from sources.extract.connector import package
from sources.privacy.pii_columns import DECLARED, is_about_whom_it_names, is_personal

SALT = "CANARY-salt-of-thirty-two-signs"


@pytest.fixture(scope="module")
def process() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", VENDORS, "--scale", "0.01") as process:
        yield process


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["duckdb", "postgres"])
def home(request: pytest.FixtureRequest, process: SandboxProcess, tmp_path: Path) -> Iterator[Home]:
    with fresh(process):
        if request.param == "duckdb":
            yield home_of(process, tmp_path)
        else:
            with fresh_database(request.getfixturevalue("server"), "personal") as url:
                yield home_of(process, tmp_path, url)


def configure(home: Home, **settings: Any) -> None:
    for name, value in settings.items():
        home.settings[f"PERSONAL__{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)


def rows(home: Home, table: str) -> list[dict[str, str | None]]:
    names, found = home.all_rows()[table]
    return [dict(zip(names, row, strict=True)) for row in found]


def hashed(value: str) -> str:
    prefix = hashlib.sha256(f"nightload personal {SALT}".encode()).hexdigest()
    return hashlib.sha256((prefix + value).encode()).hexdigest()


def test_what_is_declared_is_what_the_vendors_have() -> None:
    known: dict[str, set[str]] = {}
    for vendor in PACKAGES:
        for dataset, tables in package(vendor).tables().items():
            for table in tables:
                known[f"{dataset}.{table.name}"] = {column.label for column in table.columns}
    for name, labels in DECLARED.items():
        if columns := known.get(name):  # the others' columns are the vendor's to say
            assert set(labels) <= columns, name


@pytest.mark.parametrize(
    "column",
    [
        ("tonalytica_results", "query_1", "Customer E-Mail"),
        ("tonalytica_results", "query_1", "客户手机"),
        ("thinkingengine", "events", "#distinct_id"),
        ("thinkingengine", "users", "#account_id"),
        ("thinkingengine", "users", "deviceId"),
        ("growingio", "segmentation_users", "邮箱"),
        ("tune", "account_users", "first_name"),
        ("tune", "installs", "device_ip"),
    ],
)
def test_a_column_of_the_users_own_is_judged_by_its_label(column: tuple[str, str, str]) -> None:
    assert is_personal(*column)
    assert is_about_whom_it_names(*column)


@pytest.mark.parametrize(
    "column",
    [
        ("tonalytica_results", "query_1", "city"),
        ("tonalytica_results", "query_1", "description"),
        ("tonalytica_results", "query_1", "hotel"),
        ("thinkingengine", "events", "amount"),
        ("thinkingengine", "event_meta", "eventName"),
        ("tonalytica", "queries", "name"),
    ],
)
def test_what_is_nobodys_is_not_called_personal(column: tuple[str, str, str]) -> None:
    assert not is_personal(*column)


def test_every_label_word_that_the_docs_list_names_a_person() -> None:
    text = (Path(__file__).parent.parent / "docs" / "personal-data.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"Labels name a person if(.*?)\nThe README", text, re.DOTALL)
    words = [*re.findall(r"`(\w+)`", told), *re.findall(r"[\u4e00-\u9fff]+", told)]
    assert len(words) > 50
    place = ("tonalytica_results", "query_1")
    assert [word for word in words if not is_about_whom_it_names(*place, word, nested=True)] == []


def test_asking_loads_neither_dlt_nor_duckdb() -> None:
    code = (
        "import sys, sources.privacy.pii_columns; "
        "sys.exit(any(name in sys.modules for name in ('dlt', 'duckdb', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_value_has_one_hash_in_all_tables_and_joins_still_work(home: Home) -> None:
    columns = {"tonalytica.users.name": "drop", "tonalytica.users.id": "hash", "tonalytica.queries.user_id": "hash"}
    configure(home, default="hash", salt=SALT, columns=columns)
    night = home.run("tonalytica", "growingio", "tune")
    assert night.code == 0, night.out
    for name, table in night.tables.items():
        assert table["status"] in ("ok", "warning", "unchanged"), (name, table)
    assert home.traces(EMAIL.encode()) == []
    users = rows(home, "tonalytica.users")
    assert hashed(EMAIL) in {user["email"] for user in users}
    assert "name" not in users[0]
    assert {query["user_id"] for query in rows(home, "tonalytica.queries")} - {None} <= {user["id"] for user in users}
    assert hashed(EMAIL) in {user["邮箱"] for user in rows(home, "growingio.segmentation_users")}
    assert hashed(EMAIL) in {row["mail"] for row in rows(home, "tonalytica_results.query_91")} | {
        user["email"] for user in rows(home, "tune.account_users")
    }
    again = home.run("tonalytica", "growingio", "tune")
    assert again.code == 0
    assert not [name for name, table in again.tables.items() if table["status"] == "mismatch"]


def test_what_was_loaded_before_is_told_and_built_anew_without_it(home: Home) -> None:
    home.run("tonalytica")
    configure(home, salt=SALT, columns={"tonalytica.users.email": "hash", "tonalytica.alerts.user_id": "hash"})
    night = home.run("tonalytica", tables=["tonalytica.users", "tonalytica.alerts"])
    users, alerts = night.tables["tonalytica.users"], night.tables["tonalytica.alerts"]
    assert "nightload run --full --table tonalytica.users" in users["notes"][0]
    assert "is to be hashed and is bigint" in alerts["error"]  # a number cannot become a hash where it stands
    built = home.run("tonalytica", full=True, tables=["tonalytica.users", "tonalytica.alerts"])
    assert built.code == 0, built.out
    assert {user["email"] for user in rows(home, "tonalytica.users")} >= {hashed(EMAIL)}
    assert all(len(alert["user_id"] or "") == 64 for alert in rows(home, "tonalytica.alerts"))
    assert not [table for table in home.all_rows() if "_before_" in table]
    assert home.traces(b"zoe.canary@person.example") == [
        trace for trace in home.traces() if trace not in ("tonalytica.users",)
    ]
    assert home.run("tonalytica", tables=["tonalytica.users"]).tables["tonalytica.users"]["notes"] == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"default": "hash"}, "salt"),
        ({"default": "hash", "salt": "short"}, "salt"),
        ({"default": "scramble"}, "keep, hash, drop"),
        ({"columns": {"users.email": "drop"}}, "DATASET.TABLE.COLUMN"),
        ({"columns": {"tonalytica.user.email": "drop"}}, "Did you mean tonalytica.users"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_asked(
    process: SandboxProcess, tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    home = home_of(process, tmp_path)
    configure(home, **settings)
    ran = home.main("run", "tonalytica")
    assert (ran.code, told in ran.err) == (2, True), ran.err


def test_a_column_that_is_not_there_or_that_steers_fails_its_table(process: SandboxProcess, tmp_path: Path) -> None:
    home = home_of(process, tmp_path)
    columns = {"tonalytica.users.emial": "drop", "tonalytica.alerts.id": "drop"}
    configure(home, columns=columns)
    tables = home.run("tonalytica").tables
    assert "Did you mean email?" in tables["tonalytica.users"]["error"]
    assert "it can be hashed" in tables["tonalytica.alerts"]["error"]
    assert tables["tonalytica.queries"]["status"] == "ok"


def test_the_configuration_file_says_it_by_name(process: SandboxProcess, tmp_path: Path) -> None:
    home = home_of(process, tmp_path)
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "config.toml").write_text('[personal]\ndefault = "hash"\n"tonalytica.users.name" = "drop"\n')
    (tmp_path / ".dlt" / "secrets.toml").write_text(f'[personal]\nsalt = "{SALT}"\n')
    with fresh(process):
        ran = home("run", "tonalytica", "--table", "tonalytica.users", "--json")
    assert ran.code == 0, ran.out + ran.err
    users = rows(home, "tonalytica.users")
    assert "name" not in users[0]
    assert hashed(EMAIL) in {user["email"] for user in users}, users[:2]
    assert not [user for user in users if "@" in (user["email"] or "")]
    assert SALT not in ran.out + ran.err
