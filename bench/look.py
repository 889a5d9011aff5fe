"""The report of a year that never was, and how a browser shows it: `python -m bench.look [FOLDER]`.

365 nights of five vendors with 80 tables each go into a ledger; the page is written from it and photographed in light
and dark, wide and as on a phone. Told are its size and the seconds that it took. The pictures are for a person to look
at; a browser is found as CHROMIUM, or on the PATH, and without one this ends with an error.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipelines.config import project as places
from pipelines.ledger.store import Ledger
from pipelines.monitoring.alerts import sweep
from pipelines.monitoring.html_report import write

NIGHTS, TABLES = 365, 80
VENDORS = ("dataworks", "growingio", "thinkingengine", "tonalytica", "tune")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
DENIED = (
    "the key is not accepted (tune, table clicks): HTTP 401. Write a new one into .dlt/secrets.toml, then run again"
)
PARTED = "1363 rows were extracted, 1358 are in the warehouse"


def main() -> None:
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        sys.exit("there is no browser to look with; install chromium, or name one in CHROMIUM")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "look").resolve()
    shutil.rmtree(folder / "data", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    place = places.at(places.DEFAULT, folder)
    ledger = Ledger(place.ledger)
    _invent(ledger)
    ledger.close()
    sweep(place)
    began = time.process_time()
    page = write(place, place.report)
    print(f"{NIGHTS} nights, {len(VENDORS)} vendors, {TABLES} tables each: {page.stat().st_size:,} bytes, ", end="")
    print(f"{time.process_time() - began:.2f} CPU s")
    for number, theme in enumerate(("dark", "light")):
        for width, height in ((1100, 2600), (390, 4000)):
            picture = folder / f"{theme}-{width}.png"
            picture.unlink(missing_ok=True)
            subprocess.run(
                [
                    browser,
                    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
                    *("--no-first-run", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}"),
                    f"--blink-settings=preferredColorScheme={number}",
                    f"--window-size={width},{height}",
                    f"--screenshot={picture}",
                    page.as_uri(),
                ],
                capture_output=True,
                timeout=120,
                check=True,
            )
            print(f"{picture}  {picture.stat().st_size:,} bytes")
    shutil.rmtree(folder / "profile", ignore_errors=True)


def _invent(ledger: Ledger) -> None:
    chance = random.Random(7)
    last = datetime.now(UTC) - timedelta(hours=3)
    with ledger.at_once():
        for night in range(NIGHTS):
            if chance.random() < 0.01:
                continue
            failed = {vendor for vendor in VENDORS if chance.random() < 0.02}
            parted = {vendor for vendor in VENDORS if chance.random() < 0.01}
            if night >= NIGHTS - 2:
                failed, parted = {"tune"}, {"growingio"}
            _night(ledger, last - timedelta(days=NIGHTS - 1 - night), failed, parted, chance)


def _night(ledger: Ledger, at: datetime, failed: set[str], parted: set[str], chance: random.Random) -> None:
    run_id = f"{at:%Y%m%dT%H%M%S000}-{chance.randrange(16**6):06x}"
    run = {"run_id": run_id, "started_at": at.isoformat(timespec="milliseconds"), "vendors": json.dumps(VENDORS)}
    ended = (at + timedelta(minutes=14)).isoformat(timespec="milliseconds")
    status = "failed" if failed else "mismatch" if parted else "ok"
    ledger.record("runs", [{**run, "finished_at": ended, "status": status, "version": "0", "host": "h", "pid": 1}])
    for vendor in VENDORS:
        state = "failed" if vendor in failed else "mismatch" if vendor in parted else "ok"
        told = {"run_id": run_id, "vendor": vendor}
        error = DENIED if state == "failed" else None
        seconds = 60 + chance.random() * 200
        row = {**told, "status": state, "error": error, "requests": chance.randrange(900), "seconds": seconds}
        ledger.record("run_vendors", [row])
        rows = chance.randrange(1000, 2000)
        counts = dict.fromkeys(("vendor_count", "extracted", "landed", "live"), rows)
        tables = [{**told, **counts, "dataset": vendor, "table_name": f"table_{n}"} for n in range(TABLES)]
        for number, table in enumerate(tables):
            table["status"] = "discarded" if state == "failed" else "unchanged" if number % 3 == 0 else "ok"
        if state == "mismatch":
            tables[3] |= {"status": "mismatch", "error": PARTED, "landed": rows - 5}
        ledger.record("run_tables", tables)
        if chance.random() < 0.03:
            change = {"dataset": vendor, "table_name": "table_1", "column_name": "渠道", "new_type": "text"}
            when = at.isoformat(timespec="milliseconds")
            ledger.record("schema_changes", [{**told, **change, "change": "new column", "changed_at": when}])


if __name__ == "__main__":
    main()
