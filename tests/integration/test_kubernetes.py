"""What is applied to a cluster: kustomization, Helm chart, Job and JobSet, by the programs that read them.

No cluster is needed: kustomize and Helm render, schemas validate what they rendered, and the processes of the jobs
are started here with the environment that their manifests say.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from dashboards.source.generate import BOARDS, FOLDER
from jitwatch._version import __version__
from jitwatch.cli import main
from tests.integration.conftest import free_port, need, node_packages

pytestmark = pytest.mark.server

EXAMPLES = FOLDER / "examples"
NAMES = {
    ("PodMonitor", "jitwatch"),
    ("PrometheusRule", "jitwatch"),
    *(("ConfigMap", board.uid) for board in BOARDS),
}
#: What a cluster stores in one object, in etcd, and in the Secret of a Helm release.
MAX_OBJECT_BYTES = 1 << 20
#: Reads manifests and holds each against the schema of its kind.
VALIDATE = """
import { readFileSync } from "node:fs";
import { loadAll } from "js-yaml";
import * as operator from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import * as batch from "kubernetes-models/batch/v1";
import * as core from "kubernetes-models/v1";
import * as networking from "kubernetes-models/networking.k8s.io/v1";
const kinds = { ...core, ...batch, ...networking, ...operator };
for (const path of process.argv.slice(2))
  for (const found of loadAll(readFileSync(path, "utf8")).filter((one) => one)) {
    new kinds[found.kind](found).validate();
    console.log(found.kind);
  }
"""
#: Go modules with definitions of custom resources, and the files in them.
DEFINITIONS = {
    "sigs.k8s.io/jobset@v0.10.1": ["config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml"],
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": [
        f"example/prometheus-operator-crd/monitoring.coreos.com_{name}.yaml"
        for name in ("podmonitors", "prometheusrules")
    ],
}


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Standard output of a program that must succeed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert 0 == done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def objects(text: str) -> dict[tuple[str, str], dict]:
    """The objects of a manifest by kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.load_all(text, yaml.CSafeLoader) if one}


def content(one: dict) -> dict:
    """What an object says, without its metadata."""
    return {name: value for name, value in one.items() if name != "metadata"}


@pytest.fixture(scope="module")
def validate(tmp_path_factory):
    """Validates manifests; returns exit code and output."""
    folder = tmp_path_factory.mktemp("kubernetes")
    node = node_packages(
        folder, "@kubernetes-models/prometheus-operator@6.0.0", "kubernetes-models@5.1.0", "js-yaml@4.1.0"
    )
    (folder / "validate.mjs").write_text(VALIDATE)

    def call(*paths: Path) -> tuple[int, str]:
        done = subprocess.run([node, folder / "validate.mjs", *paths], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    return call


@pytest.fixture(scope="module")
def schemas(tmp_path_factory):
    """The schemas that the API server has, by kind, without unknown fields; that of a JobSet contains that of a Job."""
    go = need("go", "golang-go")
    cache = tmp_path_factory.mktemp("go")
    done = subprocess.run(
        [go, "mod", "download", "-modcacherw", "-json", *DEFINITIONS],
        cwd=cache,
        env={**os.environ, "GOPATH": str(cache), "GOMODCACHE": str(cache / "modules"), "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    if done.returncode != 0:
        pytest.skip(f"go cannot download {', '.join(DEFINITIONS)} here: {done.stdout}{done.stderr}")
    found = {}
    for module, names in DEFINITIONS.items():
        path, version = module.split("@")
        for name in names:
            text = (cache / "modules" / f"{path}@{version}" / name).read_text()
            definition = yaml.load(text, yaml.CSafeLoader)["spec"]
            (served,) = definition["versions"]
            found[definition["names"]["kind"]] = strict(served["schema"]["openAPIV3Schema"])
    jobs = found["JobSet"]["properties"]["spec"]["properties"]["replicatedJobs"]["items"]["properties"]
    found["Job"] = {
        **found["JobSet"],
        "properties": {**found["JobSet"]["properties"], "spec": jobs["template"]["properties"]["spec"]},
    }
    return found


def errors(schemas, one):
    """What is wrong with an object."""
    return [error.message for error in jsonschema.Draft7Validator(schemas[one["kind"]]).iter_errors(one)]


def strict(schema):
    """A schema that refuses unknown fields, where it names fields; with Kubernetes's type of a number or a text."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(value) for name, value in schema.items()}
    if found.pop("x-kubernetes-int-or-string", None) is True:
        found.pop("type", None)
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


@pytest.fixture(params=["checkout", "written"])
def folder(request, tmp_path):
    """The folder with the files: that of a checkout, and what `jitwatch dashboards` writes."""
    if request.param == "checkout":
        return FOLDER
    assert 0 == main(["dashboards", str(tmp_path / "monitoring")])
    return tmp_path / "monitoring"


class TestManifests:
    def test_are_valid_for_kubernetes_and_the_operator(self, validate):
        """Every object has the fields and types that its schema says."""
        paths = [
            *(FOLDER / "kubernetes").glob("*.yml"),
            *(path for path in (EXAMPLES / "kubernetes").glob("*.yml") if path.name != "jobset.yml"),
            EXAMPLES / "xpk" / "podmonitor.yml",
        ]
        code, output = validate(*sorted(paths))

        assert 0 == code, output
        assert ["Job", "NetworkPolicy", "PodMonitor", "PodMonitor", "PrometheusRule", "Service"] == sorted(
            output.split()
        )

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("endPort: 10430", 'endPort: "10430"', "endPort must be integer"),
            ("policyTypes: [Ingress]", "policyTypes: Ingress", "policyTypes must be array"),
        ],
    )
    def test_of_another_type_are_refused(self, validate, tmp_path, old, new, message):
        """The test above can fail."""
        text = (EXAMPLES / "kubernetes" / "networkpolicy.yml").read_text()
        assert old in text
        (tmp_path / "bad.yml").write_text(text.replace(old, new))

        code, output = validate(tmp_path / "bad.yml")

        assert 0 != code
        assert message in output

    @pytest.mark.parametrize(
        ("name", "changes"),
        [
            ("examples/kubernetes/jobset.yml", [("podIndex:", "podsIndex:"), ("replicas: 2", "replicas: two")]),
            ("examples/kubernetes/job.yml", [("completionMode:", "completionsMode:"), ("runAsUser: ", "runAsUser: u")]),
            ("kubernetes/podmonitor.yml", [("sampleLimit:", "samplesLimit:"), ("interval: 30s", "interval: 30")]),
            ("kubernetes/prometheusrule.yml", [("  for: ", "  fore: "), ("severity: warning", "severity: 1")]),
            ("examples/xpk/podmonitor.yml", [("credentials:", "credential:"), ("regex: jax-.*", "regex: [jax]")]),
        ],
    )
    def test_have_no_unknown_fields(self, schemas, name, changes):
        """By the definitions of their controllers. An unknown field and another type are refused."""
        text = (FOLDER / name).read_text()
        *_, one = yaml.safe_load_all(text)

        assert [] == errors(schemas, one)
        for old, new in changes:
            assert old in text
            *_, wrong = yaml.safe_load_all(text.replace(old, new))
            assert [] != errors(schemas, wrong), old


class TestKustomize:
    def test_base_has_monitor_rules_and_dashboards(self, folder, tmp_path, validate):
        """Every object is valid, small enough, and has what Grafana's sidecar looks for."""
        text = run(need("kustomize"), "build", folder)
        found = objects(text)
        (tmp_path / "all.yml").write_text(text)

        assert found.keys() == NAMES
        assert 0 == validate(tmp_path / "all.yml")[0]
        for board in BOARDS:
            one = found["ConfigMap", board.uid]
            assert "1" == one["metadata"]["labels"]["grafana_dashboard"]
            assert {f"{board.uid}.json": board.to_json()} == {
                name: json.loads(value) for name, value in one["data"].items()
            }
        assert max(len(json.dumps(one)) for one in found.values()) < MAX_OBJECT_BYTES

    def test_example_has_policy_job_and_its_program(self, folder):
        """The ConfigMap has train.py under the name that the Job mounts."""
        found = objects(run(need("kustomize"), "build", folder / "examples" / "kubernetes"))

        assert found.keys() == {
            ("ConfigMap", "train"), ("Job", "train"), ("Service", "train"), ("NetworkPolicy", "jitwatch")
        }  # fmt: skip
        assert ["train.py"] == list(found["ConfigMap", "train"]["data"])
        pod = found["Job", "train"]["spec"]["template"]["spec"]
        assert [{"name": "train"}] == [one["configMap"] for one in pod["volumes"] if "configMap" in one]

    def test_overlay_sets_namespace_and_labels(self, tmp_path):
        """As the documentation says: a kustomization that refers to the folder."""
        assert 0 == main(["dashboards", str(tmp_path / "monitoring")])
        (tmp_path / "mine").mkdir()
        overlay = {
            "resources": ["../monitoring"],
            "namespace": "monitoring",
            "labels": [{"pairs": {"release": "kube-prometheus-stack"}}],
        }
        (tmp_path / "mine" / "kustomization.yaml").write_text(yaml.safe_dump(overlay))

        found = objects(run(need("kustomize"), "build", tmp_path / "mine"))

        assert {"monitoring"} == {one["metadata"]["namespace"] for one in found.values()}
        assert {"kube-prometheus-stack"} == {one["metadata"]["labels"]["release"] for one in found.values()}


class TestHelm:
    @staticmethod
    def template(folder: Path, *options: str) -> dict[tuple[str, str], dict]:
        """What Helm renders."""
        return objects(run(need("helm"), "template", "jitwatch", folder, "--namespace", "monitoring", *options))

    def test_lint_is_content(self, folder):
        """Without a warning."""
        assert "0 chart(s) failed" in run(need("helm"), "lint", "--strict", folder)

    def test_chart_renders_what_kustomize_builds(self, folder, tmp_path, validate, schemas):
        """The same objects with the same content, in the namespace of the release, and valid."""
        found = self.template(folder)
        built = objects(run(need("kustomize"), "build", folder))
        (tmp_path / "all.yml").write_text(yaml.safe_dump_all(found.values()))

        assert {name: content(one) for name, one in built.items()} == {
            name: content(one) for name, one in found.items()
        }
        assert {"monitoring"} == {one["metadata"]["namespace"] for one in found.values()}
        assert {"1", None} == {one["metadata"]["labels"].get("grafana_dashboard") for one in found.values()}
        assert 0 == validate(tmp_path / "all.yml")[0]
        assert [] == [text for one in found.values() if one["kind"] in schemas for text in errors(schemas, one)]

    def test_rules_are_those_of_prometheus(self, tmp_path):
        """promtool accepts them, templates of annotations included."""
        spec = self.template(FOLDER)["PrometheusRule", "jitwatch"]["spec"]
        (tmp_path / "rules.yml").write_text(yaml.safe_dump(spec))

        assert yaml.safe_load((FOLDER / "prometheus" / "rules" / "jitwatch.yml").read_text()) == spec
        assert "SUCCESS" in run(need("promtool", "prometheus"), "check", "rules", tmp_path / "rules.yml")

    def test_values_do_what_they_say(self, tmp_path):
        """Parts, namespaces, labels, selectors, alerts."""
        values = {
            "labels": {"team": "ml"},
            "rules": {"namespace": "rules", "labels": {"release": "k"}, "disabled": ["JitwatchNoProgress"]},
            "dashboards": {"namespace": "grafana", "annotations": {"grafana_folder": "jax"}},
            "podMonitor": {
                "interval": "60s",
                "jobNamespaces": ["train", "tune"],
                "selector": {"matchLabels": {"app": "train"}},
            },
        }
        (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
        found = self.template(FOLDER, "--values", str(tmp_path / "values.yaml"))
        rules, monitor = found["PrometheusRule", "jitwatch"], found["PodMonitor", "jitwatch"]
        alerts = {rule.get("alert") for group in rules["spec"]["groups"] for rule in group["rules"]}

        assert {"ml"} == {one["metadata"]["labels"]["team"] for one in found.values()}
        assert ("rules", "k") == (rules["metadata"]["namespace"], rules["metadata"]["labels"]["release"])
        assert ("JitwatchNoProgress" in alerts, "JitwatchRecompileStorm" in alerts) == (False, True)
        board = found["ConfigMap", "jitwatch-job"]["metadata"]
        assert ("grafana", {"grafana_folder": "jax"}) == (board["namespace"], board["annotations"])
        assert {"matchNames": ["train", "tune"]} == monitor["spec"]["namespaceSelector"]
        assert {"matchLabels": {"app": "train"}} == monitor["spec"]["selector"]
        assert "60s" == monitor["spec"]["podMetricsEndpoints"][0]["interval"]

        only = self.template(FOLDER, "--set", "dashboards.enabled=false,podMonitor.enabled=false")
        assert [("PrometheusRule", "jitwatch")] == list(only)

    @pytest.mark.parametrize(
        "option",
        [
            "rules.disabled={JitwatchNothing}",
            "ruls.enabled=false",
            "podMonitor.interval=often",
            "dashboards.namespace=A b",
        ],
    )
    def test_wrong_value_is_refused(self, option):
        """By the schema of the values."""
        done = subprocess.run(
            [need("helm"), "template", "x", FOLDER, "--set", option], capture_output=True, text=True, timeout=60
        )
        assert 0 != done.returncode
        assert "values don't meet the specifications" in done.stderr

    def test_package_has_what_the_templates_read_only(self, folder, tmp_path):
        """Its version is that of jitwatch; nothing else of the folder is in it, and it renders the same."""
        run(need("helm"), "package", folder, "--destination", tmp_path)
        archive = tmp_path / f"jitwatch-{__version__}.tgz"
        names = {name.removeprefix("jitwatch/") for name in run(need("tar"), "tzf", archive).split()}

        assert {name.partition("/")[0] for name in names} == {
            "Chart.yaml", "values.yaml", "values.schema.json", "templates", "grafana", "kubernetes", "prometheus"
        }  # fmt: skip
        assert {name for name in names if name.startswith(("grafana", "kubernetes", "prometheus"))} == {
            *(f"grafana/dashboards/{board.uid}.json" for board in BOARDS),
            "kubernetes/podmonitor.yml",
            "prometheus/rules/jitwatch.yml",
        }
        assert self.template(folder) == self.template(archive)
        assert archive.stat().st_size < MAX_OBJECT_BYTES // 4


def job_processes() -> tuple[list[str], list[dict[str, str]]]:
    """The command of job.yml, and the environment of two of its pods."""
    _, job = yaml.safe_load_all((EXAMPLES / "kubernetes" / "job.yml").read_text())
    template = job["spec"]["template"]
    places = [{"batch.kubernetes.io/job-completion-index": str(index)} for index in range(2)]
    return _pods(template, places, NUM_PROCESSES="2")


def jobset_processes() -> tuple[list[str], list[dict[str, str]]]:
    """The command of jobset.yml, and the environment of its four pods."""
    (replicated,) = yaml.safe_load((EXAMPLES / "kubernetes" / "jobset.yml").read_text())["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    coordinator = "train-slice-0-0.train"
    places = [
        {"jobset.sigs.k8s.io/job-index": str(slice_), "jobset.sigs.k8s.io/coordinator": coordinator, "index": str(pod)}
        for slice_ in range(replicated["replicas"])
        for pod in range(job["completions"])
    ]
    command, found = _pods(job["template"], places)
    # The controller of indexed Jobs sets this one in every pod.
    return command, [one | {"JOB_COMPLETION_INDEX": at["index"]} for one, at in zip(found, places, strict=True)]


def _pods(template: dict, places: list[dict[str, str]], **changed: str) -> tuple[list[str], list[dict[str, str]]]:
    """Command and environments of the pods of a template, each with annotations of its own."""
    (container,) = template["spec"]["containers"]
    found = []
    for place in places:
        fields = {f"metadata.annotations['{name}']": value for name, value in place.items()}
        fields |= {f"metadata.labels['{name}']": value for name, value in template["metadata"]["labels"].items()}
        environment: dict[str, str] = {}
        for one in container["env"]:
            value = one["value"] if "value" in one else fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
            environment[one["name"]] = re.sub(r"\$\((\w+)\)", lambda match, env=environment: env[match[1]], value)
        found.append(environment | changed)
    return container["command"], found


def skypilot_processes() -> tuple[list[str], list[dict[str, str]]]:
    """The script of the task for SkyPilot, and the environment that it sets on two nodes."""
    task = yaml.safe_load((EXAMPLES / "skypilot" / "train.yaml").read_text())
    nodes = [
        {
            **task["envs"],
            "JITWATCH_EVENT_LOG": "./",
            "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1\n",
            "SKYPILOT_NUM_NODES": str(task["num_nodes"]),
            "SKYPILOT_NODE_RANK": str(rank),
        }
        for rank in range(task["num_nodes"])
    ]
    return ["bash", "-euc", task["run"]], nodes


@pytest.mark.parametrize("processes", [job_processes, jobset_processes, skypilot_processes])
def test_processes_of_an_example_train_together(tmp_path, processes):
    """Started here as the cluster starts them: they find each other, and their event logs have run and index."""
    command, environments = processes()
    program = EXAMPLES / "kubernetes" / "train.py"
    port = free_port()
    command = [part.replace("/job/train.py", str(program)).replace(":8476", f":{port}") for part in command]
    (tmp_path / "train.py").symlink_to(program)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("JITWATCH_")}
    started = []
    try:
        for environment in environments:
            if "JAX_COORDINATOR_ADDRESS" in environment:
                assert environment["JAX_COORDINATOR_ADDRESS"] in {"train-0.train:8476", "train-slice-0-0.train:8476"}
                environment["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{port}"
            here = {"JITWATCH_HOST": "127.0.0.1", "JITWATCH_PORT": "0", "JAX_PLATFORMS": "cpu", "STEPS": "20"}
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            started.append(
                subprocess.Popen(
                    command,
                    cwd=tmp_path,
                    env={**ours, **environment, **here, "PATH": path},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        outputs = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait(10)
    assert [0] * len(started) == [process.returncode for process in started], "\n".join(outputs)
    assert all(f"process {n} of {len(started)} is done" in text for n, text in enumerate(outputs)), "\n".join(outputs)
    assert {f"jitwatch-train-4711.p{n}.jsonl" for n in range(len(started))} == {
        path.name for path in tmp_path.glob("*.jsonl")
    }
