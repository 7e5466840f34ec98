"""Do the chart's monitors, alert rules and dashboard fit what Hearth measures?

    python3 check.py --binaries FOLDER --prometheus FOLDER --kube BINARY --helm BINARY

Starts what stand.py describes, lets a real Prometheus scrape it by the chart's monitors, and asks it for
every expression of the dashboard and of the alerts. A machine without a GPU has no hearth_gpu_ series:
those names and labels are compared with the source that registers them.
"""

import argparse
import collections
import json
import math
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/bench"))

from expressions import Mentions, selector  # noqa: E402
from plane import Plane, free_port  # noqa: E402
from scrape import Prometheus, configuration  # noqa: E402
from stand import SYSTEM, Stand, await_that  # noqa: E402

CHART = ROOT / "charts/hearth"
ALERT_TESTS = ROOT / "tests/monitoring/alerts_test.yaml"
DOCS = ROOT / "docs/monitoring.md"
SYSTEM_METRICS = ROOT / "worker/src/monitor/system.rs"
# Time in which every figure should be there: a checkpoint, an evaluation, a failed request, two scrapes.
PATIENCE = 60


class Report:
    """Counts what was compared, and keeps what is wrong."""

    def __init__(self):
        self.good, self.bad = 0, []

    def say(self, what, complaints):
        """One comparison; `complaints` is empty where all is well."""
        complaints = list(complaints)
        if complaints:
            self.bad.append(f"{what}: " + "; ".join(complaints))
        else:
            self.good += 1

    def end(self):
        for line in self.bad:
            print(f"FAILED {line}")
        print(f"test result: {'FAILED' if self.bad else 'ok'}. {self.good} passed; {len(self.bad)} failed")
        return 1 if self.bad else 0


def refusals(report, helm):
    """Monitoring without a namespace of Prometheus is refused, in one sentence."""
    for value in ("serviceMonitor", "rules", "dashboard"):
        command = [helm, "template", "hearth", CHART, "--set", f"metrics.{value}.enabled=true"]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        wanted = f"metrics.{value}.enabled needs metrics.namespace"
        report.say(f"helm template with metrics.{value}.enabled alone",
                   [] if done.returncode and wanted in done.stderr else [f"it should be refused: {wanted}"])


def gpu_figures():
    """Names and the label of the figures that need a GPU, out of the source that registers them."""
    text = SYSTEM_METRICS.read_text()
    part = re.search(r'sub_registry_with_prefix\("(hearth_gpu)"\)(.*?)sub_registry_with_prefix', text, re.DOTALL)
    names = {f"{part[1]}_{name}" for name in re.findall(r'gpu\.register\(\s*"(\w+)"', part[2])}
    (label,) = re.findall(r"struct GpuLabel \{\s*(\w+):", text)
    return names, label


class Series:
    """Label names of all series, by metric."""

    def __init__(self, prometheus):
        found = prometheus.get("series", **{"match[]": '{__name__=~"hearth_.+"}'})
        self.labels = collections.defaultdict(set)
        for series in found:
            self.labels[series["__name__"]] |= set(series)
        self.scraped = set(self.labels)
        self.gpu, label = gpu_figures()
        for name in self.gpu:
            # The monitor's labels are those of the ranks' figures in the same pod.
            self.labels[name] = self.labels["hearth_rank_cpu_cores"] - {"local_rank"} | {label}

    def lacks(self, mentions):
        """What is wrong with the names and labels that an expression mentions."""
        for name, matchers in mentions.selectors:
            if name not in self.labels:
                yield f"no process has {name}"
                continue
            for label in sorted((set(matchers) | mentions.labels) - self.labels[name]):
                yield f"{name} has no label {label}"

    def needs_gpu(self, mentions):
        return any(name in self.gpu for name, _ in mentions.selectors)


class Dashboard:
    def __init__(self, document):
        self.document = document
        self.panels = [panel for panel in document["panels"] if panel["type"] != "row"]
        self.variables = {variable["name"]: variable for variable in document["templating"]["list"]}

    def structure(self):
        """What Grafana would stumble over."""
        ids = [panel["id"] for panel in self.document["panels"]]
        titles = [panel["title"] for panel in self.document["panels"]]
        yield from (f"{what} is there twice" for what, n in collections.Counter(ids + titles).items() if n > 1)
        taken = {}
        for panel in self.document["panels"]:
            at = panel["gridPos"]
            if at["x"] + at["w"] > 24:
                yield f"{panel['title']} is wider than the page"
            for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
                if cell in taken:
                    yield f"{panel['title']} covers {taken[cell]}"
                    break
                taken[cell] = panel["title"]
        for panel in self.panels:
            if not panel["targets"] or panel["datasource"]["uid"] != "${datasource}":
                yield f"{panel['title']} asks nothing, or not the chosen data source"
        text = json.dumps(self.document)
        used = set(re.findall(r"\$\{?([a-z_]+)", text))
        for name in sorted(used ^ set(self.variables)):
            if not name.startswith("__"):
                yield f"variable {name} is used or defined, not both"

    def choices(self, prometheus):
        """What the page's variables may be set to, each within the choice of those before it."""
        chosen = {"__rate_interval": "30s"}
        for name, variable in self.variables.items():
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                values = prometheus.get(f"label/{found[2]}/values", **{"match[]": fill(found[1], chosen)})
                chosen[name] = "|".join(values)
        return chosen


def fill(expression, chosen):
    for name in sorted(chosen, key=len, reverse=True):
        expression = expression.replace(f"${name}", chosen[name])
    return expression


def answer_lacks(prometheus, expression, legend):
    """What is wrong with what Prometheus answers to a query of the dashboard."""
    try:
        found = prometheus.query(expression)
    except ValueError as error:
        return [str(error)]
    if not any(math.isfinite(value) for _, value in found):
        return [f"no figure comes of {expression}"]
    wanted = re.findall(r"\{\{\s*(\w+)\s*\}\}", legend)
    return [f"series without the legend's label {label}" for label in wanted if not all(m.get(label) for m, _ in found)]


def check_dashboard(report, prometheus, series, dashboard):
    report.say("dashboard", dashboard.structure())
    end = time.monotonic() + PATIENCE
    unchecked = 0
    for panel in dashboard.panels:
        for target in panel["targets"]:
            what = f"panel {panel['title']!r}, query {target['refId']}"
            mentions = Mentions(target["expr"])
            if series.needs_gpu(mentions):
                legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                wrong = [f"no label {l}" for name, _ in mentions.selectors for l in legend - series.labels[name]]
                report.say(what, [*series.lacks(mentions), *wrong])
                unchecked += 1
                continue
            while True:
                chosen = dashboard.choices(prometheus)
                complaints = answer_lacks(prometheus, fill(target["expr"], chosen), target["legendFormat"])
                if not complaints or time.monotonic() > end:
                    break
                time.sleep(0.5)
            report.say(what, complaints)
    print(f"dashboard: {unchecked} queries of GPUs were compared with {SYSTEM_METRICS.relative_to(ROOT)} alone")


def check_alerts(report, prometheus, series):
    """Of the rules as Prometheus has loaded them; what fires when is promtool's to test."""
    rules = await_evaluation(prometheus)
    for rule in rules:
        mentions = Mentions(rule["query"])
        complaints = [rule["lastError"]] if rule.get("lastError") else []
        complaints += series.lacks(mentions)
        for name, matchers in mentions.selectors:
            if name not in series.gpu and not prometheus.query(selector(name, matchers)):
                complaints.append(f"no series is {selector(name, matchers)}")
        text = " ".join(rule["annotations"].values())
        kept = mentions.labels or series.labels[mentions.selectors[0][0]]
        told = set(re.findall(r"\$labels\.(\w+)", text))
        complaints += [f"its text has label {label}, its series have not" for label in sorted(told - kept)]
        complaints += [f"no {part}" for part in ("summary", "description") if not rule["annotations"].get(part)]
        if rule["labels"].get("severity") not in ("critical", "warning"):
            complaints.append("no severity")
        report.say(f"alert {rule['name']}", complaints)
    return [rule["name"] for rule in rules]


def await_evaluation(prometheus):
    """All rules, once each was evaluated."""
    for _ in range(100):
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        if rules and all(rule["health"] != "unknown" for rule in rules):
            break
        time.sleep(0.2)
    return rules


def check_alert_tests(report, series, alerts):
    """promtool's tests: both ways for every alert, on series that look like real ones."""
    text = ALERT_TESTS.read_text()
    quiet = set(re.findall(r"alertname: (\w+), exp_alerts: \[\]", text))
    firing = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n +- exp_labels", text))
    for alert in alerts:
        complaints = [f"{ALERT_TESTS.name} has no test that it {what}"
                      for what, tested in (("fires", firing), ("is silent", quiet)) if alert not in tested]
        report.say(f"tests of alert {alert}", complaints)
    invented = re.findall(r"series: '(.+)'", text)
    report.say(ALERT_TESTS.name, [lack for one in invented for lack in series.lacks(Mentions(one))])


def documented():
    """Names in docs/monitoring.md: `hearth_a_{b,c}_total` is two, `hearth_a{label}` one."""
    names = set()
    for text in re.findall(r"`(hearth_[^`]+)`", DOCS.read_text()):
        choice = re.fullmatch(r"(\w+_)\{([\w,]+)\}(\w*)(?:\{[\w,]+\})?", text)
        if choice:
            names |= {choice[1] + middle + choice[3] for middle in choice[2].split(",")}
        else:
            names.add(text.split("{")[0])
    return names


def check_docs(report, series, alerts):
    known, text = documented(), DOCS.read_text()
    for name in sorted(series.scraped | series.gpu):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        if family == name or name.endswith("_count"):
            report.say(f"metric {family}", [] if family in known else [f"{DOCS.relative_to(ROOT)} does not name it"])
    for alert in alerts:
        report.say(f"alert {alert} in the docs", [] if f"`{alert}`" in text else [f"{DOCS.relative_to(ROOT)} lacks it"])


def check_real(report, given, folder):
    with Plane(given.kube, folder / "plane") as plane:
        stand = Stand(plane, given.binaries, given.prometheus / "crds", given.helm)
        try:
            pods = stand.start()
            monitors = stand.objects("servicemonitors", SYSTEM) + stand.objects("podmonitors", SYSTEM)
            services = stand.objects("services", SYSTEM)
            scraped = [configuration(one, pods, services, stand.address_of) for one in monitors]
            rules = plane.folder / "rules.json"
            rules.write_text(json.dumps(stand.get("prometheusrule", SYSTEM, "hearth-operator")["spec"]))
            prometheus = Prometheus(plane, given.prometheus / "bin/prometheus", free_port(), scraped, rules)
            targets = prometheus.await_targets(len(pods))
            await_that("figures of ranks", lambda: prometheus.query("hearth_rank_cpu_cores"))
            print(f"{len(targets)} pods are scraped, as {', '.join(sorted(one['job_name'] for one in scraped))}")
            (page,) = stand.objects("configmaps", SYSTEM, grafana_dashboard="1")
            dashboard = Dashboard(json.loads(page["data"]["hearth.json"]))
            check_dashboard(report, prometheus, Series(prometheus), dashboard)
            series = Series(prometheus)
            alerts = check_alerts(report, prometheus, series)
            check_alert_tests(report, series, alerts)
            check_docs(report, series, alerts)
        except BaseException:
            print(stand.logs())
            raise
        finally:
            stand.stop()


def main():
    parser = argparse.ArgumentParser()
    for name in ("binaries", "prometheus", "kube", "helm"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    given, report = parser.parse_args(), Report()
    # Asked to end, it still stops what it started and removes its folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    refusals(report, given.helm)
    with tempfile.TemporaryDirectory(prefix="hearth-monitoring-") as folder:
        check_real(report, given, pathlib.Path(folder))
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
