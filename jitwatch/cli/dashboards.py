"""`jitwatch dashboards DIR`: boards, rules and the whole stack, ready to use."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jitwatch
from jitwatch.errors import ConfigError
from jitwatch.system import files

_DESCRIPTION = """Write the Grafana boards, the rules and runbooks of the alerts, and the configuration of
Prometheus, Alertmanager and Grafana into a folder, with a docker-compose.yml that runs them. Called
again it brings up to date what it wrote, with the addresses of the last time where none are given, and leaves
alone what somebody changed since, unless --force says so; then a copy of each stays beside it."""
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
    if found is None or int(found["address"].rpartition(":")[2]) > 65535:
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
    folder: Path = options.folder
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder to write into")
    before = _Written.read(folder)
    settings = _settings(options, before)
    texts = contents(
        [(address, run) for address, run in settings["target"]],
        settings["grafana"] or _GRAFANA,
        settings["runbooks"] or _RUNBOOKS,
    )
    changed = [name for name, text in texts.items() if _differs(folder / name, {_digest(text), before.files.get(name)})]
    if changed and not options.force and not before.files:
        raise ConfigError(
            f"{folder} has files that jitwatch did not write: {_some(changed)}; nothing was written. Name another "
            "folder, or give --force, which keeps each as NAME.bak"
        )
    kept = [] if options.force else changed
    try:
        folder.mkdir(parents=True, exist_ok=True)
        backups = [_set_aside(folder / name) for name in changed if name not in kept]
        for name, text in texts.items():
            if name not in kept:
                _write(folder, name, text)
        digests = {name: before.files.get(name) if name in kept else _digest(text) for name, text in texts.items()}
        _Written(settings, digests).write(folder)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if isinstance(error, files.UntrustedError):
            reason = f"{error.filename} {reason}"
        raise ConfigError(f"{folder} cannot be written ({reason}); name a folder that can be") from None
    if kept:
        print(
            f"Left alone, since they were changed: {_some(kept)}. --force overwrites them and keeps each as NAME.bak."
        )
    if backups:
        print(f"Kept what was changed: {', '.join(path.relative_to(folder).as_posix() for path in backups)}")
    if settings != _given(options):
        print("Addresses that were not given are as they were the last time.")
    print(f"{len(texts)} files are in {folder}. To run the stack:")
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


@dataclass(frozen=True, slots=True)
class _Written:
    """What this command wrote into a folder before: with which options, and the digest of each file."""

    settings: dict[str, Any]
    files: dict[str, str | None]

    @classmethod
    def read(cls, folder: Path) -> _Written:
        try:
            told = json.loads((folder / _WRITTEN).read_text(encoding="utf-8") if (folder / _WRITTEN).is_file() else "")
            return cls(dict(told["options"]), dict(told["files"]))
        except (OSError, ValueError, TypeError, KeyError):
            return cls({}, {})

    def write(self, folder: Path) -> None:
        text = json.dumps({"options": self.settings, "files": self.files}, indent=1)
        files.replace(str(folder / _WRITTEN), text.encode())


def _write(folder: Path, name: str, text: str) -> None:
    """Write one file whole; through no link that somebody else planted, be it a folder's."""
    path = folder / name
    for parent in path.relative_to(folder).parents:
        files.resolve(str(folder / parent))
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_named(str(path), text.encode(), is_durable=False)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    targets = [list(target) for target in options.target or ()]
    return {"target": targets, "grafana": options.grafana, "runbooks": options.runbooks}


def _settings(options: argparse.Namespace, before: _Written) -> dict[str, Any]:
    """What was given now, and otherwise the last time: a second call must not lose the job's address."""
    given = _given(options)
    return {name: value or before.settings.get(name) or value for name, value in given.items()}


def _set_aside(path: Path) -> Path:
    """Keep a file under a name that is free."""
    names = (f"{path.name}.bak{f'.{number}' if number else ''}" for number in itertools.count())
    free = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    return path.replace(free)


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}"


def _differs(path: Path, known: set[str | None]) -> bool:
    try:
        # A pipe would never end.
        return (os.path.lexists(path) and not path.is_file()) or _digest_of(path.read_bytes()) not in known
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _digest(text: str) -> str:
    return _digest_of(text.encode())


def _digest_of(content: bytes) -> str:
    # Imported here: `--help` has no use for it.
    import hashlib

    return hashlib.sha256(content).hexdigest()
