"""TONalytica end to end: what the sandbox's Redash holds is what the warehouse holds."""

from __future__ import annotations

from conftest import Night
from redash import assert_warehouse_is_the_truth
from sandbox_process import SandboxProcess


def test_every_table_lands_value_by_value(night: Night, sandbox: SandboxProcess) -> None:
    ran = night.run("tonalytica")
    assert (ran.code, ran.json["status"]) == (0, "ok")
    assert assert_warehouse_is_the_truth(night, sandbox) > 70
