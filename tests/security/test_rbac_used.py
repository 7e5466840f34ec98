"""rbac_used.py on planted logs and roles."""

import json
import unittest

from rbac_used import Right, compare, excused, expand, granted, used

ACCOUNT = "system:serviceaccount:hearth-system:hearth-operator"


def entry(verb, resource, code=200, user=ACCOUNT, stage="ResponseComplete", **about):
    return {
        "stage": stage, "verb": verb, "user": {"username": user}, "objectRef": {"resource": resource, **about},
        "responseStatus": {"code": code},
    }


def log(*entries):
    return used([json.dumps(one) for one in entries], "hearth-system", "hearth-operator")


def role(kind, name, rules, **metadata):
    return {"kind": kind, "metadata": {"name": name, **metadata}, "rules": rules}


def binding(kind, to, name, subject="hearth-operator", **metadata):
    subjects = [{"kind": "ServiceAccount", "name": subject, "namespace": "hearth-system"}]
    return {"kind": kind, "metadata": metadata, "roleRef": {"kind": to, "name": name}, "subjects": subjects}


def rule(groups, resources, verbs, **more):
    return {"apiGroups": groups, "resources": resources, "verbs": verbs, **more}


class Grants(unittest.TestCase):
    def test_only_what_is_bound_to_the_account_counts(self):
        objects = [
            role("ClusterRole", "wide", [rule([""], ["pods"], ["list"])]),
            role("ClusterRole", "other", [rule([""], ["secrets"], ["list"])]),
            role("Role", "lease", [rule(["x"], ["leases"], ["get"], resourceNames=["mine"])],
                 namespace="hearth-system"),
            binding("ClusterRoleBinding", "ClusterRole", "wide"),
            binding("ClusterRoleBinding", "ClusterRole", "other", subject="another"),
            binding("RoleBinding", "Role", "lease", namespace="hearth-system"),
        ]
        self.assertEqual(granted(objects, "hearth-system", "hearth-operator"), {
            Right("list", "", "pods"), Right("get", "x", "leases", "mine", "hearth-system"),
        })

    def test_a_role_that_a_binding_narrows_holds_in_its_namespace(self):
        objects = [
            role("ClusterRole", "wide", [rule([""], ["pods"], ["list"])]),
            binding("RoleBinding", "ClusterRole", "wide", namespace="team-a"),
        ]
        grants = granted(objects, "hearth-system", "hearth-operator")
        self.assertEqual(grants, {Right("list", "", "pods", "", "team-a")})
        everywhere = compare(grants, log(entry("list", "pods")), {})[0]
        self.assertIn("used, not granted: list pods", everywhere)
        self.assertEqual(compare(grants, log(entry("list", "pods", namespace="team-a")), {})[0], [])

    def test_wildcards_and_strangers_are_faults(self):
        for bad in (rule(["*"], ["pods"], ["get"]), rule([""], ["pods/*"], ["get"]), rule([""], ["pods"], ["*"])):
            with self.assertRaisesRegex(SystemExit, "wildcard"):
                list(expand(bad, "", "wide"))
        with self.assertRaisesRegex(SystemExit, "is that its name"):
            granted([], "hearth-system", "hearth-operator")


class Uses(unittest.TestCase):
    def test_others_and_requests_for_no_object_do_not_count(self):
        nothing = entry("get", "pods")
        del nothing["objectRef"]
        by_hand = dict(entry("get", "pods"), userAgent="kubectl/v1.36.3 (linux/amd64)")
        others = (entry("get", "pods", user="ana"), nothing, entry("get", "pods", stage="Panic"), by_hand)
        self.assertEqual(log(*others), set())

    def test_an_apply_that_makes_an_object_creates(self):
        self.assertEqual({u.verb for u in log(entry("patch", "jobs", apiGroup="batch"))}, {"patch"})
        self.assertEqual({u.verb for u in log(entry("patch", "jobs", 201, apiGroup="batch"))}, {"patch", "create"})
        refused = entry("patch", "jobs", 403, apiGroup="batch")
        refused["responseStatus"]["message"] = 'User "x" cannot create resource "jobs" in API group "batch"'
        self.assertEqual({u.verb for u in log(refused)}, {"patch", "create"})

    def test_a_subresource_is_not_its_resource(self):
        self.assertEqual(log(entry("patch", "pods", subresource="status")), {Right("patch", "", "pods/status")})

    def test_a_watch_counts_when_it_starts(self):
        self.assertEqual(log(entry("watch", "pods", stage="ResponseStarted")), {Right("watch", "", "pods")})


class Comparison(unittest.TestCase):
    grants = {Right("list", "", "pods"), Right("delete", "batch", "jobs"), Right("get", "x", "leases", "mine")}

    def test_equal_is_no_fault(self):
        uses = log(
            entry("list", "pods"), entry("delete", "jobs", apiGroup="batch", name="a", namespace="b"),
            entry("get", "leases", apiGroup="x", name="mine"),
        )
        self.assertEqual(compare(self.grants, uses, {}), ([], []))

    def test_what_differs_is_named(self):
        uses = log(entry("list", "pods"), entry("get", "leases", 403, apiGroup="x", name="yours"))
        self.assertEqual(compare(self.grants, uses, {})[0], [
            "used, not granted: get leases.x named yours", "granted, never used: delete jobs.batch",
            "granted, never used: get leases.x named mine",
        ])

    def test_excuses_have_reasons_and_do_not_outlive_their_grant(self):
        excuses = excused("# why\ndelete jobs.batch  only after a failure\nget secrets  long ago\nlist pods  rarely\n")
        uses = log(entry("list", "pods"), entry("get", "leases", apiGroup="x", name="mine"))
        faults, notes = compare(self.grants, uses, excuses)
        self.assertEqual((faults, notes), (["excused, not granted: get secrets"], ["excused, but used: list pods"]))
        with self.assertRaisesRegex(SystemExit, "line 1.*no reason"):
            excused("delete jobs.batch")


if __name__ == "__main__":
    unittest.main()
