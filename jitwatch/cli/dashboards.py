"""`jitwatch dashboards DIR`: writes boards, rules and the monitoring stack to a folder."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jitwatch
from jitwatch.cli.options import add_command
from jitwatch.errors import ConfigError
from jitwatch.system import files

_DESCRIPTION = """Write the Grafana boards, the alert rules and their runbooks, and the configuration of Prometheus,
Alertmanager and Grafana to a folder, with a docker-compose.yml that runs them. A second call updates the files that the
first one wrote, and reuses its addresses where none are given. Files that were changed since are kept as they are,
unless --force is given; then a backup of each is kept."""
_EPILOG = """examples:
  jitwatch dashboards stack                                     for a job on this machine
  jitwatch dashboards stack --target node7:10431=run-4711       for a job of the run 'run-4711' on another machine
  jitwatch dashboards stack --grafana https://grafana.example.org --runbooks https://wiki.example.org/jitwatch"""
_WROTE = """Wrote {number} files to {folder}. To run the stack:
  cd {folder} && GF_SECURITY_ADMIN_PASSWORD=… docker compose up
and open http://localhost:3000 (user admin). For an existing Prometheus and Grafana:
  rules       {folder}/prometheus/rules/jitwatch.yml
  boards      {folder}/grafana/dashboards
  runbooks    {folder}/runbooks
  Kubernetes, Slurm, remote write: {folder}/examples/README.md"""
#: Addresses in the committed rules, to be replaced.
_GRAFANA = "http://localhost:3000"
_RUNBOOKS = "{{ $externalURL }}/consoles"
_TARGET = re.compile(r"^(?P<address>(?:\[[0-9A-Fa-f:.]+\]|[^\s:=/\[\]]+):\d{1,5})(?:=(?P<run>\S+))?$")
#: Records the digest of each written file, to detect changed ones.
_WRITTEN = ".jitwatch-written.json"
#: Not written: what the files are generated from, and their tests.
_EXCLUDED = ("source", "preview", "pictures", "tests", "__pycache__")


def add_to(parsers: Any) -> None:
    """Register the command."""
    text = "write Grafana boards, alert rules and a docker-compose.yml"
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
        "--force", action="store_true", help="overwrite files that were changed, and keep each as NAME.bak"
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
    last, written = _read_written(folder)
    targets = [list(target) for target in options.target or ()]
    given = {"target": targets, "grafana": options.grafana, "runbooks": options.runbooks}
    # A second call must not lose the job's address.
    settings = {name: value or last.get(name) or value for name, value in given.items()}
    texts = contents(settings["target"], settings["grafana"] or _GRAFANA, settings["runbooks"] or _RUNBOOKS)
    changed = [name for name, text in texts.items() if _differs(folder / name, {_digest(text), written.get(name)})]
    if changed and not options.force and not written:
        raise ConfigError(
            f"{folder} has files that jitwatch did not write: {_first_few(changed)}; nothing was written. Name another "
            "folder, or give --force, which keeps each as NAME.bak"
        )
    kept = [] if options.force else changed
    try:
        folder.mkdir(parents=True, exist_ok=True)
        backups = [_set_aside(folder / name) for name in changed if name not in kept]
        for name, text in texts.items():
            if name not in kept:
                _write(folder, name, text)
        digests = {name: written.get(name) if name in kept else _digest(text) for name, text in texts.items()}
        files.replace(str(folder / _WRITTEN), json.dumps({"options": settings, "files": digests}, indent=1).encode())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if isinstance(error, files.UntrustedError):
            reason = f"{error.filename} {reason}"
        raise ConfigError(f"{folder} cannot be written ({reason}); name a writable folder") from None
    if kept:
        advice = "--force overwrites them and keeps each as NAME.bak."
        print(f"Not overwritten, since they were changed: {_first_few(kept)}. {advice}")
    if backups:
        print(f"Backups of changed files: {', '.join(path.relative_to(folder).as_posix() for path in backups)}")
    if settings != given:
        print("Addresses that were not given are those of the last call.")
    print(_WROTE.format(number=len(texts), folder=folder))
    return 0


def contents(targets: list[list[str]], grafana: str, runbooks: str) -> Mapping[str, str]:
    """The text of each file by its path in the folder, with the given addresses."""
    package = Path(jitwatch.__file__).parent
    # In the package, or next to it in a checkout.
    folders = (package / "dashboards", package.parent / "dashboards")
    folder = next((one for one in folders if (one / "grafana").is_dir()), None)
    if folder is None:
        raise ConfigError("the boards are missing from this installation; install jitwatch again")
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        # Hidden files are for the tools of the project.
        if path.is_file() and not set(name.parts) & set(_EXCLUDED) and not path.name.startswith("."):
            found[name.as_posix()] = path.read_text(encoding="utf-8")
    for rules in ("prometheus/rules/jitwatch.yml", "examples/kubernetes/prometheusrule.yml"):
        found[rules] = found[rules].replace(_GRAFANA, grafana).replace(_RUNBOOKS, runbooks)
    found["docker-compose.yml"] = found["docker-compose.yml"].replace(_GRAFANA, grafana)
    if targets:
        heading = "# Jobs without a service discovery entry. Prometheus detects changes to this file by itself.\n"
        found["prometheus/targets/jobs.yml"] = heading + "".join(
            f"- targets: [{json.dumps(address)}]\n  labels:\n    run: {json.dumps(run)}\n" for address, run in targets
        )
    return found


def _read_written(folder: Path) -> tuple[dict[str, Any], dict[str, str | None]]:
    """What this command wrote to a folder before: the options, and the digest of each file."""
    try:
        path = folder / _WRITTEN
        # Only a regular file is read: a pipe would block.
        written = json.loads(path.read_text(encoding="utf-8") if path.is_file() else "")
        return dict(written["options"]), dict(written["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}, {}


def _write(folder: Path, name: str, text: str) -> None:
    """Write a file atomically. Symbolic links of other users are not followed, not even for folders."""
    path = folder / name
    for parent in path.relative_to(folder).parents:
        files.resolve(str(folder / parent))
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_named(str(path), text.encode(), is_durable=False)


def _set_aside(path: Path) -> Path:
    """Rename a file to a free backup name."""
    names = (f"{path.name}.bak{f'.{number}' if number else ''}" for number in itertools.count())
    free = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    return path.replace(free)


def _first_few(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}"


def _differs(path: Path, known: set[str | None]) -> bool:
    try:
        return (os.path.lexists(path) and not path.is_file()) or _digest(path.read_bytes()) not in known
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _digest(content: str | bytes) -> str:
    # Lazy: `--help` does not need it.
    import hashlib

    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
