"""The files for containers and clusters: image files by their rules, and options, ports and labels that exist."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from dashboards.source.generate import FOLDER
from jitwatch import config
from jitwatch.cli import build_parser, run

ROOT = FOLDER.parent
IMAGES = sorted(FOLDER.glob("*/Dockerfile"))
EXAMPLES = sorted(path for path in (FOLDER / "examples").rglob("*") if path.is_file() and path.suffix != ".md")
#: Variables in examples that are switches, not options.
SWITCHES = {"JITWATCH_AUTOINSTALL": {"1"}}
PORT = config.OPTIONS["port"].default


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of an image file, each with its arguments in one line."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def problems(text: str) -> list[str]:
    """What breaks a rule in an image file."""
    found = []
    steps = instructions(text)
    by_name = dict(steps)
    defaults = dict(rest.partition("=")[::2] for name, rest in steps if name == "ARG" and "=" in rest)
    stages = {rest.split()[-1] for name, rest in steps if name == "FROM" and " AS " in rest}
    for name, rest in steps:
        if name == "FROM":
            image = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], rest.split()[0])
            if not re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", image):
                found.append(f"base image is not pinned: {image}")
        if name == "ADD":
            found.append("ADD instead of COPY")
        if name == "RUN" and re.search(r"\bsudo\b|\bchmod 777\b|curl[^|]*\|", rest):
            found.append(f"unsafe: {rest}")
        if name == "RUN" and "pip install" in rest and "--no-cache-dir" not in rest:
            found.append("pip leaves its cache")
        if name == "COPY" and "--from=" in rest and re.search(r"--from=(\w+)", rest)[1] not in stages:
            found.append(f"unknown stage: {rest}")
        if name in {"CMD", "ENTRYPOINT"} and not (rest.startswith("[") and isinstance(ast.literal_eval(rest), list)):
            found.append(f"{name} is not in exec form")
        if name in {"ENV", "ARG"} and re.search(r"(?i)token|password|secret", rest):
            found.append(f"secret: {rest}")
    last_stage = steps[max(index for index, (name, _) in enumerate(steps) if name == "FROM") :]
    user = dict(last_stage).get("USER", "0")
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user):
        found.append(f"user is not numeric, or is root: {user}")
    if any(name == "COPY" and "--from=" not in rest for name, rest in last_stage):
        found.append("the last stage has the build context")
    if "HEALTHCHECK" in by_name and " CMD [" not in f" {by_name['HEALTHCHECK']}":
        found.append("HEALTHCHECK is not in exec form")
    return found


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.parent.name)
def test_image_keeps_the_rules(path):
    """Pinned base, no root, small layers, exec form, no secrets."""
    assert [] == problems(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("python:3.12.11-slim-bookworm\n\n", "python:latest\n\n", "base image is not pinned: python:latest"),
        ("USER 10431:10431", "USER root", "user is not numeric, or is root: root"),
        ("USER 10431:10431", "", "user is not numeric, or is root: 0"),
        ("--no-cache-dir ", "", "pip leaves its cache"),
        ('CMD ["--help"]', "CMD --help", "CMD is not in exec form"),
        ("COPY --from=build /opt", "COPY /opt", "the last stage has the build context"),
        ("COPY . .", "ADD https://example.org/x .", "ADD instead of COPY"),
        ("RUN python", "RUN sudo python", "unsafe: sudo python"),
    ],
)
def test_broken_rule_is_found(old, new, problem):
    """The test above can fail."""
    text = (FOLDER / "command" / "Dockerfile").read_text(encoding="utf-8")
    assert old in text
    assert any(found.startswith(problem) for found in problems(text.replace(old, new)))


def test_both_images_have_the_same_base():
    """One base is downloaded and updated."""
    bases = {line for path in IMAGES for line in path.read_text().splitlines() if line.startswith("ARG BASE=")}
    assert (2, 1) == (len(IMAGES), len(bases))


def test_build_context_has_the_package_only():
    """A whitelist: no .git, no credentials, no virtual environment is sent to the builder."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()[-20:]
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == {
        "jitwatch", "dashboards", "pyproject.toml", "setup.py", "README.md", "LICENSE"
    }  # fmt: skip


def test_health_check_and_ports_are_those_of_the_agent():
    """The default port, wherever one is written."""
    texts = [path.read_text(encoding="utf-8") for path in (*IMAGES, *EXAMPLES)]
    ports = [port for text in texts for port in re.findall(r"(?:127\.0\.0\.1:|containerPort: |EXPOSE )(\d+)", text)]
    assert {str(PORT)} == set(ports)


def assignments(text: str) -> list[tuple[str, str]]:
    """Variables JITWATCH_* that a file sets: in shell, YAML, or as an entry of `env` of a container."""
    entries = re.findall(r"- name: (JITWATCH_\w+)\n\s*value: (.+)", text)
    shell = re.findall(r"(?:export |--env \"?|^ENV )(JITWATCH_\w+)=([^\s\"']+|\"[^\"]*\")", text, re.MULTILINE)
    mapping = re.findall(r"^\s+(JITWATCH_\w+): (.+)", text, re.MULTILINE)
    return [(name, value.strip().strip("\"'")) for name, value in (*entries, *shell, *mapping)]


@pytest.mark.parametrize("path", [*IMAGES, *EXAMPLES], ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_options_of_an_example_exist(path):
    """Every variable is an option, and every written value is valid for it."""
    text = path.read_text(encoding="utf-8")
    known = {option.variable: option for option in config.OPTIONS.values()}
    named = set(re.findall(r"\bJITWATCH_[A-Z_]+\b", text))
    assert named <= known.keys() | SWITCHES.keys()
    for name, value in assignments(text):
        if name in SWITCHES:
            assert value in SWITCHES[name]
        elif "$" not in value:
            known[name].parse(value)


def test_assignments_are_found():
    """In each syntax that the examples use; the tests above check something."""
    found = {name for path in EXAMPLES for name, _ in assignments(path.read_text(encoding="utf-8"))}
    assert {"JITWATCH_HOST", "JITWATCH_RUN", "JITWATCH_DETAIL", "JITWATCH_SD_DIR", "JITWATCH_TOKEN_FILE"} <= found
    assert [("JITWATCH_HOST", "0.0.0.0")] == assignments('    - name: JITWATCH_HOST\n      value: "0.0.0.0"\n')
    assert [("JITWATCH_DETAIL", "full")] == assignments("  JITWATCH_DETAIL: full\n")
    assert [("JITWATCH_RUN", "$workload")] == assignments('  --env "JITWATCH_RUN=$workload" \\\n')


def commands() -> list[tuple[str, list[str]]]:
    """Every `jitwatch …` in the examples."""
    found = []
    for path in EXAMPLES:
        text = path.read_text(encoding="utf-8")
        shell = re.findall(r"(?<![\w./-])jitwatch (?:run|top|report|dashboards) [^\n';&|]*", text)
        lists = re.findall(r'command: (\["jitwatch".*\])', text)
        found += [(path.name, shlex.split(line)[1:]) for line in shell]
        found += [(path.name, ast.literal_eval(line)[1:]) for line in lists]
    return found


def test_commands_of_examples_parse():
    """Command and options exist."""
    parser = build_parser()
    assert len(commands()) >= 5
    for name, (command, *arguments) in commands():
        own, job = run.split(arguments) if command == "run" else (arguments, [])
        assert [] == parser.parse_known_args([command, *own], argparse.Namespace(job=job))[1], name


def test_ray_calls_a_function_that_exists():
    """In a worker, with the variable that makes it wait for JAX; Ray imports it by its name."""
    runtime = yaml.safe_load((FOLDER / "examples" / "ray" / "runtime_env.yaml").read_text(encoding="utf-8"))
    module, _, function = runtime["worker_process_setup_hook"].rpartition(".")

    assert callable(getattr(importlib.import_module(module), function))
    assert {"pip", "worker_process_setup_hook", "env_vars"} == set(runtime)
    assert all(isinstance(value, str) for value in runtime["env_vars"].values())
    assert "1" == runtime["env_vars"]["JITWATCH_AUTOINSTALL"]


def _example(name: str) -> dict:
    *_, found = yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    return found


def _pod_templates() -> list[dict]:
    jobset = _example("examples/kubernetes/jobset.yml")["spec"]["replicatedJobs"][0]["template"]
    return [one["spec"]["template"] for one in (_example("examples/kubernetes/job.yml"), jobset)]


@pytest.mark.parametrize("pod", _pod_templates(), ids=["job", "jobset"])
def test_pod_monitor_selects_the_pods(pod):
    """The port by its name, the label that selects, and the label that names the run; the pod is not root."""
    monitor = _example("kubernetes/podmonitor.yml")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    (container,) = pod["spec"]["containers"]
    (port,) = container["ports"]
    (label,) = pod["metadata"]["labels"]
    sources = {one["targetLabel"]: one.get("sourceLabels") for one in endpoint["relabelings"]}

    assert (endpoint["port"], PORT) == (port["name"], port["containerPort"])
    assert label == monitor["selector"]["matchExpressions"][0]["key"]
    assert ["__meta_kubernetes_pod_label_" + label.replace("/", "_")] == sources["run"]
    assert {"job", "run", "host", "process_index"} == set(sources)
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    writable = [one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")]
    assert container["workingDir"] in writable


def test_service_gives_the_coordinator_its_name():
    """The name of pod 0 of the job, below the headless service."""
    service, job = yaml.safe_load_all((FOLDER / "examples/kubernetes/job.yml").read_text(encoding="utf-8"))
    pod = job["spec"]["template"]["spec"]
    environment = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}

    assert service["metadata"]["name"] == pod["subdomain"]
    assert f"{job['metadata']['name']}-0.{pod['subdomain']}" == environment["JAX_COORDINATOR_ADDRESS"].split(":")[0]
    assert str(job["spec"]["completions"]) == environment["NUM_PROCESSES"]
    assert job["metadata"]["name"] == service["spec"]["selector"]["job-name"]


@pytest.mark.parametrize(
    ("labels", "index"),
    [("3;", "3"), ("1;0", "1"), ("1;1", None), (";", None)],
    ids=["job", "first of a jobset", "second of a jobset", "no index"],
)
def test_process_index_is_that_of_the_process_or_unknown(labels, index):
    """The index of a pod in the second Job of a JobSet is not that of its process: jitwatch itself exports that."""
    (endpoint,) = _example("kubernetes/podmonitor.yml")["spec"]["podMetricsEndpoints"]
    (rule,) = [one for one in endpoint["relabelings"] if one["targetLabel"] == "process_index"]
    found = re.fullmatch(rule["regex"], labels)

    assert index == (found and found[1])


def test_policy_admits_prometheus_to_the_port_and_pods_to_the_others():
    """Together the pods reach each port of each other but that of the endpoint."""
    spec = _example("examples/kubernetes/networkpolicy.yml")["spec"]
    prometheus, peers = spec["ingress"]
    (selected,) = spec["podSelector"]["matchExpressions"]
    (source,) = prometheus["from"]

    assert [PORT] == [one["port"] for one in prometheus["ports"]]
    assert {"namespaceSelector", "podSelector"} == set(source)
    assert [{"podSelector": {"matchExpressions": [selected]}}] == peers["from"]
    tcp = sorted((one["port"], one["endPort"]) for one in peers["ports"] if one["protocol"] == "TCP")
    assert [(1, PORT - 1), (PORT + 1, 65535)] == tcp


def test_every_example_is_named_in_the_table():
    """Each folder with its files: examples/README.md."""
    table = (FOLDER / "examples" / "README.md").read_text(encoding="utf-8")
    here = Path(FOLDER / "examples")
    names = {path.relative_to(here).as_posix() for path in EXAMPLES}
    assert [] == sorted(name for name in names if f"]({name})" not in table)
