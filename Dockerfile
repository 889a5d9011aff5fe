# nightload in a container: `docker build -t nightload .`, with dbt: `--build-arg EXTRAS=[dbt]`.
# It needs no disk of its own when the warehouse is a Postgres; see `nightload schedule --install kubernetes`.
FROM python:3.12-slim AS build
ARG EXTRAS=
WORKDIR /src
COPY pyproject.toml README.md LICENSE requirements.lock ./
COPY sources sources
COPY pipelines pipelines
# The lock's versions, as constraints: it also names what only tests need.
RUN sed -E '/^ +--hash/d; s/ *\\$//' requirements.lock >constraints.txt \
    && python -m venv /opt/nightload \
    && /opt/nightload/bin/pip install --no-cache-dir --only-binary :all: --constraint constraints.txt hatchling editables \
    && /opt/nightload/bin/pip install --no-cache-dir --only-binary :all: --no-build-isolation --constraint constraints.txt ".${EXTRAS}"

FROM python:3.12-slim
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
