"""The vendors the sandbox can play. A new one is a folder and a line here."""

from __future__ import annotations

from collections.abc import Callable

from sandbox.core.journal import Journal
from sandbox.core.vendor import Vendor
from sandbox.dataworks.vendor import Dataworks
from sandbox.growingio.vendor import Growingio
from sandbox.thinkingengine.vendor import Thinkingengine
from sandbox.tonalytica.vendor import Tonalytica
from sandbox.tune.vendor import Tune

Build = Callable[[int, float, Journal], Vendor]

VENDORS: dict[str, Build] = {
    "tonalytica": Tonalytica,
    "tune": Tune,
    "dataworks": Dataworks,
    "growingio": Growingio,
    "thinkingengine": Thinkingengine,
}
