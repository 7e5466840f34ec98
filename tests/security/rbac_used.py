#!/usr/bin/env python3
"""Verbs granted to a ServiceAccount against the verbs that it used.

    python3 rbac_used.py --account NAMESPACE/NAME --audit LOG --rbac FILE --unused FILE

LOG is an API server's audit log at level Metadata. The file of --rbac holds roles and bindings as
JSON, as `kubectl get clusterroles,clusterrolebindings,roles,rolebindings -A -o json` gives them.
Fails where a verb was used that is not granted, or is granted and was never used. The file of
--unused names verbs that no test uses, with the reason, one a line:

    VERB RESOURCE.GROUP  reason        (delete pods  or  patch jobs/status.batch)
"""

import argparse
import json
import pathlib
import sys
from typing import NamedTuple


class Right(NamedTuple):
    """A verb on a resource; of one object where it has a name, in one namespace where it has one."""

    verb: str
    group: str
    resource: str
    name: str = ""
    namespace: str = ""

    def title(self):
        """As the file of --unused writes it."""
        return f"{self.verb} {self.resource}{'.' if self.group else ''}{self.group}"

    def __str__(self):
        return self.title() + (f" named {self.name}" if self.name else "") + (
            f" in {self.namespace}" if self.namespace else "")

    def covers(self, used):
        """Whether this, granted, allows what was used."""
        same = (self.verb, self.group, self.resource) == (used.verb, used.group, used.resource)
        return same and self.name in ("", used.name) and self.namespace in ("", used.namespace)


def granted(objects, namespace, name):
    """What roles bound to a ServiceAccount allow. A wildcard is a fault: what it grants is not countable."""
    roles = {
        (o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]): o
        for o in objects if o["kind"].endswith("Role")
    }
    rights, bound = set(), 0
    for binding in objects:
        if not binding["kind"].endswith("Binding") or not is_bound(binding, namespace, name):
            continue
        bound += 1
        scope = binding["metadata"]["namespace"] if binding["kind"] == "RoleBinding" else ""
        to = binding["roleRef"]
        role = roles.get((to["kind"], scope if to["kind"] == "Role" else "", to["name"]))
        if role is None:
            raise SystemExit(f"{binding['kind']} {binding['metadata']['name']}: there is no {to['kind']} {to['name']}")
        for rule in role.get("rules") or []:
            rights |= set(expand(rule, scope, to["name"]))
    if not bound:
        raise SystemExit(f"no role is bound to ServiceAccount {namespace}/{name}: is that its name?")
    return rights


def is_bound(binding, namespace, name):
    where = binding["metadata"].get("namespace", "")
    return any(
        subject["kind"] == "ServiceAccount" and (subject.get("namespace", where), subject["name"]) == (namespace, name)
        for subject in binding.get("subjects") or []
    )


def expand(rule, scope, role):
    for group in rule.get("apiGroups", []):
        for resource in rule.get("resources", []):
            for verb in rule["verbs"]:
                if "*" in (group, verb) or "*" in resource:
                    raise SystemExit(f"{role} grants {verb} {resource}.{group}: name what is used, not a wildcard")
                for name in rule.get("resourceNames") or [""]:
                    yield Right(verb, group, resource, name, scope)


def used(lines, namespace, name):
    """What a ServiceAccount asked for. Requests for no object (/healthz, /api) are everyone's."""
    account, rights = f"system:serviceaccount:{namespace}:{name}", set()
    for line in lines:
        entry = json.loads(line)
        asker = entry.get("impersonatedUser") or entry["user"]
        about = entry.get("objectRef")
        # A watch that goes on has no end in the log. kubectl with the account's token is a test's.
        if asker["username"] != account or not about or entry["stage"] not in ("ResponseStarted", "ResponseComplete"):
            continue
        if entry.get("userAgent", "").startswith("kubectl/"):
            continue
        resource = about["resource"] + (f"/{about['subresource']}" if "subresource" in about else "")
        right = Right(
            entry["verb"], about.get("apiGroup", ""), resource, about.get("name", ""), about.get("namespace", "")
        )
        rights.add(right)
        answer = entry.get("responseStatus", {})
        # The server asks for create, too, where an apply makes an object. Names are not known to it then.
        refused = answer.get("code") == 403 and "cannot create resource" in answer.get("message", "")
        if right.verb == "patch" and (answer.get("code") == 201 or refused):
            rights.add(right._replace(verb="create"))
    return rights


def excused(text):
    """The lines of --unused: {"VERB RESOURCE.GROUP": reason}."""
    reasons = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        verb, resource, *reason = line.split(maxsplit=2)
        if not reason:
            raise SystemExit(f"unused verbs, line {number}: {line!r} gives no reason")
        reasons[f"{verb} {resource}"] = reason[0]
    return reasons


def compare(grants, uses, excuses):
    """Faults, and what is good to know."""
    faults = [f"used, not granted: {use}" for use in sorted(uses) if not any(g.covers(use) for g in grants)]
    notes, idle = [], set()
    for grant in sorted(grants):
        if any(grant.covers(use) for use in uses):
            continue
        idle.add(grant.title())
        if grant.title() not in excuses:
            faults.append(f"granted, never used: {grant}")
    titles = {grant.title() for grant in grants}
    for title in sorted(excuses):
        if title not in titles:
            faults.append(f"excused, not granted: {title}")
        elif title not in idle:
            notes.append(f"excused, but used: {title}")
    return faults, notes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--account", required=True)
    parser.add_argument("--audit", required=True, type=pathlib.Path)
    parser.add_argument("--rbac", required=True, type=pathlib.Path)
    parser.add_argument("--unused", required=True, type=pathlib.Path)
    options = parser.parse_args()
    namespace, _, name = options.account.partition("/")
    objects = json.loads(options.rbac.read_text())["items"]
    grants = granted(objects, namespace, name)
    with options.audit.open() as lines:
        uses = used(lines, namespace, name)
    if not uses:
        raise SystemExit(f"{options.audit} holds no request of {options.account}")
    faults, notes = compare(grants, uses, excused(options.unused.read_text()))
    for line in notes + faults:
        print(line)
    print(f"{len(grants)} verbs granted, {len({use.title() for use in uses})} used, {len(faults)} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
