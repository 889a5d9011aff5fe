"""A DAG for Airflow 3: copy it into the DAGs folder and set the names below.

One task per vendor, so that each is retried alone. A pool of one slot, since runs of one warehouse never overlap:

    airflow pools set nightload 1 "one run of a warehouse at a time"

nightload is installed in an environment of its own, apart from Airflow's packages. It sends its alerts and writes its
report itself. The last task fails when something is stale, also if no other task failed.
"""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta

from airflow.sdk import DAG, CronTriggerTimetable, task
from airflow.sdk.exceptions import AirflowFailException

NIGHTLOAD = "/srv/nightload/.venv/bin/nightload"
HOME = "/srv/nightload"
VENDORS = ("thinkingengine", "tonalytica", "tune", "dataworks", "growingio")
CONFIGURATION, LOCKED = 2, 3
STOP = 120
"""Seconds that a run has between SIGTERM and SIGKILL; it publishes no partial load."""


def nightload(*arguments: str) -> int:
    """Return the exit code. What ends the task ends the run first."""
    child = subprocess.Popen([NIGHTLOAD, *arguments, "--home", HOME])  # noqa: S603
    try:
        return child.wait()
    except BaseException:
        child.terminate()
        try:
            child.wait(STOP)
        except subprocess.TimeoutExpired:
            child.kill()
        raise


with DAG(
    "nightload",
    schedule=CronTriggerTimetable("30 2 * * *", timezone="Asia/Shanghai"),
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 - Airflow's: before the first night, in its default zone
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=6),
    default_args={
        "pool": "nightload",
        "retries": 6,
        "retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(hours=5),
    },
):

    @task
    def load(vendor: str) -> None:
        code = nightload("run", vendor)
        if code == CONFIGURATION:
            raise AirflowFailException(f"the configuration of {vendor} is wrong, see the log; a retry would not help")
        if code == LOCKED:
            raise RuntimeError("another run has this warehouse; tried again later")
        if code:
            raise RuntimeError(f"nightload run {vendor} ended with {code}, see the log")

    @task(trigger_rule="all_done", retries=0)
    def is_fresh() -> None:
        if nightload("status"):
            raise AirflowFailException("something is stale, see the log")

    [load.override(task_id=vendor)(vendor) for vendor in VENDORS] >> is_fresh()
