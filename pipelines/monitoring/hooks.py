"""Post-run hooks: alerts, metrics, lineage, report, pruning of recordings. No hook fails the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.config.project import Place
from pipelines.ledger.store import Ledger
from sources.core.errors import ConfigurationError, Locked, NightloadError, summarize

log = logging.getLogger(__name__)


@contextmanager
def with_hooks(place: Place) -> Iterator[None]:
    """Run the block, then the hooks, also after an error. `Locked` skips them: another run is in progress."""
    try:
        yield
    except NightloadError as error:
        if not isinstance(error, Locked):
            after_run(place)
        raise
    except Exception:
        after_run(place)
        raise
    after_run(place)


def after_run(place: Place) -> None:
    """Run all hooks. A failure is logged and does not stop the other hooks."""
    try:
        if not place.has_ledger:
            return
        Ledger(place.ledger).close()
    except ConfigurationError:
        return  # the run has already reported it
    steps: dict[str, Callable[[Place], None]] = {
        "alerts": _alerts,
        "metrics": _metrics,
        "lineage": _lineage,
        "report": _report,
        "recordings": _prune,
    }
    for name, step in steps.items():
        try:
            step(place)
        except Exception as error:
            log.debug("post-run hook %s", name, exc_info=True)
            log.error("post-run hook %s failed: %s", name, summarize(error))


def _alerts(place: Place) -> None:
    from pipelines.monitoring.alerts import sweep

    sweep(place)


def _metrics(place: Place) -> None:
    from pipelines.monitoring.prometheus import write
    from pipelines.monitoring.status import opened

    with opened(place) as ledger:
        if ledger is not None:
            write(place, ledger)


def _lineage(place: Place) -> None:
    from pipelines.monitoring.openlineage import emit
    from pipelines.monitoring.status import opened

    with opened(place, writes=True) as ledger:
        if ledger is not None:
            emit(place, ledger)


def _prune(place: Place) -> None:
    from pipelines.run.recording.retention import prune

    prune(place)


def _report(place: Place) -> None:
    from pipelines.monitoring.html_report import write

    write(place, place.report)
