"""`jitwatch dashboards DIR`: boards, rules and the whole stack, ready to use."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jitwatch
from jitwatch.errors import ConfigError

_DESCRIPTION = """Write the Grafana boards, the rules and runbooks of the alerts, and the configuration of
Prometheus, Alertmanager and Grafana into a folder, with a docker-compose.yml that runs them. What was
written before is brought up to date; files that somebody changed since are left alone, unless --force says so,
and then a copy of each stays beside it."""
_EPILOG = """examples:
  jitwatch dashboards stack                                     for a job of this machine
  jitwatch dashboards stack --target node7:10431=run-4711       for a job elsewhere, of the run 'run-4711'
  jitwatch dashboards stack --grafana https://grafana.example.org --runbooks https://wiki.example.org/jitwatch"""
#: What stands in the rules until somebody says otherwise.
_GRAFANA = "http://localhost:3000"
_RUNBOOKS = "{{ $externalURL }}/consoles"
_TARGET = re.compile(r"^(?P<address>(?:\[[0-9A-Fa-f:.]+\]|[^\s:=/\[\]]+):\d{1,5})(?:=(?P<run>\S+))?$")
#: Remembers what was written, to tell it from what somebody changed.
_WRITTEN = ".jitwatch-written.json"
#: For the project itself: what the files are made from, and their tests.
_OWN = ("source", "preview", "pictures", "tests", "__pycache__")


def add_to(parsers: Any) -> None:
    """Register the command."""
    parser = parsers.add_parser(
        "dashboards",
        help="write Grafana boards, alert rules and the stack",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder to write into; made if it is missing")
    parser.add_argument(
        "--target",
        metavar="HOST:PORT[=RUN]",
        action="append",
        type=_target,
        help="a job to scrape, as Prometheus reaches it, and its run; may be given again (default: port 10431 of "
        "this machine, seen from a container)",
    )
    parser.add_argument(
        "--grafana", metavar="URL", type=_url, help=f"where Grafana is, for links (default: {_GRAFANA})"
    )
    parser.add_argument(
        "--runbooks", metavar="URL", type=_url, help="where the runbooks are, for links (default: served by Prometheus)"
    )
    parser.add_argument(
        "--force", action="store_true", help="overwrite files that were changed; each is kept as NAME.bak"
    )
    parser.set_defaults(call=_dashboards)


def _target(text: str) -> tuple[str, str]:
    found = _TARGET.match(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT or HOST:PORT=RUN, got {text!r}")
    return found["address"], found["run"] or "default"


def _url(text: str) -> str:
    if not re.match(r"^https?://[^\s\"{}]+$", text):
        raise argparse.ArgumentTypeError(f"expected an address that begins with http:// or https://, got {text!r}")
    return text.rstrip("/")


def source() -> Path:
    """The folder with the files: within the package, or beside it in a checkout."""
    package = Path(jitwatch.__file__).parent
    for folder in (package / "dashboards", package.parent / "dashboards"):
        if (folder / "grafana").is_dir():
            return folder
    raise ConfigError("the boards are missing from this installation; install jitwatch again")


def _dashboards(options: argparse.Namespace) -> int:
    files = contents(options.target or [], options.grafana or _GRAFANA, options.runbooks or _RUNBOOKS)
    folder: Path = options.folder
    changed = _changed(folder, files)
    if changed and not options.force:
        raise ConfigError(
            f"{folder} has files that were changed: {', '.join(changed[:5])}{' …' if len(changed) > 5 else ''}; "
            "nothing was written. --force overwrites them and keeps each as NAME.bak"
        )
    try:
        for name in changed:
            (folder / name).replace(folder / f"{name}.bak")
        written = {**files, _WRITTEN: json.dumps({name: _digest(text.encode()) for name, text in files.items()})}
        for name, text in written.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"{folder} cannot be written ({reason}); name a folder that can be") from None
    if changed:
        print(f"Kept what was changed: {', '.join(f'{name}.bak' for name in changed)}")
    print(f"{len(files)} files are in {folder}. To run the stack:")
    print(f"  cd {folder} && GF_SECURITY_ADMIN_PASSWORD=… docker compose up")
    print("and then http://localhost:3000 (user admin). For a Prometheus and Grafana that you have:")
    print(f"  rules       {folder / 'prometheus/rules/jitwatch.yml'}")
    print(f"  boards      {folder / 'grafana/dashboards'}")
    print(f"  runbooks    {folder / 'runbooks'}")
    print(f"  Kubernetes, Slurm, remote write: {folder / 'examples/README.md'}")
    return 0


def contents(targets: list[tuple[str, str]], grafana: str, runbooks: str) -> Mapping[str, str]:
    """Text of each file by its name in the folder, with the given places put in."""
    folder = source()
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        # Hidden files are for our own tools.
        if path.is_file() and not set(name.parts) & set(_OWN) and not path.name.startswith("."):
            found[name.as_posix()] = path.read_text(encoding="utf-8")
    for rules in ("prometheus/rules/jitwatch.yml", "examples/kubernetes/prometheusrule.yml"):
        found[rules] = found[rules].replace(_GRAFANA, grafana).replace(_RUNBOOKS, runbooks)
    found["docker-compose.yml"] = found["docker-compose.yml"].replace(_GRAFANA, grafana)
    if targets:
        heading = "# Jobs that do not announce themselves. Prometheus notices changes of this file by itself.\n"
        found["prometheus/targets/jobs.yml"] = heading + "".join(
            f"- targets: [{json.dumps(address)}]\n  labels:\n    run: {json.dumps(run)}\n" for address, run in targets
        )
    return found


def _changed(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Files that are neither as they would be now nor as this command wrote them before."""
    try:
        before = json.loads((folder / _WRITTEN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    return [name for name, text in files.items() if _differs(folder / name, {_digest(text.encode()), before.get(name)})]


def _differs(path: Path, known: set[str | None]) -> bool:
    try:
        return _digest(path.read_bytes()) not in known
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
