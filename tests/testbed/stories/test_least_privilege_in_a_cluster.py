"""The rights of infra/eks-rbac.yaml are what the function needs in a cluster, and all that it has.

Each case of the first part has a namespace of its own, in which the function lacks one verb on one resource, and gets it
back. The second part tries what the manifest does not grant.
"""

import concurrent.futures
import json
import uuid

import bearer
import pytest

from testbed import platform
from testbed.follower import Follower
from testbed.testbed import FunctionFailed

ROTATION = "AccessDenied"
PREFLIGHT = "PreflightFailed"

# What refuses a rotation without the right. What can be found before anything is minted is found then.
NEEDED_FOR_ROTATING = {
    ("apps", "deployments", "get"): PREFLIGHT,
    ("apps", "deployments", "list"): ROTATION,
    ("apps", "deployments", "watch"): ROTATION,
    ("apps", "deployments", "patch"): ROTATION,
    ("apps", "replicasets", "list"): ROTATION,
    ("", "pods", "list"): ROTATION,
    ("", "pods", "watch"): ROTATION,
    ("", "secrets", "get"): ROTATION,
    ("external-secrets.io", "externalsecrets", "get"): PREFLIGHT,
    ("external-secrets.io", "externalsecrets", "list"): ROTATION,
    ("external-secrets.io", "externalsecrets", "watch"): ROTATION,
    ("external-secrets.io", "externalsecrets", "patch"): ROTATION,
}
# The same of the other kinds, without which rolling one out is refused: tests/it/real_cluster/rollouts.rs tries each.
NEEDED_FOR_OTHER_KINDS = {
    ("apps", kind, verb) for kind in ("statefulsets", "daemonsets") for verb in ("get", "list", "watch", "patch")
}
# Without it a failure is told in fewer words.
NEEDED_FOR_REASONS = ("", "events", "list")


class Restricted(Follower):
    """A token that one Deployment follows, where rights can be taken from the function."""

    def take(self, right: tuple[str, str, str]) -> None:
        """Takes the right away from the function; returns when the API server knows."""
        group, resource, verb = right
        role, binding = self.rights()
        for rule in role["rules"]:
            if group in rule["apiGroups"] and resource in rule["resources"]:
                rule["verbs"].remove(verb)
        role["rules"] = [rule for rule in role["rules"] if rule["verbs"]]
        self.apply(role, binding)
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

        platform.wait_until(reviewed, 10, f"{verb} {resource} in {self.name} is {'' if allowed else 'not '}allowed")


@pytest.fixture(scope="module")
def attempts(testbed):
    """Each case's outcomes without the right and with it again: all are under way at once, for they mostly wait."""
    with concurrent.futures.ThreadPoolExecutor(len(NEEDED_FOR_ROTATING)) as executor:
        yield {right: executor.submit(_attempt, testbed, right) for right in NEEDED_FOR_ROTATING}


def every_right_of_the_manifest_is_tried(testbed):
    role, _ = Follower(testbed, "any").rights()
    assert _expanded(role["rules"]) == {*NEEDED_FOR_ROTATING, *NEEDED_FOR_OTHER_KINDS, NEEDED_FOR_REASONS}


@pytest.mark.parametrize("right", NEEDED_FOR_ROTATING, ids=lambda right: f"{right[2]} {right[1]}")
def without_this_right_a_rotation_is_refused_and_with_it_goes_on(attempts, right):
    without, answer = attempts[right].result()
    group, resource, verb = right
    assert isinstance(without, FunctionFailed), f"{without['outcome']} without {verb} {resource}: nothing needs it"
    assert without.error_type == NEEDED_FOR_ROTATING[right]
    assert f'cannot {verb} resource "{resource}" in API group "{group}"' in without.message
    assert answer["outcome"] in ("rotated", "unchanged")


def _attempt(testbed, right: tuple[str, str, str]):
    """What a rotation came to without the right, a refusal hopefully, and what once it was given back."""
    _, resource, verb = right
    with Restricted(testbed, f"without-{verb}-{resource}") as follower:
        follower.create()
        follower.invoke("publish")
        follower.wait_available("follower")
        follower.take(right)
        try:
            without = follower.invoke("rotate", key="rights")
        except FunctionFailed as refusal:
            without = refusal
        follower.give_back(right)
        return without, follower.rotate("rights")


def without_the_right_to_list_events_it_is_not_said_why_a_sync_fails(testbed):
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


# What the function may not do there.


@pytest.fixture(scope="module")
def namespaces(testbed) -> tuple[str, str]:
    """One in which the function has its rights, and one in which it has none; each with a Deployment and a Secret."""
    names = []
    for each in ("granted", "another"):
        follower = Follower(testbed, f"{each}-{uuid.uuid4().hex[:8]}")
        follower.create()
        follower.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine", "namespace": follower.name}})
        names.append(follower.name)
    testbed.kubectl("delete", "rolebinding", "changeover", f"--namespace={names[1]}")
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
    "give itself rights": ("PATCH", f"{RBAC}/{{here}}/roles/changeover", {"rules": []}, MERGE),
    "bind itself to more": ("POST", f"{RBAC}/{{here}}/rolebindings", {"metadata": {"name": "new"}}),
    "list namespaces": ("GET", "/api/v1/namespaces"),
}


@pytest.mark.parametrize("attempt", FORBIDDEN)
def the_function_may_not(testbed, token, namespaces, attempt):
    here, elsewhere = namespaces
    method, path, *body = FORBIDDEN[attempt]
    status, answer = bearer.asked(testbed, token, method, path.format(here=here, elsewhere=elsewhere), *body)
    assert (status, answer["reason"]) == (403, "Forbidden"), answer


def the_same_token_may_do_what_is_granted(testbed, token, namespaces):
    """Or the refusals would say nothing."""
    here, _ = namespaces
    for path in (f"{CORE}/{here}/secrets/mine", f"{CORE}/{here}/pods", f"{APPS}/{here}/deployments/follower"):
        assert bearer.asked(testbed, token, "GET", path)[0] == 200
    stamped = {"metadata": {"annotations": {"verifier.changeover.dev/mine": "1"}}}
    assert bearer.asked(testbed, token, "PATCH", f"{APPS}/{here}/deployments/follower", stamped, MERGE)[0] == 200


def the_functions_group_has_the_rights_of_the_manifest_and_no_others(testbed, token, namespaces):
    here, elsewhere = (_expanded(_rules(testbed, token, namespace)) for namespace in namespaces)
    # What everybody has who is somebody, such as asking for one's own rights.
    assert {group for group, _, _ in elsewhere} <= {"authorization.k8s.io", "authentication.k8s.io"}
    assert here - elsewhere == {*NEEDED_FOR_ROTATING, *NEEDED_FOR_OTHER_KINDS, NEEDED_FOR_REASONS}


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
