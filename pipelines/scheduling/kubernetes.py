"""The schedules as CronJobs of Kubernetes: no local disk, the warehouse is a Postgres, secrets come by environment."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime

from pipelines.config.schedules import Schedule, parse_cron
from sources.core.errors import ConfigurationError

HEAD = """\
# nightload as CronJobs. Before the first night:
#   docker build -t REGISTRY/nightload .        and put that name below
#   kubectl create configmap nightload --from-file=config.toml=.dlt/config.toml
#   kubectl create secret generic nightload \\
#     --from-literal=NIGHTLOAD_WAREHOUSE=postgresql://user:password@host:5432/database \\
#     --from-literal=SOURCES__TUNE__API_KEY=…
# The ledger and the cursors are in the database: a pod needs no disk that outlives it.
"""

JOB = """\
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {name}
  labels: {{app.kubernetes.io/name: nightload}}
spec:
  schedule: {cron}
  timeZone: {zone}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: {deadline}   # a night that was missed is still begun, so much later
  successfulJobsHistoryLimit: 7
  failedJobsHistoryLimit: 7
  jobTemplate:
    spec:
      activeDeadlineSeconds: {deadline}
      backoffLimit: 6
      podFailurePolicy:
        rules:   # 1, 2 and 4 are answers; 3 (another run has the warehouse) and a crash are tried again
          - action: FailJob
            onExitCodes: {{containerName: nightload, operator: In, values: [1, 2, 4]}}
      template:
        metadata:
          labels: {{app.kubernetes.io/name: nightload}}
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: 120
          automountServiceAccountToken: false
          securityContext:
            runAsNonRoot: true
            runAsUser: 10001
            runAsGroup: 10001
            fsGroup: 10001
            seccompProfile: {{type: RuntimeDefault}}
          containers:
            - name: nightload
              image: REGISTRY/nightload:latest
              args: {arguments}
              envFrom:
                - secretRef: {{name: nightload}}
              env:
                - {{name: NIGHTLOAD_HOME, value: /srv/nightload}}
                - {{name: TMPDIR, value: /tmp}}
              resources:
                requests: {{cpu: 500m, memory: 512Mi, ephemeral-storage: 2Gi}}
                limits: {{memory: 1Gi, ephemeral-storage: 10Gi}}
              securityContext:
                readOnlyRootFilesystem: true
                allowPrivilegeEscalation: false
                capabilities: {{drop: [ALL]}}
              volumeMounts:
                - {{name: config, mountPath: /srv/nightload/.dlt, readOnly: true}}
                - {{name: data, mountPath: /srv/nightload/data}}
                - {{name: tmp, mountPath: /tmp}}
          volumes:
            - name: config
              configMap: {{name: nightload}}
            - name: data
              emptyDir: {{}}
            - name: tmp
              emptyDir: {{}}
"""


def cron_jobs(schedules: Sequence[Schedule], *, now: datetime) -> str:
    """One CronJob per schedule, as YAML. Raises `ConfigurationError` for one that Kubernetes cannot express."""
    names = [f"nightload-{schedule.name.lower().replace('_', '-')}".rstrip("-") for schedule in schedules]
    if len(set(names)) < len(names):
        raise ConfigurationError(
            what="two schedules would have one name in Kubernetes, which knows neither _ nor capitals",
            where=", ".join(schedule.name for schedule in schedules),
            todo="Give one of them another name",
        )
    return HEAD + "".join(
        JOB.format(
            name=name,
            cron=json.dumps(_cron(schedule)),
            zone=json.dumps(schedule.zone.key),
            deadline=math.ceil(schedule.deadline.total_seconds()),
            arguments=json.dumps(schedule.arguments_unattended(now=now), ensure_ascii=False),
        )
        for name, schedule in zip(names, schedules, strict=True)
    )


def _cron(schedule: Schedule) -> str:
    """As Kubernetes has it: Sunday is only 0, and of a day of the month and one of the week either is enough."""
    cron = parse_cron(schedule.cron)
    days, weekdays = _numbers(cron.days, 31), _numbers(cron.weekdays, 7)
    if "*" not in (days, weekdays) and not cron.either_day:
        raise ConfigurationError(
            what=f"Kubernetes cannot express cron {schedule.cron!r}",
            where=f"schedules.{schedule.name}",
            why="it takes a day of the month and a day of the week for either, never for both",
            todo="Leave one of them *",
        )
    if cron.either_day and "*" in (days, weekdays):
        days = weekdays = "*"
    hours, minutes = _numbers(cron.hours, 24), _numbers(cron.minutes, 60)
    return f"{minutes} {hours} {days} {_numbers(cron.months, 12)} {weekdays}"


def _numbers(numbers: Sequence[int], of: int) -> str:
    return "*" if len(numbers) == of else ",".join(map(str, numbers))
