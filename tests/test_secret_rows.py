"""One of our keys in a vendor's texts: masked in rows, names, files and recorded pages; a replay gives the same."""

from __future__ import annotations

import base64
import html
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from conftest import Night
from sandbox_process import SandboxProcess
from sources.core import redaction
from test_export_queries import edit
from test_replay import bodies, run_ids

OF_TUNE = "CANARYof-tune+0123/45=x"
RECORDED = {"KEEP__DAYS": "7", "KEEP__PERSONAL": "true"}


def written(key: str) -> dict[str, str]:
    """The key as vendors' texts hold it."""
    raw = key.encode()
    return {
        "plain": key,
        "url": quote(key, safe=""),
        "url twice": quote(quote(key, safe=""), safe=""),
        "html": "".join(char if char.isalnum() else f"&#{ord(char)};" for char in key),
        "html in hex": "".join(char if char.isalnum() else f"&#x{ord(char):X};" for char in key),
        "html by name": html.escape(key).replace("/", "&sol;").replace("+", "&plus;").replace("=", "&equals;"),
        "base64": base64.b64encode(raw).decode(),
        "base64 for urls": base64.urlsafe_b64encode(raw).decode(),
        "base64 of user and key": base64.b64encode(b"user:" + raw).decode(),
        "base64 of a user and key": base64.b64encode(b"a user:" + raw + b"!").decode(),
        "hex": raw.hex(),
        "hex in capitals": raw.hex().upper(),
    }


def found_in(text: str, *keys: str) -> list[str]:
    """How these keys can be read in a text."""
    inner = {key: base64.b64encode(b"user:" + key.encode()).decode()[8:-4] for key in keys}
    spellings = {name: spelled for key in keys for name, spelled in written(key).items()}
    return [name for name, spelled in (spellings | inner).items() if spelled in text]


def everything(night: Night) -> str:
    return repr(night.contents()) + repr(night.rows("FROM nightload.columns"))


def test_key_in_vendor_texts_lands_masked(night: Night, sandbox: SandboxProcess, tmp_path: Path) -> None:
    key = sandbox.tonalytica["api_key"]
    night.set("tune", api_key=OF_TUNE)
    spelled = {f"{name} of {owner}": text for owner in (key, OF_TUNE) for name, text in written(owner).items()}
    sql = "SELECT 1 -- " + "\n-- ".join(
        f"{name.split(' of ')[0]}: api_key={text} end" for name, text in spelled.items()
    )
    edit(sandbox, 1, query=sql, name=f"by {key}", description=f"it's {OF_TUNE}", schedule=None)
    edit(sandbox, 2, query=f"SELECT '{key[:8]}', 'no key'")
    rows = [{"url": f"https://h/?api_key={key}", f"of {OF_TUNE}": 1, "n": 5}]
    edit(sandbox, 3, "execute", rows=rows)
    night.settings |= RECORDED
    assert night.run("tonalytica").code == 0
    ((landed, name, about),) = night.rows("SELECT query, name, description FROM tonalytica.queries WHERE id = 1")
    lines = {line.partition(": api_key=")[::2] for line in landed.removeprefix("SELECT 1 ").splitlines()}
    assert {text for name, text in lines if "64" not in name} == {"*** end"}
    assert all("***" in text for _, text in lines), lines
    assert (name, about) == ("by ***", "it's ***")
    assert night.rows("SELECT query FROM tonalytica.queries WHERE id = 2") == [(f"SELECT '{key[:8]}', 'no key'",)]
    assert night.rows("SELECT url, n FROM tonalytica_results.query_3") == [("https://h/?api_key=***", 5)]
    labels = night.rows("SELECT label FROM nightload.columns WHERE table_name = 'query_3' ORDER BY label")
    assert ("of ***",) in labels
    assert found_in(everything(night), key, OF_TUNE) == []
    assert night.main("export-queries", str(tmp_path / "sql")).code == 0
    assert found_in("".join(file.read_text() for file in (tmp_path / "sql").rglob("*.sql")), key, OF_TUNE) == []
    pages = bodies(night)
    assert pages and not any(found_in(page.decode("latin-1"), key, OF_TUNE) for page in pages.values())


def test_masked_key_is_unchanged_on_the_next_run_and_in_a_replay(night: Night, sandbox: SandboxProcess) -> None:
    key = sandbox.tonalytica["api_key"]
    edit(sandbox, 1, query=f"SELECT '{base64.b64encode(f'u:{key}'.encode()).decode()}'", name=key)
    night.settings |= RECORDED
    assert night.run("tonalytica").code == 0
    first = night.contents()
    ran = night.run("tonalytica")
    assert {ran.tables[f"tonalytica.{name}"]["status"] for name in ("queries", "query_versions")} == {"unchanged"}
    assert night.main("replay", run_ids(night)[1], "--into").code == 0
    (row,) = night.rows("SELECT query, name FROM tonalytica.queries WHERE id = 1")
    assert row[1] == "***" and key not in row[0]
    assert len(night.rows("FROM tonalytica.query_versions")) == len(first["tonalytica.query_versions"])


def test_row_does_not_depend_on_which_vendors_are_loaded(night: Night, sandbox: SandboxProcess) -> None:
    """The key of a vendor that is not loaded is masked too: else each run would bring another version."""
    night.set("tune", api_key=OF_TUNE)
    edit(sandbox, 1, query=f"SELECT '{OF_TUNE}'")
    assert night.run("tonalytica").code == 0
    assert night.rows("SELECT query FROM tonalytica.queries WHERE id = 1") == [("SELECT '***'",)]


@pytest.mark.parametrize("secret", ["orders", "passwd1", "analytics", "20260101", "1234567890123456"])
def test_secret_that_data_may_hold_masks_no_row(secret: str) -> None:
    redaction.clear()
    redaction.register_secret(secret)
    row = f'{{"a": "{secret}", "b": "x{secret}"}}'.encode()
    assert redaction.mask_known(row) == row
    assert redaction.redact(f"in a log: {secret}") == "in a log: ***" or len(secret) < 6
    redaction.clear()


@pytest.mark.parametrize("secret", ['"k3y-in-quotes"', "k3y-with-slash\\", " k3y-with-blanks "])
def test_masked_document_is_still_json(secret: str) -> None:
    redaction.clear()
    redaction.register_secret(secret)
    bare = secret.strip(' "\\').encode()
    assert redaction.mask_known(b'["%s", "\\\\%s\\\\\\"", 1]' % (bare, bare)) == b'["***", "\\\\***\\\\\\"", 1]'
    redaction.clear()


def test_chunks_never_change_what_is_masked() -> None:
    redaction.clear()
    key = "s3cr3t/with+odd=signs"
    redaction.register_secret(key)
    body = ("é城 ".join(written(key).values()) + base64.b64encode(f"a:{key}:zzz".encode()).decode()).encode()
    whole = redaction.mask_known(body)
    assert b"s3cr3t" not in whole and whole.count(b"***") >= len(written(key)) - 1
    for size in (1, 7, 64, 1000):
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        assert b"".join(redaction.masked(chunks)) == whole, size
    redaction.clear()


def test_searching_rows_for_keys_costs_little() -> None:
    redaction.clear()
    for number in range(4):
        redaction.register_secret(f"{number}a8B7c6D5e4F3g2H1i0J9k8L7m6N5o4P3q2R1s0T")
    row = b'{"id": %d, "name": "city %d", "amount": %d.25, "day": "2026-01-%02d", "flag": true}'
    body = b",".join(row % (n * 7919, n % 977, n % 10007, n % 28 + 1) for n in range(400_000))
    chunks = [body[at : at + 2**16] for at in range(0, len(body), 2**16)]
    began = time.thread_time()
    assert sum(map(len, redaction.masked(chunks))) == len(body)
    spent = (time.thread_time() - began) / (len(body) / 2**20) * 100
    redaction.clear()
    assert spent < 1.5, f"{spent:.2f} CPU seconds for 100 MB"
