#!/usr/bin/env python3
"""Builds the sdist and the wheel into a folder, and checks all that can be checked without installing them.

    .ci/artifacts.py [DIR]     DIR is dist/ by default; the files in it are replaced

Two builds from different folders, with a different umask, times, modes and leftovers, are equal byte for byte; the
first wheel is built from the sdist, the second one from a checkout.

It needs `python -m pip install -r .ci/requirements.txt` and `python -m pip install --no-deps cffconvert==2.0.0`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: What setuptools adds to an sdist.
GENERATED = re.compile(r"PKG-INFO|setup\.cfg|jitwatch\.egg-info/.*")
DAY_S = 86_400
EARLIEST, OTHER_TIME = 315_532_800, 1_700_000_000
#: Prints each file that `jitwatch dashboards` writes, with its hash.
DASHBOARDS = """
import hashlib, json
from jitwatch.cli.dashboards import contents
texts = contents([], "https://grafana.example.org", "https://wiki.example.org")
print(json.dumps({name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}))
"""


def main() -> int:
    """Build, check, and print what was found."""
    dist = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve()
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        built = build_twice(dist, Path(folder))
    sdist, wheel = sorted(built, key=lambda path: path.suffix)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    run(sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel))
    check_sdist(sdist)
    check_wheel(wheel)
    check_sbom(wheel, project)
    check_citation()
    check_recipe(project)
    for path in (sdist, wheel):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}  {path.stat().st_size:,} bytes")
    return 0


def run(*command: str, cwd: Path = ROOT, env: dict[str, str] | None = None, umask: int = 0o022) -> str:
    """Run a command and return its output; a failure ends this program with it."""
    environ = {**os.environ, **(env or {})}
    done = subprocess.run(command, check=False, cwd=cwd, env=environ, capture_output=True, text=True, umask=umask)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def expect(what: str, expected: Any, found: Any) -> None:
    """End this program unless both are equal; of sets, show the difference."""
    if expected != found:
        if isinstance(expected, set | dict):
            expected, found = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        sys.exit(f"{what}:\n  expected {expected}\n  found    {found}")


def tracked() -> set[str]:
    """Files of the checkout that git knows: `git add` a new one."""
    return set(run("git", "ls-files", "-z").split("\0")) - {""}


def build_twice(dist: Path, folder: Path) -> list[Path]:
    """Build into `dist` and, in other circumstances, into a temporary folder; return the archives in `dist`."""
    build = (sys.executable, "-m", "build", "--no-isolation")
    environ = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    os.environ.clear()
    os.environ.update(environ)
    run(*build, "--outdir", str(dist), ".")
    archives = sorted(dist.iterdir())

    other, copy = folder / "other", folder / "elsewhere" / "a checkout"
    for number, name in enumerate(sorted(tracked(), reverse=True)):
        path = copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, path)
        path.chmod(0o600 | stat.S_IMODE((ROOT / name).stat().st_mode) & 0o100)
        os.utime(path, (OTHER_TIME + number, OTHER_TIME - number * DAY_S))
    # What earlier builds left.
    for name in ("build/lib/jitwatch/removed.py", "build/lib/jitwatch/dashboards/demo/removed.py", "removed.txt"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).touch()
    (copy / "jitwatch.egg-info").mkdir()
    (copy / "jitwatch.egg-info" / "SOURCES.txt").write_text("removed.txt\n", encoding="utf-8")
    environ = {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "7", "HOME": str(folder)}
    run(*build, "--sdist", "--wheel", "--outdir", str(other), ".", cwd=copy, env=environ, umask=0o077)
    expect("archives of two builds", [path.name for path in archives], sorted(os.listdir(other)))
    for path in archives:
        first, second = (hashlib.sha256(one.read_bytes()).hexdigest() for one in (path, other / path.name))
        expect(f"two builds of {path.name}", first, second)

    dated = folder / "dated"
    run(*build, "--outdir", str(dated), ".", env={"SOURCE_DATE_EPOCH": str(EARLIEST + DAY_S)})
    with zipfile.ZipFile(next(dated.glob("*.whl"))) as wheel, tarfile.open(next(dated.glob("*.gz"))) as sdist:
        expect("SOURCE_DATE_EPOCH of the wheel", {(1980, 1, 2, 0, 0, 0)}, {one.date_time for one in wheel.infolist()})
        expect("SOURCE_DATE_EPOCH of the sdist", {EARLIEST + DAY_S}, {int(one.mtime) for one in sdist})
    return archives


def check_sdist(path: Path) -> None:
    """It has the files of the checkout and what setuptools adds, and they belong to nobody."""
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    names = {one.name.partition("/")[2] for one in members if one.isfile()}
    expect("files of the sdist", tracked(), {name for name in names if not GENERATED.fullmatch(name)})
    expect("owners in the sdist", {(0, 0, "", "")}, {(one.uid, one.gid, one.uname, one.gname) for one in members})


def check_wheel(path: Path) -> None:
    """It has the package, its metadata and the dashboards for users, and can be imported without being unpacked."""
    info = f"{'-'.join(path.name.split('-')[:2])}.dist-info/"
    with zipfile.ZipFile(path) as archive:
        names = {one for one in archive.namelist() if not one.startswith("jitwatch/dashboards/")}
    package = {name for name in tracked() if name.startswith("jitwatch/")}
    metadata = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
    expect("tag of the wheel", "py3-none-any", path.stem.partition("-")[2].partition("-")[2])
    expect("files of the wheel", package | {info + one for one in metadata | {"sboms/jitwatch.cdx.json"}}, names)
    written = [
        json.loads(run(sys.executable, "-P", "-c", DASHBOARDS, cwd=path.parent, env={"PYTHONPATH": str(one)}))
        for one in (ROOT, path)
    ]
    expect("dashboards of the wheel", *written)


def check_sbom(path: Path, project: dict[str, Any]) -> None:
    """The SBOM is valid, and names the package and each of its dependencies."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    with zipfile.ZipFile(path) as archive:
        text = archive.read(next(one for one in archive.namelist() if one.endswith(".cdx.json"))).decode()
    expect("errors of the SBOM", None, JsonStrictValidator(SchemaVersion.V1_6).validate_str(text))
    sbom = json.loads(text)
    component = sbom["metadata"]["component"]
    expect("name in the SBOM", project["name"], component["name"])
    expect("version in the SBOM", path.name.split("-")[1], component["version"])
    requirements = {one["properties"][0]["value"] for one in sbom["components"]}
    expect("components of the SBOM", set(project["dependencies"]), requirements)


def check_citation() -> None:
    """CITATION.cff is valid by the schema that cffconvert has."""
    import importlib.metadata

    import jsonschema
    import yaml

    files = importlib.metadata.files("cffconvert") or []
    schema = json.loads(next(one for one in files if str(one).endswith("1.2.0/schema.json")).read_text())
    citation = yaml.load((ROOT / "CITATION.cff").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    errors = [one.message for one in jsonschema.Draft7Validator(schema).iter_errors(citation)]
    expect("errors of CITATION.cff", [], errors)


def check_recipe(project: dict[str, Any]) -> None:
    """rattler-build reads and renders the recipe."""
    import rattler_build

    (variant,) = rattler_build.Stage0Recipe.from_file(ROOT / "conda" / "recipe.yaml").render()
    expect("name in the recipe", project["name"], variant.recipe.package.name)


if __name__ == "__main__":
    sys.exit(main())
