"""The export queue: jobs that take their time, and signed links beside the API (section 8)."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from sandbox.tune.envelope import Refusal, Reply

STATES = (("pending", 0), ("running", 40), ("complete", 100))


@dataclass
class Job:
    key: str
    body: bytes
    lines: int
    asked: int = 0
    signature: str = ""


@dataclass
class Queue:
    """`link`: what stands before `/downloads/…` in a link, if not this server; `fails`: every job ends so."""

    jobs: dict[str, Job] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def order(self, body: bytes, lines: int, *, secret: str) -> Job:
        key = hashlib.md5(f"{secret}|{len(self.jobs)}".encode(), usedforsecurity=False).hexdigest()
        self.jobs[key] = Job(key, gzip.compress(body, 1) if self.options.get("gzip") else body, lines)
        return self.jobs[key]

    def state(self, key: str, request: Request) -> dict[str, Any]:
        """Pending, running, complete without a link for a moment, then with one; each look signs another."""
        job = self.jobs.get(key)
        if job is None:
            raise Refusal(404, "Job was not found.", single=True, unexpected="no such job")
        job.asked += 1
        if self.options.get("fails"):
            return {"status": "fail", "percent_complete": 0, "url": None}
        if self.options.get("never"):
            return {"status": "running", "percent_complete": 99, "url": None}
        status, percent = STATES[min(job.asked, len(STATES)) - 1]
        url = None
        if job.asked > len(STATES):
            job.signature = hashlib.sha1(f"{key}|{job.asked}".encode(), usedforsecurity=False).hexdigest()
            origin = self.options.get("link") or f"{request.url.scheme}://{request.url.netloc}"
            url = f"{origin}/downloads/{key}.csv?AWSAccessKeyId=CANARYlink&Expires=1417600000&Signature={job.signature}"
            if self.options.get("backslashes"):
                head, _, query = url.partition("?")
                url = (
                    f"{head}?{query}".replace("/", "\\") if "/" not in query else head.replace("/", "\\") + "?" + query
                )
        return {"status": status, "percent_complete": percent, "url": url}

    def download(self, request: Request) -> Reply:
        job = self.jobs.get(request.url.path.rpartition("/")[2].removesuffix(".csv"))
        if job is None or request.query_params.get("Signature") != job.signature:
            return Reply(b"<Error><Code>AccessDenied</Code></Error>", 403, content_type="application/xml")
        return Reply(job.body, content_type="application/octet-stream")

    @staticmethod
    def with_credentials(request: Request) -> str:
        """Why this download should not have come: it carries what only the API may see."""
        carried = [name for name in ("api_key", "session_token") if name in request.query_params]
        carried += [name for name in ("authorization", "cookie") if name in request.headers]
        return f"a download with {', '.join(carried)}" if carried else ""
