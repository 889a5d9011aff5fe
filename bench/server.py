"""Two vendors on loopback, as far as a load needs them: `python -m bench.server FOLDER` prints its port.

A process of its own, so that its CPU counts for nobody; bodies go from file to socket by sendfile. The base URL says
what is served: `/r<rows>/` is a Redash whose one query has a result of so many rows, `/w<rows>/` one of the wide
result, `/<set>/v2` a TUNE with one endpoint of the records or of the small pages, `/<set>/<ms>/v2` the same with so
many milliseconds per page, `/changed-<rows>-<night>/v2` one whose table has so many rows, of which it sends what
changed in that night, `/segment/` a GrowingIO with one segment, `/charts/<number>/<ms>/` one with a board of so many
charts and so many milliseconds per series (its `span` tells when it was asked), and `/sql/` a ThinkingEngine whose
every SQL gives the records.
"""

from __future__ import annotations

import json
import os
import re
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bench.bodies import KEY_PAGE, PAGE, RECORDS, SMALL_PAGE, SQL_PAGE, Bodies, chart, definition, enveloped

QUERY = {
    "id": 1,
    "name": "Orders",
    "description": None,
    "query": "select * from orders",
    "query_hash": "0" * 32,
    "schedule": None,
    "api_key": "bench-query-key",
    "is_archived": False,
    "is_draft": False,
    "updated_at": "2026-01-01T00:00:00.000Z",
    "created_at": "2026-01-01T00:00:00.000Z",
    "data_source_id": 1,
    "options": {"parameters": []},
    "version": 1,
    "tags": [],
    "is_safe": True,
    "user": {"id": 1},
    "last_modified_by_id": 1,
    "retrieved_at": "2026-01-01T00:00:00.000Z",
    "runtime": 1.5,
    "is_favorite": False,
}
asked: list[float] = []
"""When the charts' vendor was asked, since the last look at it."""
EMPTY_LIST = {"count": 0, "page": 1, "page_size": 250, "results": []}


class Handler(socketserver.StreamRequestHandler):
    """HTTP/1.1 with kept connections; what a POST says is not read."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        while line := self.rfile.readline():
            length = 0
            while header := self.rfile.readline().strip().lower():
                if header.startswith(b"content-length:"):
                    length = int(header.partition(b":")[2])
            self.rfile.read(length)
            parts = urlsplit(line.split()[1].decode())
            _, first, *rest = parts.path.split("/")
            params = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if match := re.fullmatch(r"([rw])(\d+)", first):
                rows = int(match[2])
                self._redash("/".join(rest), rows, bodies.documents[rows] if match[1] == "r" else "wide.json")
            elif first == "segment":
                self._growingio(rest[-1])
            elif first == "charts":
                self._charts(rest, params)
            elif first == "sql":
                self._thinkingengine(rest[-1], params)
            else:
                self._tune(first, rest, params)

    def _redash(self, path: str, rows: int, document: str) -> None:
        query = QUERY | {"latest_query_data_id": rows}
        if path == f"api/query_results/{rows}.json":
            self._file(document, None)
        elif path == "api/queries":
            self._json({"count": 1, "page": 1, "page_size": 250, "results": [query]})
        elif path == "api/queries/1":
            self._json(query | {"visualizations": []})
        elif path == "api/session":
            self._json({"user": {"id": 1, "name": "Bench", "groups": [1]}, "client_config": {"version": "10.1.0"}})
        else:
            self._json([] if path in ("api/data_sources", "api/alerts", "api/query_snippets") else EMPTY_LIST)

    def _growingio(self, action: str) -> None:
        if action == "users.csv":
            self._file("segment.csv", None)
        else:
            told = {"id": "Seg1", "name": "All", "userNum": bodies.segment, "updatedAt": 1, "createdAt": 1}
            self._json([told])

    def _charts(self, rest: list[str], params: dict[str, str]) -> None:
        number, milliseconds, *_, action = rest
        if action == "span":
            self._json({"seconds": asked[-1] - asked[0], "requests": len(asked)})
            asked.clear()
            return
        asked.append(time.monotonic())
        if "startTime" in params:
            time.sleep(int(milliseconds) / 1000)
            self._json(chart(action.removesuffix(".json"), int(params["startTime"]), int(params["endTime"])))
        elif action == "Board1.json":
            charts = [{"id": f"Chart{n}", "name": f"Chart {n}", "resource_type": "chart"} for n in range(int(number))]
            self._json({"id": "Board1", "name": "All", "type": "normal", "charts": charts})
        elif action == "dashboards.json":
            self._json([{"id": "Board1", "name": "All", "type": "normal"}])
        elif action == "rules.csv":
            self._send(b"ruleId\teventName\teventType\n")
        else:
            self._json([])

    def _thinkingengine(self, action: str, params: dict[str, str]) -> None:
        if action == "sql-result-page":
            self._file("sql.json", bodies.pages["sql"][int(params["pageId"])])
            return
        stat = {"headers": list(RECORDS), "rowCount": bodies.totals["records"], "pageSize": SQL_PAGE}
        told = {"taskId": "1", "status": "FINISHED", "resultStat": stat | {"pageCount": len(bodies.pages["sql"])}}
        self._json({"return_code": 0, "return_message": "", "data": told})

    def _tune(self, pages: str, rest: list[str], params: dict[str, str]) -> None:
        action = rest[-1]
        if action == "define.json":
            self._send(enveloped(json.dumps(definition())))
        elif action == "count.json":
            counted = bodies.totals.get(f"{pages}_changed", 0) if "filter" in params else bodies.totals[pages]
            self._send(enveloped(str(counted)))
        else:
            if rest[0].isdecimal():
                time.sleep(int(rest[0]) / 1000)
            keys_only = params.get("fields") == "id"
            name = {"records": "keys"}.get(pages, f"{pages}_keys") if keys_only else pages
            size = KEY_PAGE if keys_only else SMALL_PAGE if pages == "small" else PAGE
            if params.get("limit") != str(size):
                raise ValueError(f"only pages of {size} are rendered, not of {params.get('limit')}")
            page, found = int(params["page"]), bodies.pages[name]
            if ("filter" in params) != (f"{pages}_changed" in bodies.totals) or page > len(found):
                self._send(enveloped("[]"))
            else:
                self._file(f"{name}.json", found[page - 1])

    def _json(self, document: Any) -> None:
        self._send(json.dumps(document).encode())

    def _send(self, body: bytes) -> None:
        self.request.sendall(_head(len(body)) + body)

    def _file(self, name: str, spot: tuple[int, int] | None) -> None:
        descriptor = files[name]
        offset, left = spot or (0, os.fstat(descriptor).st_size)
        self.request.sendall(_head(left))
        while left:
            sent = os.sendfile(self.request.fileno(), descriptor, offset, left)
            offset, left = offset + sent, left - sent


def _head(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    bodies = Bodies.load(Path(sys.argv[1]))
    names = [*bodies.documents.values(), *(f"{name}.json" for name in bodies.pages), "segment.csv", "wide.json"]
    files = {name: os.open(Path(bodies.folder) / name, os.O_RDONLY) for name in names}
    with Server(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        server.serve_forever()
