"""When runs start.

nightload's own scheduler with its state, units for systemd and cron, Kubernetes manifests, Dagster and Airflow. What
a run does belongs to `run`. Read first: `scheduler.py`, `systemd_cron.py`.
"""
