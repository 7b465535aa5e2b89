"""`jitwatch dashboards DIR`: writes dashboards, rules and the monitoring stack to a folder."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jitwatch
from jitwatch.cli.options import add_command
from jitwatch.errors import ConfigError
from jitwatch.system import files

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_DESCRIPTION = """Write the Grafana dashboards, the alert rules and their runbooks, and the configuration of Prometheus,
Alertmanager and Grafana to an empty folder, with a docker-compose.yml that runs them. The folder is also a
kustomization and a Helm chart for Kubernetes."""
_EPILOG = """examples:
  jitwatch dashboards stack                                     for a job on this machine
  jitwatch dashboards stack --target node7:10431=run-4711       for a job of the run 'run-4711' on another machine
  jitwatch dashboards stack --grafana https://grafana.example.org --runbooks https://wiki.example.org/jitwatch
  jitwatch dashboards stack --force --export                    replace it, with dashboards for import or sharing"""
_WROTE = """Wrote {number} files to {folder}. To run the stack:
  cd {folder} && GF_SECURITY_ADMIN_PASSWORD=… docker compose up
and open http://localhost:3000 (user admin). For an existing Prometheus and Grafana:
  rules       {folder}/prometheus/rules/jitwatch.yml
  dashboards  {folder}/grafana/dashboards
  runbooks    {folder}/runbooks
For Kubernetes, with the Prometheus operator (either of the two):
  kubectl apply --server-side -n monitoring -k {folder}
  helm install jitwatch {folder} --namespace monitoring
Slurm, Ray, SkyPilot, xpk, remote write: {folder}/examples/README.md"""
#: Addresses in the committed rules, to be replaced.
_GRAFANA = "http://localhost:3000"
_RUNBOOKS = "{{ $externalURL }}/consoles"
_TARGET = re.compile(r"^(?P<address>(?:\[[0-9A-Fa-f:.]+\]|[^\s:=/\[\]]+):\d{1,5})(?:=(?P<run>\S+))?$")
#: The same in links of boards, which do not know Prometheus's address.
_RUNBOOKS_IN_BOARDS = "http://localhost:9090/consoles"
_BOARDS = "grafana/dashboards/"
#: Not written: what the files are generated from, and their tests.
_EXCLUDED = ("source", "pictures", "tests", "__pycache__")


def add_to(parsers: Any) -> None:
    """Register the command."""
    text = "write Grafana dashboards, alert rules and a docker-compose.yml"
    parser = add_command(parsers, "dashboards", _dashboards, text, _DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder to write to; created if it does not exist")
    parser.add_argument(
        "--target",
        metavar="HOST:PORT[=RUN]",
        action="append",
        type=_target,
        help="address of a job as seen by Prometheus, and the name of its run; may be repeated (default: port 10431 of "
        "this machine, as seen from a container)",
    )
    parser.add_argument(
        "--grafana", metavar="URL", type=_url, help=f"address of Grafana in links (default: {_GRAFANA})"
    )
    parser.add_argument(
        "--runbooks", metavar="URL", type=_url, help="address of the runbooks in links (default: served by Prometheus)"
    )
    parser.add_argument(
        "--export",
        action="store_true",
        help="also write the dashboards for import or sharing, which ask for the data source, to grafana/export",
    )
    parser.add_argument(
        "--force", action="store_true", help="write to a folder that is not empty, and replace files in it"
    )


def _target(text: str) -> tuple[str, str]:
    found = _TARGET.match(text)
    if found is None or int(found["address"].rpartition(":")[2]) > 65535:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT or HOST:PORT=RUN, got {text!r}")
    return found["address"], found["run"] or "default"


def _url(text: str) -> str:
    if not re.match(r"^https?://[^\s\"{}]+$", text):
        raise argparse.ArgumentTypeError(f"expected a URL that begins with http:// or https://, got {text!r}")
    return text.rstrip("/")


def _dashboards(options: argparse.Namespace) -> int:
    folder: Path = options.folder
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder to write to")
    texts = contents(options.target or [], options.grafana or _GRAFANA, options.runbooks or _RUNBOOKS)
    if options.export:
        texts |= {f"grafana/export/{name}": text for name, text in exported(texts).items()}
    try:
        if not options.force and folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(
                f"{folder} is not empty; nothing was written. Name an empty folder, or use --force, which replaces "
                "files of the same names"
            )
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _write(folder, name, text)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if isinstance(error, files.UntrustedError):
            reason = f"{error.filename} {reason}"
        raise ConfigError(f"{folder} cannot be written ({reason}); name a writable folder") from None
    print(_WROTE.format(number=len(texts), folder=folder))
    return 0


def contents(targets: Sequence[tuple[str, str]], grafana: str, runbooks: str) -> dict[str, str]:
    """The text of each file by its path in the folder, with the given addresses."""
    # Lazy: slow to import, and no other command needs it. The package may be imported from a zip file.
    from importlib.resources import files as resources

    # In the package, or next to it in a checkout.
    folders: tuple[Traversable, ...] = (
        resources("jitwatch").joinpath("dashboards"),
        Path(jitwatch.__file__).parent.parent / "dashboards",
    )
    folder = next((one for one in folders if one.joinpath("grafana").is_dir()), None)
    if folder is None:
        raise ConfigError("the dashboards are missing from this installation; reinstall jitwatch")
    found = dict(sorted(_texts(folder)))
    for rules in ("prometheus/rules/jitwatch.yml", "kubernetes/prometheusrule.yml"):
        found[rules] = found[rules].replace(_GRAFANA, grafana).replace(_RUNBOOKS, runbooks)
    for board in [name for name in found if name.startswith(_BOARDS)]:
        found[board] = found[board].replace(
            _RUNBOOKS_IN_BOARDS, _RUNBOOKS_IN_BOARDS if runbooks == _RUNBOOKS else runbooks
        )
    found["docker-compose.yml"] = found["docker-compose.yml"].replace(_GRAFANA, grafana)
    if targets:
        heading = "# Jobs without a service discovery entry. Prometheus detects changes to this file by itself.\n"
        found["prometheus/targets/jobs.yml"] = heading + "".join(
            f"- targets: [{json.dumps(address)}]\n  labels:\n    run: {json.dumps(run)}\n" for address, run in targets
        )
    return found


def _texts(folder: Traversable, above: str = "") -> Iterator[tuple[str, str]]:
    """The files for users, by their path."""
    for one in folder.iterdir():
        # Other hidden files are for the tools of the project.
        is_hidden = one.name.startswith(".") and one.name != ".helmignore"
        if is_hidden or one.name in _EXCLUDED:
            continue
        if one.is_dir():
            yield from _texts(one, f"{above}{one.name}/")
        else:
            yield f"{above}{one.name}", one.read_text(encoding="utf-8")


def exported(texts: Mapping[str, str]) -> dict[str, str]:
    """The boards as Grafana exports them for sharing: who imports one chooses the data source."""
    found = {}
    for path, text in texts.items():
        if not path.startswith(_BOARDS):
            continue
        board = json.loads(text.replace("${datasource}", "${DS_PROMETHEUS}").replace("${datasource:queryparam}&", ""))
        board["templating"]["list"] = [one for one in board["templating"]["list"] if one["type"] != "datasource"]
        panels = [panel for one in board["panels"] for panel in (one, *one.get("panels", ()))]
        kinds = sorted({panel["type"] for panel in panels} - {"row"})
        found[path.removeprefix(_BOARDS)] = json.dumps(
            {
                "__inputs": [
                    {
                        "name": "DS_PROMETHEUS",
                        "label": "Prometheus",
                        "description": "The Prometheus that scrapes the jobs",
                        "type": "datasource",
                        "pluginId": "prometheus",
                        "pluginName": "Prometheus",
                    }
                ],
                "__requires": [
                    {"type": "grafana", "id": "grafana", "name": "Grafana", "version": "11.6.0"},
                    {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
                    *({"type": "panel", "id": kind, "name": kind, "version": ""} for kind in kinds),
                ],
                **board,
            },
            indent=2,
            ensure_ascii=False,
        )
    return found


def _write(folder: Path, name: str, text: str) -> None:
    """Write a file atomically. Symbolic links of other users are not followed, not even for folders."""
    path = folder / name
    for parent in path.relative_to(folder).parents:
        files.resolve(str(folder / parent))
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_named(str(path), text.encode(), is_durable=False)
