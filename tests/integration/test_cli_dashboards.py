"""`jitwatch dashboards`: what it writes works, and it never takes anything away from who has changed it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from dashboards.source.generate import FOLDER
from jitwatch.cli import dashboards, main
from tests.integration.conftest import need

ROOT = FOLDER.parent


def written(folder):
    """Names of all files in a folder."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def test_dashboards_writes_all_that_the_stack_mounts(tmp_path, capsys):
    """Each path that the compose file mounts or builds from is there; nothing of how it is made is."""
    folder = tmp_path / "new" / "stack"

    assert 0 == main(["dashboards", str(folder)])
    compose = yaml.safe_load((folder / "docker-compose.yml").read_text())
    sources = [
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service["volumes"]
        if volume.startswith("./")
    ]

    assert len(sources) >= 9
    assert [] == [
        path for path in [*sources, compose["services"]["demo"]["build"]["dockerfile"]] if not (folder / path).exists()
    ]
    names = written(folder)
    assert 3 == len([name for name in names if name.startswith("grafana/dashboards/")])
    assert [] == [name for name in names if name.startswith(("source/", "prometheus/tests/")) or "/." in name]
    out = capsys.readouterr().out
    assert f"Wrote {len(names)} files to {folder}." in out
    assert "GF_SECURITY_ADMIN_PASSWORD=… docker compose up" in out


def test_package_data_names_every_file_that_is_written():
    """What the command finds in a checkout is in the wheel too: the patterns of setup.py leave nothing out."""
    found: dict[str, dict[str, list[str]]] = {}
    text = (ROOT / "setup.py").read_text()
    exec(
        text.replace(
            "from setuptools import find_packages, setup", "setup = found.update; find_packages = lambda **k: []"
        ),
        {"found": found},
    )
    patterns = found["package_data"]["jitwatch.dashboards"]
    matched = {
        path.relative_to(FOLDER).as_posix() for pattern in patterns for path in FOLDER.glob(pattern) if path.is_file()
    }
    matched = {name for name in matched if "__pycache__" not in name and "/." not in name}

    assert matched == set(dashboards.contents([], dashboards._GRAFANA, dashboards._RUNBOOKS))


def test_dashboards_with_targets_and_addresses_puts_them_in(tmp_path):
    """Targets with their runs, and links that lead to the user's Grafana and wiki."""
    options = ["--target", "node7:10431=run-1", "--target", "[fe80::1]:9000"]
    links = ["--grafana", "https://grafana.example.org/", "--runbooks", "https://wiki.example.org/jitwatch"]

    assert 0 == main(["dashboards", str(tmp_path), *options, *links])

    assert [
        {"targets": ["node7:10431"], "labels": {"run": "run-1"}},
        {"targets": ["[fe80::1]:9000"], "labels": {"run": "default"}},
    ] == yaml.safe_load((tmp_path / "prometheus/targets/jobs.yml").read_text())
    rules = yaml.safe_load((tmp_path / "prometheus/rules/jitwatch.yml").read_text())
    assert rules == yaml.safe_load((tmp_path / "kubernetes/prometheusrule.yml").read_text())["spec"]
    for rule in [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]:
        assert rule["annotations"]["dashboard_url"].startswith("https://grafana.example.org/d/jitwatch-")
        assert f"https://wiki.example.org/jitwatch/{rule['alert']}.md" == rule["annotations"]["runbook_url"]
    assert "localhost:3000" not in (tmp_path / "prometheus/rules/jitwatch.yml").read_text()


def test_dashboards_writes_to_an_empty_folder_only(tmp_path, capsys):
    """What is there is not touched without --force, which replaces files of the same names and keeps the others."""
    compose, notes = tmp_path / "docker-compose.yml", tmp_path / "notes.md"
    compose.write_text("services: {}\n")
    notes.write_text("mine\n")

    assert 1 == main(["dashboards", str(tmp_path)])
    assert f"{tmp_path} is not empty; nothing was written. Name an empty folder, or use --force" in (
        capsys.readouterr().err
    )
    assert ["docker-compose.yml", "notes.md"] == written(tmp_path)
    assert "services: {}\n" == compose.read_text()

    assert 0 == main(["dashboards", str(tmp_path), "--force"])
    assert ("grafana:" in compose.read_text(), "mine\n") == (True, notes.read_text())
    assert 0 == main(["dashboards", str(tmp_path), "--force", "--target", "node7:10431=run-1"])
    assert "node7:10431" in (tmp_path / "prometheus/targets/jobs.yml").read_text()


def test_runbooks_of_boards_are_where_the_user_says(tmp_path):
    """The table of firing alerts links to them."""
    boards = [
        path.read_text()
        for name, options in (("as-it-is", []), ("elsewhere", ["--runbooks", "https://wiki.example.org/jitwatch"]))
        if main(["dashboards", str(tmp_path / name), *options]) == 0
        for path in [tmp_path / name / "grafana/dashboards/jitwatch-job.json"]
    ]
    assert "http://localhost:9090/consoles/${__data.fields.Alert}.md" in boards[0]
    assert "https://wiki.example.org/jitwatch/${__data.fields.Alert}.md" in boards[1]
    assert "localhost:9090" not in boards[1]


def test_exported_boards_ask_for_the_data_source(tmp_path):
    """As Grafana's own export for sharing: each input is used, and nothing refers to a variable that is gone."""
    assert 0 == main(["dashboards", str(tmp_path), "--export"])
    for uid in ("jitwatch-fleet", "jitwatch-job", "jitwatch-function"):
        text = (tmp_path / f"grafana/export/{uid}.json").read_text()
        board, plain = json.loads(text), json.loads((tmp_path / f"grafana/dashboards/{uid}.json").read_text())

        assert [("DS_PROMETHEUS", "prometheus")] == [(one["name"], one["pluginId"]) for one in board["__inputs"]]
        assert {"grafana", "prometheus", "stat", "table", "timeseries"} <= {one["id"] for one in board["__requires"]}
        assert "${DS_PROMETHEUS}" in text
        assert "${datasource" not in text
        assert "datasource" not in [one["name"] for one in board["templating"]["list"]]
        assert [one["title"] for one in plain["panels"]] == [one["title"] for one in board["panels"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "node7"], "expected HOST:PORT or HOST:PORT=RUN, got 'node7'"),
        (["--target", "http://node7:1"], "expected HOST:PORT"),
        (["--target", "a b:1"], "expected HOST:PORT"),
        (["--target", "node7:99999"], "expected HOST:PORT or HOST:PORT=RUN, got 'node7:99999'"),
        (["--grafana", "grafana.example.org"], "expected a URL that begins with http"),
        (["--runbooks", 'https://a"b'], "expected a URL that begins with http"),
    ],
)
def test_dashboards_with_a_bad_option_says_what_was_expected(tmp_path, capsys, options, message):
    """Nothing is written then."""
    with pytest.raises(SystemExit) as ended:
        main(["dashboards", str(tmp_path / "stack"), *options])
    assert 2 == ended.value.code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "stack").exists()


def test_dashboards_into_a_folder_that_cannot_be_written_says_so(capsys):
    """One line, exit code 1."""
    assert 1 == main(["dashboards", "/proc/stack"])
    assert "jitwatch: /proc/stack cannot be written" in capsys.readouterr().err


def test_dashboards_into_a_file_says_so(tmp_path, capsys):
    """And leaves it as it is."""
    (tmp_path / "notes.yml").write_text("mine\n")
    assert 1 == main(["dashboards", str(tmp_path / "notes.yml")])
    assert "notes.yml is a file; name a folder" in capsys.readouterr().err
    assert "mine\n" == (tmp_path / "notes.yml").read_text()


def test_dashboards_help_shows_examples(capsys):
    """The placeholders can be found without the README."""
    with pytest.raises(SystemExit):
        main(["dashboards", "--help"])
    out = capsys.readouterr().out
    assert "--target node7:10431=run-4711" in out
    assert "--grafana" in out
    assert "--runbooks" in out


@pytest.mark.server
def test_written_configuration_is_accepted(tmp_path):
    """promtool reads what the command wrote, with the user's targets."""
    promtool = need("promtool", package="prometheus")
    assert 0 == main(["dashboards", str(tmp_path), "--target", "node7:10431=r"])

    done = subprocess.run(
        [promtool, "check", "config", "prometheus.yml"],
        cwd=tmp_path / "prometheus",
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert 0 == done.returncode, done.stdout + done.stderr


def compose_config(folder, **environment):
    """What docker-compose makes of the file in a folder."""
    done = subprocess.run(
        [need("docker-compose"), "--profile", "demo", "config"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
    )
    return done.returncode, done.stdout, done.stderr


def listened_on(port):
    """The address of a published port: version 1 of docker-compose prints them in the short form, 2 in the long one."""
    return port["host_ip"] if isinstance(port, dict) else port.rsplit(":", 2)[0]


def mounted(volume):
    """Source of a volume or folder, and whether it can only be read, in either form."""
    if isinstance(volume, dict):
        return volume["source"], volume.get("read_only", False)
    source, _, mode = volume.split(":")
    return source, mode == "ro"


@pytest.mark.server
@pytest.mark.parametrize("place", ["checkout", "written"])
def test_compose_file_is_accepted_and_safe(tmp_path, place):
    """Debian's docker-compose reads it. Pinned images, loopback ports, read-only configuration, health checks."""
    folder = ROOT
    if place == "written":
        folder = tmp_path
        assert 0 == main(["dashboards", str(folder)])
    code, out, err = compose_config(folder, GF_SECURITY_ADMIN_PASSWORD="secret")
    assert 0 == code, err
    services = yaml.safe_load(out)["services"]

    assert {"prometheus", "alertmanager", "grafana", "demo"} == set(services)
    assert ["demo"] == services["demo"]["profiles"]
    for name, service in services.items():
        assert "healthcheck" in service
        assert ["ALL"] == service["cap_drop"]
        if name != "demo":
            assert service["image"].rpartition(":")[2] not in ("latest", "")
            assert any(character.isdigit() for character in service["image"].rpartition(":")[2])
        assert {"127.0.0.1"} >= {listened_on(port) for port in service.get("ports", ())}
        for source, is_read_only in map(mounted, service["volumes"]):
            assert is_read_only or not source.startswith("/")
            assert not source.startswith("/") or Path(source).exists()
    assert "false" == services["grafana"]["environment"]["GF_AUTH_ANONYMOUS_ENABLED"]


@pytest.mark.server
def test_compose_without_a_password_refuses():
    """There is no default password."""
    code, _, err = compose_config(ROOT)
    assert 0 != code
    assert "choose a password for Grafana" in err


def test_grafana_and_prometheus_agree_on_the_interval():
    """The data source's interval is Prometheus's, and what the boards reckon with."""
    from dashboards.source.settings import SCRAPE_INTERVAL_S

    source = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/jitwatch.yml").read_text())["datasources"][0]
    prometheus = yaml.safe_load((FOLDER / "prometheus/prometheus.yml").read_text())

    assert f"{SCRAPE_INTERVAL_S}s" == source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    provider = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/jitwatch.yml").read_text())["providers"][0]
    mounts = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]["volumes"]
    assert f"./dashboards/grafana/dashboards:{provider['options']['path']}:ro" in mounts


@pytest.mark.parametrize("planted", ["docker-compose.yml", "prometheus/rules/jitwatch.yml"])
@pytest.mark.parametrize("kind", ["symlink", "hardlink", "fifo"])
def test_dashboards_writes_through_nothing_that_somebody_planted(tmp_path, capsys, planted, kind, monkeypatch):
    """In a folder where everybody writes; a pipe does not hold it up either."""
    victim, folder = tmp_path / "victim", tmp_path / "stack"
    victim.write_text("precious")
    path = folder / planted
    path.parent.mkdir(parents=True)
    {
        "symlink": lambda: path.symlink_to(victim),
        "hardlink": lambda: path.hardlink_to(victim),
        "fifo": lambda: os.mkfifo(path),
    }[kind]()
    monkeypatch.setattr(dashboards.files, "is_trusted", lambda uid: False)

    assert 0 <= main(["dashboards", str(folder), "--force"])

    assert "precious" == victim.read_text()


def test_dashboards_writes_into_no_folder_that_somebody_linked(tmp_path, capsys, monkeypatch):
    """Not even a folder is made there."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "stack"
    elsewhere.mkdir()
    folder.mkdir()
    (folder / "prometheus").symlink_to(elsewhere)
    monkeypatch.setattr(dashboards.files, "is_trusted", lambda uid: False)

    assert 1 == main(["dashboards", str(folder), "--force"])
    assert [] == list(elsewhere.iterdir())
    assert "is a link of user" in capsys.readouterr().err


def test_dashboards_follows_a_link_of_the_users_own(tmp_path):
    """Who keeps the targets elsewhere."""
    folder, elsewhere = tmp_path / "stack", tmp_path / "jobs.yml"
    assert 0 == main(["dashboards", str(folder)])
    jobs = folder / "prometheus/targets/jobs.yml"
    jobs.rename(elsewhere)
    jobs.symlink_to(elsewhere)

    assert 0 == main(["dashboards", str(folder), "--force", "--target", "node7:10431"])
    assert (True, True) == (jobs.is_symlink(), "node7:10431" in elsewhere.read_text())
