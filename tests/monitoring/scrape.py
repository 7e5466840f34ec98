"""Prometheus, and scrape configurations for it as prometheus-operator makes them of monitors.

The targets are the pods that a monitor selects, with the labels, annotations and ports that the API
server has of them. Only the address is another: that of the process that plays the pod.
"""

import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request

RELABELING = {
    "sourceLabels": "source_labels", "targetLabel": "target_label", "regex": "regex",
    "replacement": "replacement", "separator": "separator", "action": "action",
}


def known(mapping, *keys):
    """The mapping, which may have these keys: one that is not understood here must not be passed over."""
    strange = set(mapping) - set(keys)
    if strange:
        raise SystemExit(f"scrape.py does not know what {sorted(strange)} of a monitor does: teach it, or leave it out")
    return mapping


def matches(thing, selector):
    labels = thing["metadata"].get("labels", {})
    return all(labels.get(key) == value for key, value in known(selector, "matchLabels")["matchLabels"].items())


def in_namespaces(thing, selector):
    selector = known(selector, "any", "matchNames")
    return selector.get("any") or thing["metadata"]["namespace"] in selector["matchNames"]


def ports_of(pod):
    """(container, port) of a pod's ports."""
    return [(c, port) for c in pod["spec"]["containers"] for port in c.get("ports", [])]


def meta(pod):
    """The pod's labels and annotations as Prometheus' discovery names them."""
    found = {}
    for kind, entries in (("label", "labels"), ("annotation", "annotations")):
        for key, value in pod["metadata"].get(entries, {}).items():
            found[f"__meta_kubernetes_pod_{kind}_{re.sub('[^a-zA-Z0-9_]', '_', key)}"] = value
    return found


def selected(monitor, pods, services):
    """(pod, container, port, endpoint, labels besides) of all that the monitor wants to be scraped."""
    name, spec = monitor["metadata"]["name"], monitor["spec"]
    here = [thing for thing in (pods if monitor["kind"] == "PodMonitor" else services)
            if in_namespaces(thing, spec["namespaceSelector"]) and matches(thing, spec["selector"])]
    if monitor["kind"] == "PodMonitor":
        known(spec, "namespaceSelector", "selector", "podMetricsEndpoints")
        for endpoint in spec["podMetricsEndpoints"]:
            for pod in here:
                for container, port in ports_of(pod):
                    if port.get("name") == endpoint["port"]:
                        yield pod, container, port, endpoint, {"job": f"{monitor['metadata']['namespace']}/{name}"}
        return
    known(spec, "namespaceSelector", "selector", "endpoints")
    for endpoint in spec["endpoints"]:
        for service in here:
            target = [port["targetPort"] for port in service["spec"]["ports"] if port.get("name") == endpoint["port"]]
            for pod in pods:
                behind = matches(pod, {"matchLabels": service["spec"]["selector"]})
                for container, port in ports_of(pod) if behind else []:
                    if [port.get("name")] == target or [port["containerPort"]] == target:
                        service_name = service["metadata"]["name"]
                        yield pod, container, port, endpoint, {"job": service_name, "service": service_name}


def configuration(monitor, pods, services, address_of):
    """One scrape configuration; `address_of` gives a pod's process by the pod's name and the port's number."""
    static, relabelings = [], []
    for pod, container, port, endpoint, besides in selected(monitor, pods, services):
        known(endpoint, "port", "interval", "relabelings")
        labels = {
            "namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"],
            "container": container["name"], "endpoint": endpoint["port"], **besides, **meta(pod),
        }
        address = address_of(pod["metadata"]["name"], port["containerPort"])
        static.append({"targets": [address], "labels": labels})
        relabelings = endpoint.get("relabelings", [])
    steps = [{RELABELING[key]: value for key, value in known(step, *RELABELING).items()} for step in relabelings]
    name = f"{monitor['kind']}/{monitor['metadata']['name']}"
    return {"job_name": name, "scrape_interval": "1s", "static_configs": static, "relabel_configs": steps}


class Prometheus:
    """A server on loopback."""

    def __init__(self, plane, program, port, configurations, rules):
        folder = plane.folder / "prometheus"
        folder.mkdir()
        settings = {
            "global": {"evaluation_interval": "2s"}, "rule_files": [str(rules)], "scrape_configs": configurations,
        }
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(settings))
        self.url = f"http://127.0.0.1:{port}"
        self.process = plane.run(
            "prometheus", program, "--config.file", folder / "prometheus.yml", "--storage.tsdb.path", folder / "data",
            "--web.listen-address", f"127.0.0.1:{port}", "--log.level", "warn",
        )
        self.process.await_ready(f"{self.url}/-/ready")

    def get(self, path, **arguments):
        url = f"{self.url}/api/v1/{path}?" + urllib.parse.urlencode(arguments, doseq=True)
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refusal:
            raise ValueError(json.load(refusal)["error"]) from None

    def query(self, expression):
        """(labels, value) of the series that it gives now."""
        found = self.get("query", query=expression)
        return [(series["metric"], float(series["value"][1])) for series in found["result"]]

    def await_targets(self, count, seconds=30):
        """Waits until so many targets are up; raises with the error of one that is not."""
        end = time.monotonic() + seconds
        while True:
            targets = self.get("targets")["activeTargets"]
            if len(targets) == count and all(target["health"] == "up" for target in targets):
                return targets
            if time.monotonic() > end:
                said = [f"{target['scrapePool']} {target['health']}: {target['lastError']}" for target in targets]
                raise SystemExit(f"{count} targets should be up; Prometheus says\n" + "\n".join(said))
            time.sleep(0.2)
