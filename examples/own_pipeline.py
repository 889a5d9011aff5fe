"""A dlt pipeline of one's own over a source of nightload. Run it in a project with `.dlt/secrets.toml`."""

from __future__ import annotations

import os

os.environ["SCHEMA__NAMING"] = "sources.naming"  # before dlt is imported

import dlt

from sources.tune import tune

pipeline = dlt.pipeline("mine", destination="duckdb", dataset_name="tune")
print(pipeline.run(tune()))
