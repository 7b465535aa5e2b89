"""What pyproject.toml cannot say: the folder `dashboards/` in the package, an SBOM in the wheel, reproducible archives.

An archive depends on the checkout, setuptools and zlib only: not on the umask, times, the order of files or what an
earlier build left. The time of each file is SOURCE_DATE_EPOCH, or 1980-01-01, the first that a wheel can have.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.sdist import sdist

_EPOCH = int(os.environ.setdefault("SOURCE_DATE_EPOCH", "315532800"))


class Wheel(bdist_wheel):
    """A wheel with an SBOM (PEP 770), without files that an earlier build left."""

    def run(self) -> None:
        """Build the wheel."""
        for folder in (self.get_finalized_command("build").build_lib, self.bdist_dir):
            shutil.rmtree(folder, ignore_errors=True)
        super().run()

    def write_wheelfile(self, wheelfile_base: str, *args: Any, **kwargs: Any) -> None:
        """Complete the folder `*.dist-info`, the last step before the archive is written."""
        super().write_wheelfile(wheelfile_base, *args, **kwargs)
        sboms = Path(wheelfile_base, "sboms")
        sboms.mkdir(exist_ok=True)
        text = json.dumps(_sbom(self.distribution), indent=2) + "\n"
        (sboms / "jitwatch.cdx.json").write_text(text, encoding="utf-8")
        for path in Path(self.bdist_dir).rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)


class SourceArchive(sdist):
    """An sdist with sorted members that belong to nobody."""

    def run(self) -> None:
        """Build the sdist."""
        # setuptools adds each file that this list of an earlier build has.
        Path(self.get_finalized_command("egg_info").egg_info, "SOURCES.txt").unlink(missing_ok=True)
        super().run()

    def make_archive(self, base_name: str, format: str, root_dir: Any = None, base_dir: Any = None, **_: Any) -> str:  # noqa: A002 - distutils' name
        """Write the folder of the release as .tar.gz."""
        path = f"{base_name}.tar.gz"
        with (
            open(path, "wb") as file,
            gzip.GzipFile("", "wb", compresslevel=9, fileobj=file, mtime=_EPOCH) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for one in sorted(Path(base_dir).rglob("*")):
                archive.add(one, recursive=False, filter=_anonymous)
        return path


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """A member without what differs between two checkouts."""
    is_executable = member.isdir() or member.mode & 0o100
    return member.replace(
        mtime=_EPOCH, mode=0o755 if is_executable else 0o644, uid=0, gid=0, uname="", gname="", deep=False
    )


def _sbom(distribution: Any) -> dict[str, Any]:
    """The package and its declared dependencies, as CycloneDX 1.6. Their versions are the choice of who installs it."""
    name, version = distribution.get_name(), distribution.get_version()
    own = f"pkg:pypi/{name}@{version}"
    needed = {re.split(r"[^\w.-]", one, maxsplit=1)[0]: one for one in sorted(distribution.install_requires)}
    references = {one: f"pkg:pypi/{one}" for one in needed}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "component": {
                "type": "library",
                "bom-ref": own,
                "name": name,
                "version": version,
                "description": distribution.get_description(),
                "licenses": [{"license": {"id": distribution.metadata.license_expression}}],
                "purl": own,
            },
        },
        "components": [
            {
                "type": "library",
                "bom-ref": reference,
                "name": one,
                "scope": "required",
                "purl": reference,
                "properties": [{"name": "jitwatch:requirement", "value": needed[one]}],
            }
            for one, reference in references.items()
        ],
        "dependencies": [{"ref": own, "dependsOn": list(references.values())}],
        # What the dependencies need is not listed.
        "compositions": [{"aggregate": "incomplete", "dependencies": list(references.values())}],
    }


setup(
    cmdclass={"bdist_wheel": Wheel, "sdist": SourceArchive},
    packages=[*find_packages(include=["jitwatch", "jitwatch.*"]), "jitwatch.dashboards"],
    package_dir={"jitwatch.dashboards": "dashboards"},
    # Only what is listed: with MANIFEST.in the default would add every file in a package.
    include_package_data=False,
    package_data={
        "jitwatch": ["py.typed", "cli/completions/*"],
        "jitwatch.report": ["*.css"],
        "jitwatch.server": ["page/*"],
        # Files for users: not what they are made from, nor their tests.
        "jitwatch.dashboards": [
            "docker-compose.yml",
            "grafana/**/*.json",
            "grafana/**/*.yml",
            "prometheus/*.yml",
            "prometheus/rules/*.yml",
            "prometheus/targets/*.yml",
            "alertmanager/*.yml",
            "runbooks/*.md",
            "demo/*",
            "command/*",
            "examples/**/*",
            # The folder as a kustomization and as a Helm chart.
            "kustomization.yaml",
            "kubernetes/*.yml",
            ".helmignore",
            "Chart.yaml",
            "values.yaml",
            "values.schema.json",
            "templates/*",
        ],
    },
)
