"""What the READMEs show is run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import duckdb
import pytest
import yaml

from sandbox_process import SandboxProcess, start_sandbox

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
READMES = [
    *(page for page in PAGES if "```toml" in page.read_text(encoding="utf-8")),
    *sorted((ROOT / "sources").glob("*/README.md")),
]


def blocks(readme: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", readme.read_text(encoding="utf-8").replace("\n   ", "\n"), re.DOTALL)


@pytest.fixture(scope="module")
def sandbox():
    with start_sandbox("--scale", "0.05") as running:
        yield running


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: str(readme.relative_to(ROOT)))
def test_every_setting_shown_is_one_that_the_vendor_has(readme: Path, tmp_path: Path) -> None:
    shown = blocks(readme, "toml")
    assert shown, "a README without an example"
    (tmp_path / ".dlt").mkdir()
    for block in shown:
        name = "config.toml" if ".dlt/config.toml" in block else "secrets.toml"
        with (tmp_path / ".dlt" / name).open("a", encoding="utf-8") as file:
            file.write(block)
    vendors = {vendor for block in shown for vendor in tomllib.loads(block).get("sources", ())}
    connect = "import sys; from pipelines.config import dlt_setup, project; dlt_setup.prepare(project.find()); "
    connect += "from sources.extract.connector import package; [package(vendor).connect() for vendor in sys.argv[1:]]"
    ran = subprocess.run(
        [sys.executable, "-c", connect, *vendors],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={n: v for n, v in os.environ.items() if not n.startswith("SOURCES__")} | {"NIGHTLOAD_HOME": str(tmp_path)},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_what_the_readme_sets_for_the_nights_is_taken(tmp_path: Path) -> None:
    (tmp_path / ".dlt").mkdir()
    shown = [block for page in PAGES for block in blocks(page, "toml")]
    text = "\n".join(block for block in shown if ".dlt/config.toml" in block)
    (tmp_path / ".dlt" / "config.toml").write_text(text, encoding="utf-8")
    assert {"schedules", "status", "alerts", "drift", "metrics", "lineage"} <= set(tomllib.loads(text))
    for command in (["schedule", "--list"], ["alert", "--dry-run"], ["runs"]):
        ran = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *command, "--home", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, ""), command


def test_a_setting_that_nobody_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "config.toml").write_text('[sources.tune]\nzoen = "UTC"\n', encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "tables", "--home", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "sources.tune.zoen" in ran.stderr
    assert "Did you mean zone?" in ran.stderr


EXAMPLE = ROOT / "examples" / "own_pipeline.py"


@pytest.mark.parametrize("shown", ["readme", "example"])
def test_the_dlt_source_loads_in_a_pipeline_of_ones_own(shown: str, sandbox: SandboxProcess, tmp_path: Path) -> None:
    (example,) = [block for page in PAGES for block in blocks(page, "python") if "import dlt" in block]
    if shown == "example":
        example = EXAMPLE.read_text(encoding="utf-8")
    environment = {
        **os.environ,
        "SOURCES__TUNE__BASE_URL": sandbox.tune["base_url"],
        "SOURCES__TUNE__API_KEY": sandbox.tune["api_key"],
        "SOURCES__TUNE__REQUESTS_PER_SECOND": "1000",
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "DLT_DATA_DIR": str(tmp_path / "dlt"),
        "DLT_PROJECT_DIR": str(tmp_path),
    }
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-c", example], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
    with duckdb.connect(str(tmp_path / "mine.duckdb"), read_only=True) as connection:
        loaded = connection.sql("SELECT count(*), count(DISTINCT id) FROM tune.advertiser_campaigns").fetchall()
    truth = sandbox.control("tune", "GET", "truth")["advertiser/campaigns"]["count"]
    assert loaded == [(truth, truth)]


def test_the_table_of_commands_has_each_and_no_other() -> None:
    from typer.main import get_command

    from pipelines.cli.main import app

    told = re.findall(r"^\| `nightload ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(told) == set(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md")), *sorted(ROOT.glob("*/README.md"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_relative_links_of_a_page_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_readme_has_at_most_300_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("file", [".pre-commit-config.yaml", *map(str, sorted((ROOT / ".github").rglob("*.yml")))])
def test_yaml_of_the_project_parses(file: str) -> None:
    assert yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))


def test_every_page_of_docs_is_in_the_navigation() -> None:
    named = re.findall(r"^ +- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))
