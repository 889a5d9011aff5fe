# nightload in a container: `docker build -t nightload .`, with dbt: `--build-arg EXTRAS=[dbt]`.
# It needs no disk of its own when the warehouse is a Postgres; see `nightload schedule --install kubernetes`.
# A tag moves, a digest does not. This one is of python:3.12.7-slim-bookworm; for the fixes since, give a newer one:
# `docker buildx imagetools inspect python:3.12-slim` shows its digest, `--build-arg BASE=python:3.12-slim@sha256:…`.
ARG BASE=python:3.12.7-slim-bookworm@sha256:032c52613401895aa3d418a4c563d2d05f993bc3ecc065c8f4e2280978acd249
FROM ${BASE} AS build
ARG EXTRAS=
WORKDIR /src
COPY pyproject.toml README.md LICENSE requirements.lock ./
COPY sources sources
COPY pipelines pipelines
COPY .ci/runtime_lock.py .ci/
# Each package is compared with its hash in the lock; nightload itself is built from what was copied.
RUN python .ci/runtime_lock.py "${EXTRAS}" >locked.txt \
    && python -m venv /opt/nightload \
    && /opt/nightload/bin/pip install --no-cache-dir --only-binary :all: --require-hashes --requirement locked.txt \
    && /opt/nightload/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${BASE}
COPY --from=build /opt/nightload /opt/nightload
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /srv/nightload nightload \
    && install -d -o nightload -g nightload /srv/nightload /srv/nightload/.dlt /srv/nightload/data
ENV PATH=/opt/nightload/bin:$PATH NIGHTLOAD_HOME=/srv/nightload PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /srv/nightload
# `run` ends cleanly at SIGTERM, as a container's first process too
STOPSIGNAL SIGTERM
ENTRYPOINT ["nightload"]
CMD ["schedule"]
