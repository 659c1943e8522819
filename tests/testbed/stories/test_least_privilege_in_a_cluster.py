"""The rights of infra/eks-rbac.yaml are what the function needs in a cluster, and all that it has.

Each case of the first part has a namespace of its own, in which the function lacks one verb on one resource, and gets it
back. The second part tries what the manifest does not grant, and the third what it does, and infra/eks-policy.yaml forbids.
"""

import concurrent.futures
import json
import uuid

import bearer
import pytest

from testbed import platform
from testbed.follower import Follower
from testbed.testbed import FunctionFailed

# Its fixtures are made once for the whole file.
pytestmark = [pytest.mark.xdist_group("rights-in-a-cluster"), pytest.mark.slow]

# What it comes to: refused before anything is minted, or held with the reason.
PREFLIGHT = "PreflightFailed"
ROTATION = "held"

KINDS = {"deployments": "Deployment", "statefulsets": "StatefulSet", "daemonsets": "DaemonSet"}

# What stops a rotation without the right. What can be found before anything is minted is found then.
NEEDED_FOR_ROTATING = {
    **{("apps", kind, verb): PREFLIGHT for kind in KINDS for verb in ("get", "patch")},
    **{("apps", kind, verb): ROTATION for kind in KINDS for verb in ("list", "watch")},
    ("apps", "replicasets", "list"): ROTATION,
    ("", "pods", "list"): ROTATION,
    ("", "pods", "watch"): ROTATION,
    ("", "secrets", "get"): ROTATION,
    ("external-secrets.io", "externalsecrets", "get"): PREFLIGHT,
    ("external-secrets.io", "externalsecrets", "list"): ROTATION,
    ("external-secrets.io", "externalsecrets", "watch"): ROTATION,
    ("external-secrets.io", "externalsecrets", "patch"): PREFLIGHT,
}
# Without it a failure is told in fewer words.
NEEDED_FOR_REASONS = ("", "events", "list")
# Without these preflight says what it did not look at.
NEEDED_FOR_PREFLIGHT = [
    ("batch", "cronjobs", "list"),
    ("batch", "jobs", "list"),
    ("external-secrets.io", "secretstores", "get"),
]
# Of the Secret that it writes itself, in the example of the manifest.
NEEDED_FOR_WRITING = {("", "secrets/datastore-token", verb) for verb in ("get", "create", "patch")}
# What it has in every namespace, and in none: infra/eks-policy.yaml.
OF_THE_CLUSTER = {
    ("external-secrets.io", "clusterexternalsecrets/datastore-token", "get"),
    ("external-secrets.io", "clusterexternalsecrets/datastore-token", "patch"),
    ("external-secrets.io", "clustersecretstores/parameter-store", "get"),
}
GRANTED = {*NEEDED_FOR_ROTATING, NEEDED_FOR_REASONS, *NEEDED_FOR_PREFLIGHT, *NEEDED_FOR_WRITING}


class Restricted(Follower):
    """A token that one workload follows, where rights can be taken from the function."""

    def take(self, right: tuple[str, str, str]) -> None:
        """Takes the right away from the function; returns when the API server knows."""
        group, resource, verb = right
        rights = self.rights()
        for role in (each for each in rights if each["kind"] == "Role"):
            for rule in list(role["rules"]):
                if group in rule["apiGroups"] and resource in rule["resources"] and "resourceNames" not in rule:
                    rule["resources"].remove(resource)
                    left = [each for each in rule["verbs"] if each != verb]
                    role["rules"].append({"apiGroups": [group], "resources": [resource], "verbs": left})
            role["rules"] = [rule for rule in role["rules"] if rule["verbs"] and rule["resources"]]
        self.apply(*rights)
        self._wait_until_allowed(right, False)

    def give_back(self, right: tuple[str, str, str]) -> None:
        self.apply(*self.rights())
        self._wait_until_allowed(right, True)

    def _wait_until_allowed(self, right: tuple[str, str, str], allowed: bool) -> None:
        group, resource, verb = right
        attributes = {"namespace": self.name, "group": group, "resource": resource, "verb": verb}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": "changeover:rights", "groups": ["changeover"], "resourceAttributes": attributes},
        }

        def reviewed() -> bool:
            answer = self.testbed.kubectl("create", "--filename=-", "--output=json", stdin=json.dumps(review))
            return json.loads(answer)["status"]["allowed"] == allowed

        platform.wait_until(reviewed, 60, f"{verb} {resource} in {self.name} is {'' if allowed else 'not '}allowed")


@pytest.fixture(scope="module")
def attempts(testbed):
    """Each case's outcomes without the right and with it again: all are under way at once, for they mostly wait."""
    with concurrent.futures.ThreadPoolExecutor(len(NEEDED_FOR_ROTATING)) as executor:
        yield {right: executor.submit(_attempt, testbed, right) for right in NEEDED_FOR_ROTATING}


def each_manifest_right_is_tried(testbed):
    roles = [each for each in Follower(testbed, "any").rights() if each["kind"] == "Role"]
    assert _expanded([rule for role in roles for rule in role["rules"]]) == GRANTED


@pytest.mark.parametrize("right", NEEDED_FOR_ROTATING, ids=lambda right: f"{right[2]} {right[1]}")
def rotation_stops_without_right_and_resumes_with_it(attempts, right):
    (came_to, words), answer = attempts[right].result()
    group, resource, verb = right
    assert came_to == NEEDED_FOR_ROTATING[right], f"{came_to} without {verb} {resource}"
    assert f'cannot {verb} resource "{resource}" in API group "{group}"' in words
    assert answer["outcome"] in ("rotated", "unchanged")


def _attempt(testbed, right: tuple[str, str, str]):
    """What a rotation came to without the right, in words too, and what once it was given back."""
    _, resource, verb = right
    kind = KINDS.get(resource, "Deployment")
    with Restricted(testbed, f"without-{verb}-{resource}", kind) as follower:
        follower.create()
        follower.invoke("publish")
        testbed.kubectl(
            "rollout", "status", f"{kind.lower()}/follower", f"--namespace={follower.name}", "--timeout=60s", seconds=70
        )
        follower.take(right)
        try:
            answer = follower.invoke("rotate", key="rights")
            without = answer["outcome"], (answer["held"] or {}).get("reason", "")
        except FunctionFailed as refusal:
            without = refusal.error_type, refusal.message
        follower.give_back(right)
        return without, follower.rotate("rights")


def sync_failure_cause_requires_right_to_list_events(testbed):
    with Restricted(testbed, "without-list-events") as follower:
        follower.create()
        with_it = platform.wait_until(lambda: _failed_sync(follower), 30, "a failed sync")
        follower.take(NEEDED_FOR_REASONS)
        without = _failed_sync(follower)
        # That the parameter does not exist is told by the event alone.
        assert follower.token_parameter in with_it
        assert follower.token_parameter not in without


def _failed_sync(follower: Restricted) -> str | None:
    """What preflight says of the ExternalSecret's last sync, which failed."""
    (inspection,) = follower.invoke("preflight")["results"]
    return next((each["reason"] for each in inspection["findings"] if "last sync failed" in each["reason"]), None)


def preflight_reports_checks_skipped_without_rights(testbed):
    with Restricted(testbed, "without-looking-around") as follower:
        follower.create()
        store = {"kind": "SecretStore", "name": "of-the-team"}
        provider = {"fake": {"data": [{"key": "/anything", "value": "anything"}]}}
        metadata = {"name": store["name"], "namespace": follower.name}
        follower.apply(
            {
                "apiVersion": "external-secrets.io/v1",
                "kind": "SecretStore",
                "metadata": metadata,
                "spec": {"provider": provider},
            }
        )
        follower.testbed.kubectl(
            "patch", "externalsecret", "token", f"--namespace={follower.name}", "--type=merge",
            f"--patch={json.dumps({'spec': {'secretStoreRef': store}})}",
        )
        assert _not_looked_at(follower) == set()
        for group, resource, verb in NEEDED_FOR_PREFLIGHT:
            follower.take((group, resource, verb))
            assert _not_looked_at(follower) == {f"grant the verb {verb} on {resource}.{group}"}
            follower.give_back((group, resource, verb))


def _not_looked_at(follower: Restricted) -> set[str]:
    (inspection,) = follower.invoke("preflight")["results"]
    warned = [each for each in inspection["findings"] if each["severity"] == "warning" and "grant" in each["fix"]]
    return {each["fix"].partition(" in namespace")[0] for each in warned}


def cluster_rights_let_preflight_check_store(testbed):
    with Restricted(testbed, "with-a-store") as follower:
        follower.create()
        (inspection,) = follower.invoke("preflight")["results"]
        store = f"{testbed.cluster}/clustersecretstore/parameter-store"
        assert {"object": store, "what": ["it is ready"]} in inspection["checked"]


# What the function may not do there, for want of rights.


@pytest.fixture(scope="module")
def namespaces(testbed) -> tuple[str, str]:
    """One in which the function has its rights, and one in which it has none; each with a Deployment and a Secret."""
    names = []
    for each in ("granted", "another"):
        follower = Follower(testbed, f"{each}-{uuid.uuid4().hex[:8]}")
        follower.create()
        follower.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine", "namespace": follower.name}})
        names.append(follower.name)
    ours = "--selector=app.kubernetes.io/name=changeover"
    testbed.kubectl("delete", "rolebinding", ours, f"--namespace={names[1]}")
    return names[0], names[1]


@pytest.fixture(scope="module")
def token(testbed) -> bearer.Bearer:
    """A right token of the function's group."""
    return bearer.admitted(testbed, f"rights-{uuid.uuid4().hex[:8]}")


CORE, APPS = "/api/v1/namespaces", "/apis/apps/v1/namespaces"
SECRETS = "/apis/external-secrets.io/v1/namespaces"
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces"
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
NEW = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "new"},
    "spec": {
        "selector": {"matchLabels": {"app": "new"}},
        "template": {
            "metadata": {"labels": {"app": "new"}},
            "spec": {"containers": [{"name": "main", "image": "local/process"}]},
        },
    },
}
POD = {"metadata": {"name": "mine"}, "spec": {"containers": [{"name": "main", "image": "local/process"}]}}

# By what it would be: method, path ({here} is where the function has its rights), body and its kind.
FORBIDDEN = {
    "list the Secrets": ("GET", f"{CORE}/{{here}}/secrets"),
    "watch the Secrets": ("GET", f"{CORE}/{{here}}/secrets?watch=true&timeoutSeconds=1"),
    "list all Secrets": ("GET", "/api/v1/secrets"),
    "change a Secret": ("PATCH", f"{CORE}/{{here}}/secrets/mine", {"stringData": {"x": "y"}}, MERGE),
    "create a Secret": ("POST", f"{CORE}/{{here}}/secrets", {"metadata": {"name": "new"}}),
    "read another namespace's Secret": ("GET", f"{CORE}/{{elsewhere}}/secrets/mine"),
    "create a pod": ("POST", f"{CORE}/{{here}}/pods", POD),
    "delete a pod": ("DELETE", f"{CORE}/{{here}}/pods/mine"),
    "run a command in a pod": ("POST", f"{CORE}/{{here}}/pods/mine/exec?command=env"),
    "read a pod's log": ("GET", f"{CORE}/{{here}}/pods/mine/log"),
    "list another namespace's pods": ("GET", f"{CORE}/{{elsewhere}}/pods"),
    "be a service account": ("POST", f"{CORE}/{{here}}/serviceaccounts/default/token", {"spec": {}}),
    "delete a Deployment": ("DELETE", f"{APPS}/{{here}}/deployments/follower"),
    "delete the Deployments": ("DELETE", f"{APPS}/{{here}}/deployments"),
    "create a Deployment": ("POST", f"{APPS}/{{here}}/deployments", NEW),
    "create a Deployment by applying": (
        "PATCH", f"{APPS}/{{here}}/deployments/new?fieldManager=x", NEW, APPLY
    ),
    "scale a Deployment": (
        "PATCH", f"{APPS}/{{here}}/deployments/follower/scale", {"spec": {"replicas": 0}}, MERGE
    ),
    "read another namespace's Deployment": ("GET", f"{APPS}/{{elsewhere}}/deployments/follower"),
    "change another namespace's Deployment": (
        "PATCH", f"{APPS}/{{elsewhere}}/deployments/follower", {"metadata": {"labels": {"x": "y"}}}, MERGE
    ),
    "delete an ExternalSecret": ("DELETE", f"{SECRETS}/{{here}}/externalsecrets/token"),
    "read where secrets come from": ("GET", "/apis/external-secrets.io/v1/clustersecretstores"),
    "read another cluster-wide store": ("GET", "/apis/external-secrets.io/v1/clustersecretstores/another"),
    "create another Secret by applying": (
        "PATCH", f"{CORE}/{{here}}/secrets/another?fieldManager=changeover-presenter-a", {"metadata": {"name": "another"}}, APPLY
    ),
    "give itself rights": ("PATCH", f"{RBAC}/{{here}}/roles/changeover-rollouts", {"rules": []}, MERGE),
    "bind itself to more": ("POST", f"{RBAC}/{{here}}/rolebindings", {"metadata": {"name": "new"}}),
    "list namespaces": ("GET", "/api/v1/namespaces"),
}


@pytest.mark.parametrize("attempt", FORBIDDEN)
def ungranted_request_of_function_is_forbidden(testbed, token, namespaces, attempt):
    here, elsewhere = namespaces
    method, path, *body = FORBIDDEN[attempt]
    status, answer = bearer.asked(testbed, token, method, path.format(here=here, elsewhere=elsewhere), *body)
    assert (status, answer["reason"]) == (403, "Forbidden"), answer


def granted_requests_succeed_with_same_token(testbed, token, namespaces):
    """Or the refusals would say nothing."""
    here, _ = namespaces
    for path in (f"{CORE}/{here}/secrets/mine", f"{CORE}/{here}/pods", f"{APPS}/{here}/deployments/follower"):
        assert bearer.asked(testbed, token, "GET", path)[0] == 200
    stamped = _pod_template(metadata={"annotations": {"verifier.changeover.dev/mine": "1"}})
    assert bearer.asked(testbed, token, "PATCH", f"{APPS}/{here}/deployments/follower", stamped, MERGE)[0] == 200


def function_group_has_exactly_manifest_rights(testbed, token, namespaces):
    here, elsewhere = (_expanded(_rules(testbed, token, namespace)) for namespace in namespaces)
    # What everybody has who is somebody, such as asking for one's own rights.
    everybodys = {right for right in elsewhere if right[0] in ("authorization.k8s.io", "authentication.k8s.io")}
    assert elsewhere - everybodys == OF_THE_CLUSTER
    assert here - elsewhere == GRANTED


def _rules(testbed, token: bearer.Bearer, namespace: str) -> list[dict]:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    status, answer = bearer.asked(testbed, token, "POST", path, review)
    assert (status, answer["status"]["incomplete"]) == (201, False)
    return answer["status"]["resourceRules"]


def _expanded(rules: list[dict]) -> set[tuple[str, str, str]]:
    """The rules as single rights: API group, resource with the names it is limited to, verb."""
    return {
        (group, "/".join([resource, *rule.get("resourceNames", [])]), verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


# What RBAC grants, and the policies of infra/eks-policy.yaml forbid.

STRATEGIC = "application/strategic-merge-patch+json"
DEPLOYMENT = f"{APPS}/{{here}}/deployments/follower"
EXTERNAL_SECRET = f"{SECRETS}/{{here}}/externalsecrets/token"
SECRET = f"{CORE}/{{here}}/secrets/datastore-token"
STAMP = {"presenter.changeover.dev/mine": "7"}


def _pod_template(**fields) -> dict:
    return {"spec": {"template": fields}}


def _container(**fields) -> dict:
    return _pod_template(spec={"containers": [{"name": "main", **fields}]})


FORBIDDEN_BY_POLICY = {
    "run another image": (DEPLOYMENT, _container(image="evil/image"), STRATEGIC),
    "run another command": (DEPLOYMENT, _container(command=["/bin/sh", "-c", "env"]), STRATEGIC),
    "run another container": (
        DEPLOYMENT, _pod_template(spec={"containers": [{"name": "more", "image": "evil/image"}]}), STRATEGIC
    ),
    "give a container another variable": (DEPLOYMENT, _container(env=[{"name": "X", "value": "y"}]), STRATEGIC),
    "mount another Secret": (
        DEPLOYMENT, _pod_template(spec={"volumes": [{"name": "x", "secret": {"secretName": "mine"}}]}), STRATEGIC
    ),
    "change whose account pods use": (DEPLOYMENT, _pod_template(spec={"serviceAccountName": "admin"}), MERGE),
    "change the number of replicas": (DEPLOYMENT, {"spec": {"replicas": 7}}, MERGE),
    "pause a Deployment": (DEPLOYMENT, {"spec": {"paused": True}}, MERGE),
    "label a Deployment": (DEPLOYMENT, {"metadata": {"labels": {"x": "y"}}}, MERGE),
    "annotate a Deployment": (DEPLOYMENT, {"metadata": {"annotations": {"x": "y"}}}, MERGE),
    "label pods": (DEPLOYMENT, _pod_template(metadata={"labels": {"x": "y"}}), MERGE),
    "annotate pods with another's annotation": (
        DEPLOYMENT, _pod_template(metadata={"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}), MERGE
    ),
    "write anything but a stamp into its annotation": (
        DEPLOYMENT, _pod_template(metadata={"annotations": {"presenter.changeover.dev/mine": "7 and more"}}), MERGE
    ),
    "take another's annotation away": (DEPLOYMENT, _pod_template(metadata={"annotations": {"team": None}}), MERGE),
    "stamp and change": (
        DEPLOYMENT, {"spec": {"replicas": 7, "template": {"metadata": {"annotations": STAMP}}}}, MERGE
    ),
    "label an ExternalSecret": (EXTERNAL_SECRET, {"metadata": {"labels": {"x": "y"}}}, MERGE),
    "annotate an ExternalSecret otherwise": (EXTERNAL_SECRET, {"metadata": {"annotations": {"x": "y"}}}, MERGE),
    "copy another parameter": (
        EXTERNAL_SECRET, {"spec": {"data": [{"secretKey": "token", "remoteRef": {"key": "/another"}}]}}, MERGE
    ),
    "copy into another Secret": (EXTERNAL_SECRET, {"spec": {"target": {"name": "another"}}}, MERGE),
    "take an ExternalSecret over": (
        EXTERNAL_SECRET,
        {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Secret", "name": "mine", "uid": "1"}]}},
        MERGE,
    ),
}


@pytest.mark.parametrize("attempt", FORBIDDEN_BY_POLICY)
def policy_refuses_forbidden_change_of_function(testbed, token, namespaces, attempt):
    path, body, kind = FORBIDDEN_BY_POLICY[attempt]
    _assert_refused_by_policy(*_patched(testbed, token, namespaces, path, body, kind))


def _patched(testbed, token, namespaces, path: str, body: dict, kind: str = MERGE) -> tuple[int, dict]:
    return bearer.asked(testbed, token, "PATCH", path.format(here=namespaces[0]), body, kind)


def _assert_refused_by_policy(status: int, answer: dict) -> None:
    assert (status, answer["reason"]) == (422, "Invalid"), answer["message"]
    assert "ValidatingAdmissionPolicy 'changeover-" in answer["message"]


def policy_allows_stamp_and_forced_refresh(testbed, token, namespaces):
    for revision in ("7", "01a3c2f8d5009f3c61ab.8"):
        stamp = _pod_template(metadata={"annotations": {"presenter.changeover.dev/mine": revision}})
        for path, body in (
            (DEPLOYMENT, stamp),
            (EXTERNAL_SECRET, {"metadata": {"annotations": {"force-sync": revision}}}),
        ):
            status, answer = _patched(testbed, token, namespaces, path, body)
            assert status == 200, answer
        apply = {"apiVersion": "apps/v1", "kind": "Deployment", **stamp}
        manager = "?fieldManager=changeover-presenter-mine&force=true"
        status, answer = _patched(testbed, token, namespaces, DEPLOYMENT + manager, apply, APPLY)
        assert status == 200, answer


def policy_exempts_other_identities(testbed, namespaces):
    scaled = json.dumps({"spec": {"replicas": 2}, "metadata": {"labels": {"x": "y"}}})
    testbed.kubectl("patch", "deployment", "follower", f"--namespace={namespaces[0]}", f"--patch={scaled}")


def function_writes_only_its_key_of_granted_secret(testbed, token, namespaces):
    def applied(data: dict, side: str = "presenter", **fields) -> tuple[int, dict]:
        stamped = {"name": "datastore-token", "annotations": {f"{side}.changeover.dev/mine": "7"}}
        metadata = stamped | fields.pop("metadata", {})
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data} | fields
        manager = f"?fieldManager=changeover-{side}-mine&force=true"
        return _patched(testbed, token, namespaces, SECRET + manager, body, APPLY)

    def merged(change: dict) -> tuple[int, dict]:
        return _patched(testbed, token, namespaces, SECRET, change)

    of_an_account = {
        "type": "kubernetes.io/service-account-token",
        "metadata": {"annotations": {"kubernetes.io/service-account.name": "default", **STAMP}},
    }
    for refused in (
        applied({"token": "b25l"}, **of_an_account),
        applied({"token": "b25l"}, type="example.com/other"),
        applied({"token": "b25l"}, metadata={"annotations": {}}),
        applied({"token": "b25l"}, metadata={"labels": {"x": "y"}}),
        applied({"token": "b25l"}, metadata={"finalizers": ["x.example/y"]}),
        applied({"token": "b25l"}, immutable=True),
        applied({"token": "b25l", "more": "b25l"}),
    ):
        _assert_refused_by_policy(*refused)

    status, created = applied({"token": "b25l"})
    assert status == 201, created
    theirs = json.dumps({"metadata": {"labels": {"team": "a"}}, "stringData": {"theirs": "x"}})
    testbed.kubectl("patch", "secret", "datastore-token", f"--namespace={namespaces[0]}", f"--patch={theirs}")
    for refused in (
        merged({"data": {"theirs": None}}),
        merged({"data": {"token": "dHdv", "theirs": "dHdv"}}),
        merged({"metadata": {"labels": None}}),
        merged({"metadata": {"annotations": None}}),
        merged({"metadata": {"annotations": {"x": "y"}}}),
        merged({"metadata": {"annotations": {"presenter.changeover.dev/mine": "y"}}}),
        merged({"immutable": True}),
    ):
        _assert_refused_by_policy(*refused)
    assert applied({"token": "dHdv"})[0] == 200
    assert applied({"accepted": "b25l"}, side="verifier")[0] == 200
    # The spec names another key: the one before goes, and nobody else's.
    status, renamed = applied({"renamed": "dHdv"})
    assert (status, sorted(renamed["data"])) == (200, ["accepted", "renamed", "theirs"])
    assert bearer.asked(testbed, token, "GET", SECRET.format(here=namespaces[0]))[0] == 200


def cluster_external_secret_allows_only_forced_refresh(testbed, token):
    testbed.kubectl(
        "apply", "--filename=-",
        stdin=json.dumps(
            {
                "apiVersion": "external-secrets.io/v1",
                "kind": "ClusterExternalSecret",
                "metadata": {"name": "datastore-token"},
                "spec": {"namespaces": ["nowhere"], "externalSecretSpec": {"refreshInterval": "1h"}},
            }
        ),
    )
    path = "/apis/external-secrets.io/v1/clusterexternalsecrets/datastore-token"
    forced = {"metadata": {"annotations": {"external-secrets.io/force-sync": "1"}}}
    assert bearer.asked(testbed, token, "PATCH", path, forced, MERGE)[0] == 200
    for change in ({"spec": {"namespaces": ["kube-system"]}}, {"metadata": {"labels": {"x": "y"}}}):
        _assert_refused_by_policy(*bearer.asked(testbed, token, "PATCH", path, change, MERGE))
    assert bearer.asked(testbed, token, "GET", path)[0] == 200
