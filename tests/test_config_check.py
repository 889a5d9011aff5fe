"""The configuration as a whole: each name that nothing reads is an error, and what others own passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import Night, one_database
from pipelines.config import project as places
from pipelines.operations import config_check
from sources.core import config as configuration
from sources.core.config import DLT_SECTIONS

CONFIG = """
[sources.tonalytica]
requests_per_secnd = 3
[sources.tuen]
api_key = "CANARYkey"
[nightlaod]
side_by_side = 1
[schedule.nightly]
cron = "0 1 * * *"
[schedules.nightly]
cron = "0 1 * *"
zoen = "UTC"
[alerts]
webhok = "https://hooks.example/CANARYhook"
remind_after = "sometimes"
[alerts.email]
host = "mail.example"
to = "a@example"
passwrd = "CANARYpassword"
security = "none of them"
[status]
stale_after = { "growingio.chartz" = "8d" }
[drift]
fewer_than = 7
min_rows = "many"
[keep]
tables = ["tonalitica.*"]
[personal]
"tonalytica.usres.name" = "drop"
defualt = "hash"
[lineage]
file = 7
"""
SECRETS = """
warehouse = "postgresql://u:CANARYpw@h/db"
[schedules.weekly]
cron = "0 1 * * 0"
[sources.tonalytica]
api_kye = "CANARYkey"
"""
UNKNOWN = {
    "sources.tonalytica.requests_per_secnd": "config.toml Did you mean requests_per_second?",
    "there is no vendor tuen": "config.toml Did you mean [sources.tune]?",
    "[nightlaod]": "config.toml Did you mean nightload?",
    "[schedule]": "config.toml Did you mean schedules?",
    "alerts.webhok": "config.toml Did you mean webhook?",
    "alerts.email.passwrd": "config.toml Did you mean password?",
    "there is no table growingio.chartz": "config.toml Did you mean growingio.charts?",
    "there is no table tonalitica.*": "config.toml Did you mean tonalytica?",
    "warehouse is in no section": "secrets.toml Write warehouse under [nightload]",
    "[schedules] is not read from this file": "secrets.toml Move it to config.toml",
    "sources.tonalytica.api_kye": "secrets.toml Did you mean api_key?",
    "sources.tune.zoen": "SOURCES__TUNE__ZOEN Did you mean zone?",
    "there is no vendor tonalitica": "SOURCES__TONALITICA__API_KEY Did you mean TONALYTICA?",
    "no variable NIGHTLOAD_WAREHUOSE": "Did you mean NIGHTLOAD_WAREHOUSE?",
    "no variable NIGHTLAOD__PUBLISH": "Did you mean NIGHTLOAD__",
    "there is no setting personal.defalt": "PERSONAL__DEFALT Did you mean default?",
    "there is no setting keep.dayz": "KEEP__DAYZ Did you mean days?",
}
"""What is said of each name, and in the same line."""
INVALID = (
    "schedules.nightly.zoen: no such setting; did you mean zone?",
    "schedules.nightly.cron",
    "alerts.remind_after is no duration",
    "drift.fewer_than is no share",
    "[personal] in .dlt",
    "lineage.file is no text",
)
ENVIRONMENT = {
    "SOURCES__TUNE__ZOEN": "UTC",
    "SOURCES__TONALITICA__API_KEY": "CANARYkey",
    "NIGHTLOAD_WAREHUOSE": "duckdb:///x.duckdb",
    "NIGHTLAOD__PUBLISH": "night",
    "KEEP__DAYZ": "3",
    "PERSONAL__DEFALT": "hash",
}


def settings(night: Night, *, config: str = "", secrets: str = "") -> Night:
    folder = night.home / ".dlt"
    folder.mkdir()
    (folder / "config.toml").write_text(config, encoding="utf-8")
    (folder / "secrets.toml").write_text(secrets, encoding="utf-8")
    return night


@one_database
def test_check_with_unknown_names_lists_each_with_its_file_and_the_nearest_name(night: Night) -> None:
    ran = settings(night, config=CONFIG, secrets=SECRETS)("check", "tonalytica", env=ENVIRONMENT)
    assert ran.code == 2, ran.out + ran.err
    lines = ran.out.splitlines()
    for name, words in UNKNOWN.items():
        (line,) = [line for line in lines if name in line]
        assert all(word in line for word in words.split()), (name, line)
    for words in INVALID:
        assert sum(words in line for line in lines) == 1, (words, ran.out)
    assert "CANARY" not in ran.out + ran.err
    assert "Traceback" not in ran.err


@one_database
def test_run_with_a_misspelt_setting_beside_a_key_in_another_file_loads_nothing(night: Night) -> None:
    key, url = (night.settings.pop(f"SOURCES__TONALYTICA__{name}") for name in ("API_KEY", "BASE_URL"))
    settings(
        night,
        config="[sources.tonalytica]\nrequests_per_secnd = 3\n",
        secrets=f'[sources.tonalytica]\napi_key = "{key}"\nbase_url = "{url}"\n',
    )
    ran = night("run", "tonalytica")
    assert ran.code == 2, ran.out
    assert "sources.tonalytica.requests_per_secnd" in ran.err and "Did you mean requests_per_second?" in ran.err
    assert "config.toml" in ran.err
    assert not night.is_loaded()


@one_database
def test_run_with_many_unknown_names_says_so_in_one_line(night: Night) -> None:
    ran = settings(night, config="[nightlaod]\npublish = 'night'\n[schedule.x]\ncron = '@daily'\n")("run")
    assert ran.code == 2
    (line,) = ran.err.splitlines()
    assert all(words in line for words in ("2 mistakes", "[nightlaod]", "[schedule]", "nightload check")), line
    assert not night.is_loaded()


OTHERS = """
pipeline_name = "chess"
[runtime]
log_level = "CRITICAL"
[load]
workers = 2
[normalize.data_writer]
file_max_items = 1000
[extract]
workers = 3
[schema]
naming = "sources.naming"
[destination.postgres.credentials]
host = "db.example"
[sources.databricks]
token = "CANARYother"
[sources.itunes]
key = "CANARYother"
[chess_pipeline.sources.chess]
players = ["magnus"]
[chess_pipeline.destination]
dataset_name = "chess"
[sources.tonalytica.extract]
workers = 3
"""


@one_database
def test_sections_of_dlt_and_of_other_sources_pass_and_check_names_them(night: Night) -> None:
    night.set(exclude=["results", "query_results"])
    ran = settings(night, config=OTHERS)("check", "tonalytica")
    assert ran.code == 0, ran.out + ran.err
    assert [name in ran.out for name in ("[sources.databricks]", "[sources.itunes]")] == [True, True]
    assert "CANARY" not in ran.out


@pytest.mark.parametrize(
    ("document", "refused"),
    [
        ({"alerts": {"webhook": "https://x.example"}}, "[alerts] is not read from this file"),
        ({"nightlaod": {"publish": "night"}}, "there is no section [nightlaod]"),
        ({"sources": {"tune": {"zoen": "UTC"}}}, "there is no setting sources.tune.zoen"),
        ({"sources": {"tuen": {"zone": "UTC"}}}, "there is no vendor tuen"),
        ({"sources": {"tune": {"zone": "UTC"}}, "personal": {"default": "hash"}}, None),
        ({"my_app": {"token": "x"}, "sources": {"github": {"token": "x"}}}, None),
    ],
)
def test_a_file_for_all_projects_of_a_user_is_read_too(
    document: dict[str, Any], refused: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "global" / "config.toml"
    monkeypatch.setattr(configuration, "documents", lambda: iter([(path, document)]))
    monkeypatch.setattr(config_check, "documents", lambda: iter([(path, document)]))
    found = [str(error) for error in config_check.unknown(places.find(str(tmp_path)))]
    assert len(found) == (refused is not None), found
    assert all(refused in line and str(path) in line for line in found if refused)


def test_own_sections_are_none_of_dlts() -> None:
    assert not DLT_SECTIONS & set(config_check.OWN)
    assert {"sources", "destination", "load", "normalize", "extract", "runtime"} <= DLT_SECTIONS


def test_the_warehouse_by_dlts_name_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIGHTLOAD_WAREHOUSE", raising=False)
    monkeypatch.setenv("NIGHTLOAD__WAREHOUSE", "duckdb:///data/mine.duckdb")
    assert places.find(str(tmp_path)).warehouse == tmp_path / "data" / "mine.duckdb"
