"""The stack of containers, in two copies: for a checkout, and for the folder that `jitwatch dashboards` writes."""

from __future__ import annotations

from typing import Final

from dashboards.source.settings import GRAFANA_URL

_TEXT: Final = """\
# {heading}
#
#   GF_SECURITY_ADMIN_PASSWORD=… docker compose up                  Prometheus, Alertmanager, Grafana
#   GF_SECURITY_ADMIN_PASSWORD=… docker compose --profile demo up   and the demo job
#
# Grafana is then at {grafana} (user admin), Prometheus at http://localhost:9090, Alertmanager at
# http://localhost:9093, reachable from this machine only. The targets are in {base}/prometheus/targets/jobs.yml.
services:
  prometheus:
    image: prom/prometheus:v3.5.0
    restart: unless-stopped
    command:
      - --config.file=/etc/prometheus/prometheus.yml
      - --storage.tsdb.path=/prometheus
      - --storage.tsdb.retention.time=30d
      # The base of links in alerts, those to the runbooks included, which Prometheus serves.
      - --web.external-url=http://localhost:9090
      - --web.console.templates=/etc/prometheus/runbooks
    ports: ["127.0.0.1:9090:9090"]
    # Lets containers reach jobs on this machine; targets/jobs.yml describes the address that a job must listen on.
    extra_hosts: ["host.docker.internal:host-gateway"]
    volumes:
      - {base}/prometheus/prometheus.yml:/etc/prometheus/prometheus.yml:ro
      - {base}/prometheus/rules:/etc/prometheus/rules:ro
      - {base}/prometheus/targets:/etc/prometheus/targets:ro
      - {base}/runbooks:/etc/prometheus/runbooks:ro
      - discovery:/etc/prometheus/sd:ro
      - prometheus:/prometheus
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:9090/-/ready"]
      interval: 10s
      timeout: 5s
      retries: 6
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]

  alertmanager:
    image: prom/alertmanager:v0.28.1
    restart: unless-stopped
    command:
      - --config.file=/etc/alertmanager/alertmanager.yml
      - --storage.path=/alertmanager
      - --web.external-url=http://localhost:9093
      - --cluster.listen-address=
    ports: ["127.0.0.1:9093:9093"]
    volumes:
      - {base}/alertmanager/alertmanager.yml:/etc/alertmanager/alertmanager.yml:ro
      - alertmanager:/alertmanager
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:9093/-/ready"]
      interval: 10s
      timeout: 5s
      retries: 6
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]

  grafana:
    image: grafana/grafana:12.1.1
    restart: unless-stopped
    environment:
      GF_SECURITY_ADMIN_PASSWORD: ${{GF_SECURITY_ADMIN_PASSWORD:?choose a password for Grafana}}
      GF_SERVER_ROOT_URL: {grafana}
      GF_AUTH_ANONYMOUS_ENABLED: "false"
      GF_USERS_ALLOW_SIGN_UP: "false"
      GF_ANALYTICS_REPORTING_ENABLED: "false"
      GF_ANALYTICS_CHECK_FOR_UPDATES: "false"
      GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES: "false"
      GF_PLUGINS_PREINSTALL_DISABLED: "true"
      GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH: /etc/grafana/jitwatch/jitwatch-fleet.json
    ports: ["127.0.0.1:3000:3000"]
    depends_on: [prometheus]
    volumes:
      - {base}/grafana/provisioning/datasources:/etc/grafana/provisioning/datasources:ro
      - {base}/grafana/provisioning/dashboards:/etc/grafana/provisioning/dashboards:ro
      - {base}/grafana/dashboards:/etc/grafana/jitwatch:ro
      - grafana:/var/lib/grafana
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:3000/api/health"]
      interval: 10s
      timeout: 5s
      retries: 12
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]

  # A small training job with an example of each pitfall. Prometheus discovers it by the entry that it writes
  # to the volume `discovery`, as with JITWATCH_SD_DIR in a cluster.
  demo:
    profiles: [demo]
    build:
      context: .
      dockerfile: {dockerfile}
      args: {{SOURCE: "{source}"}}
    hostname: demo
    command: [python, /demo/job.py]
    # Like Ctrl-C: the job ends normally and removes its entry.
    stop_signal: SIGINT
    stop_grace_period: 30s
    environment:
      JITWATCH_HOST: 0.0.0.0 # of the container, which publishes no port
      JITWATCH_RUN: demo
      JITWATCH_SD_DIR: /discovery
      JAX_PLATFORMS: cpu
    volumes:
      - {base}/demo/job.py:/demo/job.py:ro
      - discovery:/discovery
    healthcheck:
      test: ["CMD", "python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:10431/healthz')"]
      interval: 10s
      timeout: 5s
      retries: 6
    read_only: true
    tmpfs: [/tmp]
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]

volumes:
  prometheus:
  alertmanager:
  grafana:
  # In memory, and of the user of the demo's image, which is not root.
  discovery:
    driver_opts: {{type: tmpfs, device: tmpfs, o: "size=1m,mode=755,uid=10431,gid=10431"}}
"""


def for_checkout() -> str:
    """The file at the top of the repository; the demo's image is built from there."""
    return _TEXT.format(
        heading="Generated by dashboards/source/generate.py from compose.py; edit that.",
        base="./dashboards",
        dockerfile="dashboards/demo/Dockerfile",
        source=".",
        grafana=GRAFANA_URL,
    )


def for_wheel() -> str:
    """The file in `dashboards/`, which `jitwatch dashboards` writes; the demo's image is built from the package."""
    return _TEXT.format(
        heading="The jitwatch stack, written by `jitwatch dashboards`. You can edit the files in this folder.",
        base=".",
        dockerfile="demo/Dockerfile",
        source="jitwatch",
        grafana=GRAFANA_URL,
    )
