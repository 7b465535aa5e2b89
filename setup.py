"""What pyproject.toml cannot say: the folder `dashboards/` comes with the package as `jitwatch/dashboards/`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["jitwatch", "jitwatch.*"]), "jitwatch.dashboards"],
    package_dir={"jitwatch.dashboards": "dashboards"},
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
