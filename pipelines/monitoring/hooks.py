"""What follows each run, however it ended: alerts, metrics, lineage, the page. None of it fails the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.config.project import Place
from pipelines.ledger.store import Ledger
from sources.core.errors import ConfigurationError, Locked, NightloadError, summarize

log = logging.getLogger(__name__)


@contextmanager
def telling(place: Place) -> Iterator[None]:
    """Run the block, then tell of it. A run that was not to begin, since another is under way, is not told of."""
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
    """Tell of the last run. Each part is on its own: what fails is logged, and the others go on."""
    try:
        if not place.has_ledger:
            return
        Ledger(place.ledger).close()
    except ConfigurationError:
        return  # the run has said so itself
    steps: dict[str, Callable[[Place], None]] = {
        "the alerts": _alerts,
        "the metrics": _metrics,
        "the lineage": _lineage,
        "the report": _report,
        "the kept pages": _prune,
    }
    for name, step in steps.items():
        try:
            step(place)
        except Exception as error:
            log.debug("%s", name, exc_info=True)
            log.error("%s could not be told: %s", name, summarize(error))


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
