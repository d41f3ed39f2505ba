"""The files of `deploy/`: read by the programs they are for, and held against the service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lva.cli import main
from lva.fleet.config import FleetConfig
from lva.host.life.states import State
from lva.plugins.prometheus import METRICS
from lva.settings import Settings, load_settings
from lva.video.codes import StreamState
from lva.video.fleet.metrics import METRICS as FLEET_METRICS
from lva.video.reporting.callback_counts import METRICS as CALLBACK_METRICS
from lva.video.reporting.metrics import METRICS as STREAM_METRICS
from lva.web.resources.table import RESOURCES
from tests.support import ServiceProcess

pytestmark = pytest.mark.usefixtures("clean_slate")

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
PATHS = {item.path for item in RESOURCES}
UNIT = (DEPLOY / "lva.service").read_text()
NGINX = (DEPLOY / "nginx.conf").read_text()
CONTAINER = (DEPLOY / "Containerfile").read_text()
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())


def program(name: str, package: str) -> str:
    """Return where a program is; without it the test is skipped, on CI it fails."""
    path = shutil.which(name)
    if path is None:
        if "CI" in os.environ:
            pytest.fail(f"{name} is not installed, and CI is set")
        pytest.skip(f"{name} is not installed (Debian: apt install {package})")
    return path


def run(*command: object) -> str:
    """Run a program that must succeed; return what it printed."""
    done = subprocess.run(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def settings_of(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> Settings:
    """Return the settings that the service reads from these variables; there must be no problem."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(DEPLOY)
    return load_settings()


@pytest.mark.parametrize("file", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_every_file_is_in_the_documentation(file: Path) -> None:
    text = (ROOT / "docs" / "deploying.rst").read_text()
    assert f".. literalinclude:: ../deploy/{file.name}" in text or f"``deploy/{file.name}``" in text


# systemd


def unit_value(key: str) -> str:
    """Return the value of a key that stands in the unit once."""
    (value,) = re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)
    return str(value)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is there."""
    path = tmp_path / "lva.service"
    path.write_text(UNIT.replace("/opt/lva/bin/lva", shutil.which("true") or "/bin/true"))
    return path


def test_systemd_finds_nothing_to_mend(unit: Path) -> None:
    # Other units of the machine may be broken, which is none of our business.
    printed = run(program("systemd-analyze", "systemd"), "verify", unit)
    assert "lva.service" not in printed


def test_systemd_would_find_a_mistake(unit: Path) -> None:
    unit.write_text(UNIT.replace("KillMode=mixed", "KillMood=mixed"))
    done = subprocess.run(
        [program("systemd-analyze", "systemd"), "verify", str(unit)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "KillMood" in done.stderr


def test_systemd_calls_the_unit_hardened(unit: Path) -> None:
    printed = run(
        program("systemd-analyze", "systemd"), "security", "--offline=yes", "--threshold=20", unit
    )
    assert "OK" in printed


def test_the_unit_fits_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = re.findall(r"^Environment=(.*)$", UNIT, re.MULTILINE)
    variables = dict(item.split("=", 1) for item in line.replace("%S", "/var/lib").split())
    settings = settings_of(monkeypatch, variables)
    assert settings.state_dir == Path("/var/lib") / unit_value("StateDirectory")
    assert float(unit_value("TimeoutStopSec")) > settings.shutdown_timeout
    command = unit_value("ExecStart").split()[1:]
    assert command[0] in main.commands
    options = {option for item in main.commands[command[0]].params for option in item.opts}
    assert {word for word in command if word.startswith("-")} <= options


# Containers


def test_the_container_fits_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(monkeypatch, dict(re.findall(r"(LUNA_\w+)=(\S+)", CONTAINER)))
    assert settings.bind.endswith(":" + re.findall(r"^EXPOSE (\d+)$", CONTAINER, re.MULTILINE)[0])
    assert f"VOLUME {settings.state_dir}" in CONTAINER
    assert f"-d {settings.plugins_dir[0]}" in CONTAINER
    check, command = map(json.loads, re.findall(r"CMD (\[.*\])$", CONTAINER, re.MULTILINE))
    assert command[0] == "lva"
    assert command[1] in main.commands
    assert check[0] == "python"
    for source in re.findall(r"^COPY ((?!--).+) \S+$", CONTAINER, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())


@pytest.mark.process
def test_the_health_check_fails_while_a_plugin_is_not_running(tmp_path: Path) -> None:
    command = json.loads(re.findall(r"CMD (\[.*\])$", CONTAINER, re.MULTILINE)[0])
    with ServiceProcess(tmp_path, ["history"]) as service:
        service.wait_until_ready()
        command[-1] = command[-1].replace("http://127.0.0.1:5240", service.url)
        run(sys.executable, *command[1:])
        command[-1] = command[-1].replace("/readyz", "/nowhere")
        done = subprocess.run(
            [sys.executable, *command[1:]], stderr=subprocess.DEVNULL, check=False
        )
        assert done.returncode == 1


def test_the_build_gets_what_it_copies() -> None:
    lets_in = (ROOT / ".dockerignore").read_text().splitlines()
    for source in re.findall(r"^COPY ((?!--).+) \S+$", CONTAINER, re.MULTILINE):
        assert {f"!{name}" for name in source.split()} <= set(lets_in)


def test_the_example_of_settings_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    settings_of(monkeypatch, {})
    settings = load_settings(config_file=DEPLOY / "lva.toml")
    assert settings.active_plugins == scraped_plugins(CONTAINER)


def scraped_plugins(text: str) -> tuple[str, ...]:
    """Return the active plugins that a file sets; what is scraped has to be among them."""
    (names,) = re.findall(r"LUNA_VIDEO_AGENT_ACTIVE_PLUGINS\W+(?:value: )?\"?([\w,]+)", text)
    assert "prometheus" in names
    return tuple(names.split(","))


# Kubernetes


def manifest(kind: str, file: str = "kubernetes.yaml", name: str = "lva") -> Any:
    """Return the manifest of a kind."""
    documents = yaml.safe_load_all((DEPLOY / file).read_text())
    return next(
        item for item in documents if item["kind"] == kind and item["metadata"]["name"] == name
    )


#: Stands for what the cluster puts in.
SECRET = "from-the-cluster-and-long-enough"


def variables_of(container: Any) -> dict[str, str]:
    """Return a container's environment variables."""
    return {item["name"]: item.get("value", SECRET) for item in container["env"]}


def check_end(pod: Any, settings: Settings) -> None:
    """Fail unless nobody asks a pod that ends any more, and it is not killed before it has stopped."""
    readiness = pod["containers"][0]["readinessProbe"]
    noticed = readiness["periodSeconds"] * readiness["failureThreshold"]
    assert noticed < settings.drain_window < settings.shutdown_timeout
    assert settings.shutdown_timeout < pod["terminationGracePeriodSeconds"]


def test_the_pod_fits_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scraped_plugins((DEPLOY / "kubernetes.yaml").read_text())
    deployment = manifest("Deployment")["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    settings = settings_of(monkeypatch, variables_of(container))
    check_end(pod, settings)
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    for probe in ("livenessProbe", "startupProbe"):
        assert container[probe]["httpGet"]["path"] == "/livez"
    assert {"/readyz", "/livez"} <= PATHS
    (port,) = container["ports"]
    assert settings.bind.endswith(f":{port['containerPort']}")
    assert manifest("Service")["spec"]["ports"][0]["targetPort"] == port["name"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    mounts = [Path(item["mountPath"]) for item in container["volumeMounts"]]
    assert any(settings.state_dir.is_relative_to(mount) for mount in mounts)


def test_the_pod_may_do_little() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    security = pod["containers"][0]["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["enableServiceLinks"] is False  # or a Service's name gets into the settings
    assert not security["allowPrivilegeEscalation"]
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}


# A fleet

FLEET = "fleet-kubernetes.yaml"


def fleet_of(settings: Settings) -> FleetConfig:
    """Return the configuration of a fleet that settings have."""
    return FleetConfig.model_validate(settings.plugins["streams"].config["fleet"])


def test_the_settings_of_a_fleet_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "LUNA_VIDEO_AGENT_PLUGINS__STREAMS__CONFIG__FLEET__PASSWORD"
    text = (DEPLOY / "fleet.toml").read_text()
    assert f"# {secret}=" in text
    settings_of(monkeypatch, {secret: "from-the-environment"})
    settings = load_settings(config_file=DEPLOY / "fleet.toml")
    assert "streams" in settings.active_plugins
    fleet = fleet_of(settings)
    assert fleet.password is not None
    assert fleet.password.get_secret_value() == "from-the-environment"
    assert fleet.url.startswith("rediss://")


def test_the_pods_of_a_fleet_fit_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind is a pod that could not be reached by its address, or killed before it has handed over."""
    stateful = manifest("StatefulSet", FLEET)["spec"]
    pod = stateful["template"]["spec"]
    (container,) = pod["containers"]
    variables = variables_of(container)
    assert variables.pop("POD") == SECRET  # the pod's name
    variables = {name: value.replace("$(POD)", "lva-0") for name, value in variables.items()}
    settings = settings_of(monkeypatch, variables)
    fleet = fleet_of(settings)
    service = manifest("Service", FLEET, stateful["serviceName"])["spec"]
    assert fleet.agent == "lva-0"
    assert fleet.address == f"http://lva-0.{stateful['serviceName']}:{settings.bind.split(':')[1]}"
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"]  # an agent without Redis is asked for pictures, too
    assert fleet.password is not None
    check_end(pod, settings)
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    labels = stateful["template"]["metadata"]["labels"]
    budget = manifest("PodDisruptionBudget", FLEET)["spec"]
    # While Redis is away none is ready, and nodes are to be emptied all the same.
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert (budget["maxUnavailable"], budget["selector"]["matchLabels"]) == (1, labels)
    assert stateful["selector"]["matchLabels"] == service["selector"] == labels
    assert stateful["replicas"] > 1
    (claim,) = stateful["volumeClaimTemplates"]
    mounts = {item["name"]: Path(item["mountPath"]) for item in container["volumeMounts"]}
    assert settings.state_dir.is_relative_to(mounts[claim["metadata"]["name"]])


def test_the_image_of_a_fleet_has_what_its_plugins_need() -> None:
    """The kind is an image that starts, and whose plugins then miss what they import."""
    (extras,) = re.findall(r"--build-arg EXTRAS=(\S+) ", (DEPLOY / FLEET).read_text())
    assert {"prometheus", "video", "redis"} <= {*extras.split(",")}
    known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {*extras.split(",")} <= {*known}
    assert "\nARG EXTRAS=prometheus\n" in CONTAINER
    assert 'pip install --no-cache-dir "/src[$EXTRAS]"' in CONTAINER


def test_the_pods_of_a_fleet_may_do_as_little_as_a_single_one() -> None:
    one = manifest("Deployment")["spec"]["template"]["spec"]
    many = manifest("StatefulSet", FLEET)["spec"]["template"]["spec"]
    for name in ("securityContext", "enableServiceLinks", "automountServiceAccountToken"):
        assert many[name] == one[name]
    assert many["containers"][0]["securityContext"] == one["containers"][0]["securityContext"]


# The proxy


def test_the_proxy_fits_the_service() -> None:
    without_comments = re.sub(r"#.*", "", NGINX)
    assert without_comments.count("{") == without_comments.count("}")
    statements = re.sub(r"[{}]", ";", without_comments)
    assert all("\n" not in statement.strip() for statement in statements.split(";"))
    (streams,) = re.findall(r"location ~ \^/\(([\w|]+)\)\$ \{([^}]*)\}", NGINX)
    assert {f"/{name}" for name in streams[0].split("|")} <= PATHS
    assert re.search(r"proxy_buffering +off;", streams[1])
    limits = Settings(active_plugins=())
    body = re.findall(r"client_max_body_size (\d+)m;", NGINX)[0]
    assert int(body) * 1024 * 1024 == limits.max_body_size
    assert int(re.findall(r"client_body_timeout +(\d+)s;", NGINX)[0]) == limits.body_timeout
    keep_alive = int(re.findall(r"keepalive_timeout (\d+)s;", NGINX)[0])
    assert keep_alive < limits.keep_alive_timeout
    assert f"server {limits.bind};" in NGINX


# Prometheus


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A directory with the scrape configuration, the rules and their tests."""
    for path in (DEPLOY / "prometheus.yml", DEPLOY / "alerts.yml", ROOT / "tests/alerts_test.yml"):
        shutil.copy(path, tmp_path)
    return tmp_path


def alerts(path: Path) -> list[dict[str, Any]]:
    """Return the rules of all groups."""
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def test_promtool_takes_the_configuration(rules: Path) -> None:
    promtool = program("promtool", "prometheus")
    printed = run(promtool, "check", "config", rules / "prometheus.yml")
    count = len(alerts(rules / "alerts.yml"))
    assert f"{count} rules found" in printed
    run(promtool, "check", "rules", rules / "alerts.yml")


@pytest.mark.slow("starts a program")
def test_alerts_fire_when_they_should(rules: Path) -> None:
    run(program("promtool", "prometheus"), "test", "rules", rules / "alerts_test.yml")
    tested = (rules / "alerts_test.yml").read_text()
    for rule in alerts(rules / "alerts.yml"):
        fires = rf"alertname: {rule['alert']}\n +exp_alerts:\n"
        assert re.search(fires, tested), rule["alert"]


def expressions() -> Iterator[tuple[str, str]]:
    """Go through all queries of the rules and the dashboard."""
    for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


@pytest.mark.process
def test_queries_use_metrics_and_labels_that_exist(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path, ["prometheus", "history"]) as service:
        service.wait_until_ready()
        service.get("/nowhere")
        service.wait_until(lambda: "errors_count_total{" in service.get("/metrics").text)
        text = service.get("/metrics").text
    names: dict[str, set[str]] = {"up": set()}
    for name in re.findall(r"^# TYPE (\w+)", text, re.MULTILINE):
        names[name] = set()
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        names.setdefault(name, set()).update(re.findall(r"(\w+)=\"", labels))
    for metric in (*STREAM_METRICS, *CALLBACK_METRICS, *FLEET_METRICS):
        names[metric.name] = {"plugin", *metric.labels}
    for family in METRICS:
        for suffix in ("", "_bucket"):
            names.setdefault(family.name + suffix, set()).update(family.labels)
    used = 0
    for where, query in expressions():
        query = re.sub(r"\b(?:by|on) \([^)]*\)", "", query)  # these are labels
        found = re.findall(r"\b([a-z]\w*_\w+|requests|up)(?:\{([^}]*)\}|\b(?!\())", query)
        metrics = [(name, labels) for name, labels in found if not name.startswith("histogram_q")]
        assert metrics, where
        for name, labels in metrics:
            assert name in names, f"{where}: no metric {name}"
            for label in re.findall(r"(\w+)(?:=~|!~|=|!=)\"", labels):
                assert label in names[name] | {"job", "instance"}, f"{where}: {name} has no {label}"
            used += 1
    assert used > 40


# Grafana


def test_the_dashboard_asks_what_prometheus_understands(tmp_path: Path) -> None:
    rules = []
    for number, (_, query) in enumerate(expressions()):
        plain = query.replace("$__rate_interval", "5m")
        rules.append({"record": f"panel:{number}", "expr": re.sub(r"\$(\w+)", r"\1", plain)})
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in run(
        program("promtool", "prometheus"), "check", "rules", path
    )


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
    variables = {item["name"] for item in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD)))
    assert used <= variables
    plugins, streams = [panel for panel in panels if panel["type"] == "state-timeline"]
    check_states(plugins, "lva_plugin_state", {state.value for state in State})
    check_states(streams, "lva_stream_state", {state.value for state in StreamState})


def check_states(panel: Any, metric: str, states: set[str]) -> None:
    """Fail unless a panel shows each state under its name."""
    mappings = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    names = {item["text"]: key for key, item in mappings.items()}
    assert set(names) == states
    for name, number in names.items():
        if number != "0":
            shown = rf"\({number} \* {metric}\{{[^}}]*state=\"{name}\"\}}\)"
            assert re.search(shown, panel["targets"][0]["expr"])
