"""The function's role may do what it needs, and nothing else: without any one of its grants something fails that worked.

Each case of the first part runs the function's binary with a session of the role that lacks one action of one statement (a
statement is needed as soon as one of its actions is), and then with nothing lacking. The second part tries what nobody
granted.
"""

import concurrent.futures
import json
import re
import secrets
import threading
import uuid

import botocore.exceptions
import pytest

from testbed import grants, platform, runtime_interface, tokens
from testbed.deployment import CLUSTER_ROLE, INBOX_PATH, PROJECT
from testbed.dynamic_service import DynamicService
from testbed.runtime_interface import Function
from testbed.testbed import FunctionFailed

# Its fixtures are made once for the whole file, and keep both cores busy.
pytestmark = [pytest.mark.xdist_group("heavy"), pytest.mark.slow]

# What AWS does in the function's name, and the emulator does without asking. What these allow, and under which conditions,
# is held by tests/it/template.rs; so are all conditions on KMS, which the emulator does not evaluate.
NOT_ASKED_FOR = {
    "WriteTheLog": "Lambda writes the log",
    "UseTheEncryptedTable": "DynamoDB encrypts the table of records",
    "EncryptPublications": "Parameter Store encrypts parameters",
    "ReadTokensOfClusters": "Parameter Store decrypts the tokens that clusters know the function by",
    "EncryptPublicationsUnderOtherKeys": "so it does with keys that the testbed's stack does not name",
    "DecryptTheInbox": "Parameter Store decrypts what arrived",
    "DecryptTheInboxUnderOtherKeys": "so it does with keys that the testbed's stack does not name",
    "SendTraces": "Lambda sends traces, where the stack asks for them",
    "AttachToTheVpc": "Lambda makes network interfaces, where the stack names subnets",
    "LeaveTheVpcToLambda": "a denial",
    "KeepFailedEvents": "Lambda keeps events that the function failed on",
    "AnswerPipelines": "the emulator has no CodePipeline; test_code_pipeline.py refuses the answers of a role without it",
}


class Rotating:
    """A token in an item and in a parameter is rotated."""

    outcomes = {"rotated"}
    refusal = "AccessDenied"

    def __init__(self, testbed) -> None:
        self.testbed = testbed
        self.service = DynamicService(testbed, f"needs-{uuid.uuid4().hex[:8]}")

    def prepare(self) -> None:
        """What has to be there before; done with every right."""
        self.service.create_table()
        self.service.put_spec(self.spec())
        self.service.invoke("publish")

    def spec(self) -> dict:
        return self.service.spec()

    def ask(self, function: Function) -> dict:
        return function.invoke({"action": "rotate", "token": self.service.token})


class SavingHeartbeats(Rotating):
    """A rotation that waits for its readers keeps others from taking it over meanwhile."""

    # A heartbeat is saved each five seconds, as deployment.py lowers the lease.
    within = "9s"

    def spec(self) -> dict:
        spec = self.service.spec()
        spec["verifiers"]["within"] = self.within
        return spec

    def ask(self, function: Function) -> dict:
        answer = super().ask(function)
        for entry in map(json.loads, function.log.read_text().splitlines()):
            if entry.get("message") == "heartbeat not saved":
                raise FunctionFailed(self.refusal, entry["error"])
        return answer


class Joining(SavingHeartbeats):
    """A trigger joins the rotation that another one began and that goes on."""

    outcomes = {"in_progress"}
    within = "30s"

    def prepare(self) -> None:
        self.service.create_table()
        # Published with a short wait and rotated with a long one, the end of which nobody waits for.
        self.service.put_spec(self.service.spec())
        self.service.invoke("publish")
        self.service.put_spec(self.spec())
        threading.Thread(target=self.service.invoke, args=("rotate",), daemon=True).start()
        platform.wait_until(lambda: self.service.status()["rotation"], 30, "a rotation that can be joined")

    def ask(self, function: Function) -> dict:
        return function.invoke({"action": "rotate", "token": self.service.token, "key": uuid.uuid4().hex})


class PublishingFirst(Rotating):
    """A token is created, in a parameter that was never seen before."""

    outcomes = {"published"}

    def prepare(self) -> None:
        self.service.create_table()
        self.service.put_spec(self.spec())

    def ask(self, function: Function) -> dict:
        return function.invoke({"action": "publish", "token": self.service.token})


class Adopting(PublishingFirst):
    """A value that somebody wrote by hand becomes a version, unless it was one before."""

    def prepare(self) -> None:
        super().prepare()
        self.service.invoke("publish")
        self.service.write_by_hand(secrets.token_hex(32))

    def ask(self, function: Function) -> dict:
        return function.invoke({"action": "publish", "token": self.service.token, "adopt": True})


class Importing(Rotating):
    """What an issuer put into the inbox is rotated to."""

    outcomes = {"rotated", "unchanged"}

    def prepare(self) -> None:
        self.inbox = f"{INBOX_PATH}/{self.service.token}"
        self._arrive()
        super().prepare()
        self._arrive()

    def spec(self) -> dict:
        return self.service.spec() | {"source": {"parameter": self.inbox}}

    def ask(self, function: Function) -> dict:
        return function.invoke({"action": "import", "parameter": self.inbox})

    def _arrive(self) -> None:
        value = self.service.spec()["token"]["prefix"] + secrets.token_urlsafe(48)
        self.testbed.boto3("ssm").put_parameter(Name=self.inbox, Type="SecureString", Value=value, Overwrite=True)


class PublishingElsewhereLater(PublishingFirst):
    """The current token is published to a parameter that was added to the spec."""

    def prepare(self) -> None:
        super().prepare()
        self.service.invoke("publish")
        spec = self.spec()
        spec["presenters"]["publish"].append({"ssm": f"{self.service.token_parameter}-elsewhere"})
        self.service.put_spec(spec)


class FollowingAWorkload(PublishingFirst):
    """A token is created that a workload of a cluster follows; what may not be read stops it before anything is minted."""

    refusal = "PreflightFailed"

    def prepare(self) -> None:
        self.service.create_namespace()
        super().prepare()

    def spec(self) -> dict:
        spec = self.service.spec()
        workload = {"cluster": self.testbed.cluster, "namespace": self.service.name, "deployment": "not-there-yet"}
        spec["presenters"]["workloads"] = [workload]
        return spec


class FollowingAWorkloadThroughARole(FollowingAWorkload):
    """The same, where the cluster is reached through a role."""

    def prepare(self) -> None:
        description = {"eks": {"name": self.testbed.cluster, "role": CLUSTER_ROLE}}
        name = f"{self.testbed.clusters}/{self.service.name}"
        self.testbed.boto3("ssm").put_parameter(Name=name, Type="String", Value=json.dumps(description))
        tokens.create_cluster_role(self.testbed)
        super().prepare()

    def spec(self) -> dict:
        spec = super().spec()
        spec["presenters"]["workloads"][0]["cluster"] = self.service.name
        return spec


class TellingSubscribers(Rotating):
    """A rotation is told; where it is not, it goes on all the same, and the log says so."""

    def ask(self, function: Function) -> dict:
        answer = super().ask(function)
        for entry in map(json.loads, function.log.read_text().splitlines()):
            if entry.get("message") == "events not sent":
                raise FunctionFailed(self.refusal, entry["error"])
        return answer


class Sweeping(Rotating):
    """What is owed is found."""

    outcomes = {"swept"}

    def prepare(self) -> None:
        """Nothing: that there is nothing to do has to be found too."""

    def ask(self, function: Function) -> dict:
        return function.invoke({"action": "sweep"})


class HandingOn(Sweeping):
    """A sweep hands on what it does not carry on itself."""

    # Four more than that.
    tokens = 12

    def ask(self, function: Function) -> dict:
        """Of records that have been due for longest: they are none that the function wrote, so any sweep has them back off, and those
        of the other attempts do, too."""
        owners = [f"token#{self.service.name}-{number}" for number in range(self.tokens)]
        self.records = [{"pk": {"S": owner}, "sk": {"S": "record"}} for owner in owners]
        return platform.wait_until(lambda: self._handed_on(function), 60, "a sweep hands records on")

    def _handed_on(self, function: Function) -> dict | None:
        dynamodb = self.testbed.boto3("dynamodb")
        for key in self.records:
            owed = {"owed": {"S": "1"}, "due_at": {"S": "2000-01-01T00:00:00.000Z"}}
            dynamodb.put_item(TableName=self.testbed.table, Item=key | owed)
        answer = super().ask(function)
        ours = [each for each in answer["results"] if each["token"].startswith(self.service.name)]
        for each in ours:
            if each.get("error") == self.refusal:
                raise FunctionFailed(each["error"], each["message"])
        if not [each for each in ours if each.get("outcome") == "handed_on"]:
            return None
        for key in self.records:
            dynamodb.delete_item(TableName=self.testbed.table, Key=key)
        return answer


class TellingOfAll(Sweeping):
    """The status of all tokens is told."""

    outcomes = {"reported"}

    def ask(self, function: Function) -> dict:
        return function.invoke({"action": "status"})


NEEDED_FOR = {
    ("KeepRecords", "dynamodb:ConditionCheckItem"): Joining,
    ("KeepRecords", "dynamodb:GetItem"): Rotating,
    ("KeepRecords", "dynamodb:PutItem"): Rotating,
    ("KeepRecords", "dynamodb:UpdateItem"): SavingHeartbeats,
    ("FindWhatIsOwed", "dynamodb:Query"): Sweeping,
    ("FindEndedVersions", "dynamodb:Query"): Adopting,
    ("HandOnSweeps", "lambda:InvokeFunction"): HandingOn,
    ("ReadTheInbox", "ssm:GetParameter"): Importing,
    ("Seal", "kms:Encrypt"): Rotating,
    ("Seal", "kms:Decrypt"): PublishingElsewhereLater,
    ("ReadSpecs", "ssm:GetParameter"): Rotating,
    ("ListSpecs", "ssm:GetParametersByPath"): TellingOfAll,
    ("ReadClusters", "ssm:GetParameter"): FollowingAWorkload,
    ("FindTheCluster", "eks:DescribeCluster"): FollowingAWorkload,
    ("ReachClustersThroughRoles", "sts:AssumeRole"): FollowingAWorkloadThroughARole,
    ("PublishToParameters", "ssm:GetParameter"): Rotating,
    ("PublishToParameters", "ssm:PutParameter"): Rotating,
    ("PublishToParameters", "ssm:LabelParameterVersion"): Rotating,
    ("FindThePublicationsKey", "ssm:DescribeParameters"): PublishingFirst,
    ("ReadPublishedItems", "dynamodb:GetItem"): Rotating,
    ("PublishToTables", "dynamodb:UpdateItem"): Rotating,
    ("TellSubscribers", "events:PutEvents"): TellingSubscribers,
}


def template_grant_is_tried_or_used_by_aws(testbed):
    template = (PROJECT / "template.yaml").read_text()
    policy = template[template.index("  RotatorPolicy:") : template.index("  WriteSpecs:")]
    statements = {"Seal", *re.findall(r"- Sid: (\w+)", policy)}
    assert statements == {statement for statement, _ in NEEDED_FOR} | set(NOT_ASKED_FOR)
    assert {grant.name for grant in _granted(testbed)} == set(NEEDED_FOR)


@pytest.fixture(scope="module")
def attempts(testbed):
    """Each case's answers without the grant and with it: all are under way at once, for they mostly wait."""
    with concurrent.futures.ThreadPoolExecutor(len(NEEDED_FOR)) as executor:
        yield {name: executor.submit(_attempt, testbed, name, ability) for name, ability in NEEDED_FOR.items()}


@pytest.mark.parametrize("name", NEEDED_FOR, ids=": ".join)
def operation_works_only_with_its_grant(attempts, name):
    ability, (_, action) = NEEDED_FOR[name], name
    without, answer = attempts[name].result()
    assert isinstance(without, FunctionFailed), f"{without['outcome']} without {action}: nothing needs it"
    assert without.error_type == ability.refusal
    assert f"not authorized to perform: {action}" in without.message
    assert answer["outcome"] in ability.outcomes


def _attempt(testbed, name: tuple[str, str], ability: type[Rotating]):
    """What it came to without the grant, a refusal hopefully, and what with all of them."""
    trial = ability(testbed)
    trial.prepare()
    all_of_them = _granted(testbed)
    log = "-".join(["without", *name]).replace(":", "-")
    all_but_one = [each for each in all_of_them if each.name != name]
    with _function(testbed, log, all_but_one) as function:
        try:
            without = trial.ask(function)
        except FunctionFailed as refusal:
            without = refusal
    with _function(testbed, f"{log}-nothing", all_of_them) as function:

        def answered() -> dict | None:
            """The lease of who was refused runs out first."""
            answer = trial.ask(function)
            return answer if answer["outcome"] in ability.outcomes else None

        return without, platform.wait_until(answered, 60, f"{ability.__name__} with every grant", every=1)


def _function(testbed, log: str, held_to: list[grants.Grant]) -> Function:
    environment = runtime_interface.environment(testbed, grants.session(testbed, held_to))
    return Function(testbed.rotator, environment, testbed.logs / f"{log}.log")


def _granted(testbed) -> list[grants.Grant]:
    return [grant for grant in grants.of_the_role(testbed) if grant.statement not in NOT_ASKED_FOR]


# What the role may not do.

ELSEWHERE = "/elsewhere/token"
ANOTHER_TABLE = "another-teams-config"
ITEM = {"id": {"S": "service_token"}}
RECORD = {"pk": {"S": "token#somebody"}, "sk": {"S": "record"}}


@pytest.fixture(scope="module")
def reach(testbed):
    """What there is to be reached, and how it is named in a request."""
    service = DynamicService(testbed, f"reach-{uuid.uuid4().hex[:8]}")
    service.create_table()
    tables = testbed.boto3("dynamodb")
    if ANOTHER_TABLE not in tables.list_tables()["TableNames"]:
        tables.create_table(
            TableName=ANOTHER_TABLE,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        )
    parameters, keys = testbed.boto3("ssm"), testbed.boto3("kms")
    for name in (ELSEWHERE, service.token_parameter):
        parameters.put_parameter(Name=name, Type="SecureString", Value=uuid.uuid4().hex, Overwrite=True)
    return {
        "records": testbed.table,
        "published": service.table,
        "parameter": service.token_parameter,
        "spec": f"{testbed.specs}/somebody",
        "cluster": f"{testbed.clusters}/{testbed.cluster}",
        "sealing key": testbed.key,
        "publication key": testbed.publication_key,
        "sealed": keys.encrypt(KeyId=testbed.key, Plaintext=b"x")["CiphertextBlob"],
        "encrypted": keys.encrypt(KeyId=testbed.publication_key, Plaintext=b"x")["CiphertextBlob"],
        "role": testbed.role,
        "role name": testbed.role.rpartition("/")[2],
        "function": testbed.function,
        "log": f"/aws/lambda/{testbed.function}",
    }


@pytest.fixture(scope="module")
def client(testbed):
    """Clients with a session of the role that nothing is taken from."""
    session = grants.session(testbed)
    credentials = {
        "aws_access_key_id": session.access_key,
        "aws_secret_access_key": session.secret_key,
        "aws_session_token": session.token,
    }
    return lambda service: testbed.boto3(service, **credentials)


# By what it would be: service, operation, and its parameters from what there is to be reached.
FORBIDDEN = {
    "read a token elsewhere": ("ssm", "get_parameter", lambda at: {"Name": ELSEWHERE, "WithDecryption": True}),
    "write a token elsewhere": ("ssm", "put_parameter", lambda at: {"Name": ELSEWHERE, "Value": "x", "Overwrite": True}),
    "move a label elsewhere": ("ssm", "label_parameter_version", lambda at: {"Name": ELSEWHERE, "Labels": ["current"]}),
    "read the tokens of before": ("ssm", "get_parameter_history", lambda at: {"Name": at["parameter"]}),
    "delete a publication": ("ssm", "delete_parameter", lambda at: {"Name": at["parameter"]}),
    "write a spec": ("ssm", "put_parameter", lambda at: {"Name": at["spec"], "Value": "{}", "Overwrite": True}),
    "delete a spec": ("ssm", "delete_parameter", lambda at: {"Name": at["spec"]}),
    "write where a cluster is": ("ssm", "put_parameter", lambda at: {"Name": at["cluster"], "Value": "{}"}),
    "read another table": ("dynamodb", "get_item", lambda at: {"TableName": ANOTHER_TABLE, "Key": ITEM}),
    "write to another table": ("dynamodb", "put_item", lambda at: {"TableName": ANOTHER_TABLE, "Item": ITEM}),
    "update another table": ("dynamodb", "update_item", lambda at: {"TableName": ANOTHER_TABLE, "Key": ITEM}),
    "read the rest of a published item": (
        "dynamodb", "get_item",
        lambda at: {"TableName": at["published"], "Key": ITEM, "ProjectionExpression": "billing_address"},
    ),
    "read a whole published item": ("dynamodb", "get_item", lambda at: {"TableName": at["published"], "Key": ITEM}),
    "read all that is published": ("dynamodb", "scan", lambda at: {"TableName": at["published"]}),
    "replace a published item": ("dynamodb", "put_item", lambda at: {"TableName": at["published"], "Item": ITEM}),
    "delete a published item": ("dynamodb", "delete_item", lambda at: {"TableName": at["published"], "Key": ITEM}),
    "read all records": ("dynamodb", "scan", lambda at: {"TableName": at["records"]}),
    "delete a record": ("dynamodb", "delete_item", lambda at: {"TableName": at["records"], "Key": RECORD}),
    "delete the table of records": ("dynamodb", "delete_table", lambda at: {"TableName": at["records"]}),
    "let the table of records be deleted": (
        "dynamodb", "update_table", lambda at: {"TableName": at["records"], "DeletionProtectionEnabled": False}
    ),
    "decrypt what readers decrypt": ("kms", "decrypt", lambda at: {"CiphertextBlob": at["encrypted"]}),
    "encrypt for readers": ("kms", "encrypt", lambda at: {"KeyId": at["publication key"], "Plaintext": b"x"}),
    "make data keys to seal with": (
        "kms", "generate_data_key", lambda at: {"KeyId": at["sealing key"], "KeySpec": "AES_256"}
    ),
    "hand the sealing key on": (
        "kms", "create_grant",
        lambda at: {"KeyId": at["sealing key"], "GranteePrincipal": at["role"], "Operations": ["Decrypt"]},
    ),
    "delete the sealing key": ("kms", "schedule_key_deletion", lambda at: {"KeyId": at["sealing key"]}),
    "invoke another function": ("lambda", "invoke", lambda at: {"FunctionName": "another", "Payload": b"{}"}),
    "send to a queue of another": (
        "sqs", "send_message", lambda at: {"QueueUrl": "http://localhost/000000000000/another", "MessageBody": "x"}
    ),
    "describe another cluster": ("eks", "describe_cluster", lambda at: {"name": "another"}),
    "assume another role": (
        "sts", "assume_role", lambda at: {"RoleArn": f"{at['role']}-of-another", "RoleSessionName": "story"}
    ),
    "list clusters": ("eks", "list_clusters", lambda at: {}),
    "give itself rights": (
        "iam", "put_role_policy", lambda at: {"RoleName": at["role name"], "PolicyName": "more", "PolicyDocument": "{}"}
    ),
    "change itself": ("lambda", "update_function_configuration", lambda at: {"FunctionName": at["function"], "Timeout": 1}),
    "read its log": ("logs", "filter_log_events", lambda at: {"logGroupName": at["log"]}),
}


@pytest.mark.parametrize("attempt", FORBIDDEN)
def ungranted_operation_is_denied_to_role(client, reach, attempt):
    service, operation, parameters = FORBIDDEN[attempt]
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        getattr(client(service), operation)(**parameters(reach))
    assert refused.value.response["Error"]["Code"] in ("AccessDenied", "AccessDeniedException"), str(refused.value)


def granted_operations_succeed_in_same_session(client, reach):
    """Or the refusals would say nothing."""
    assert client("ssm").get_parameter(Name=reach["parameter"])["Parameter"]["Version"]
    own = {"ProjectionExpression": "#token", "ExpressionAttributeNames": {"#token": "token"}}
    assert "Item" not in client("dynamodb").get_item(TableName=reach["published"], Key=ITEM, **own)
    assert "Item" not in client("dynamodb").get_item(TableName=reach["records"], Key=RECORD)
    assert client("kms").decrypt(CiphertextBlob=reach["sealed"])["Plaintext"] == b"x"


def sealed_value_opens_only_under_its_encryption_context(client, reach):
    keys, context = client("kms"), {"changeover:scope": "changeover", "token": "mine", "version": "1"}
    sealed = keys.encrypt(KeyId=reach["sealing key"], Plaintext=b"x", EncryptionContext=context)["CiphertextBlob"]
    assert keys.decrypt(CiphertextBlob=sealed, EncryptionContext=context)["Plaintext"] == b"x"
    for other in ({"changeover:scope": "another"}, {"token": "yours"}, {"version": "2"}):
        with pytest.raises(keys.exceptions.InvalidCiphertextException):
            keys.decrypt(CiphertextBlob=sealed, EncryptionContext=context | other)


@pytest.mark.parametrize(
    "place",
    [{"ssm": ELSEWHERE}, {"dynamodb": {"table": ANOTHER_TABLE, "key": {"id": "service_token"}}}],
    ids=["a parameter", "an item"],
)
@pytest.mark.usefixtures("reach")
def spec_pointing_elsewhere_is_refused_before_mint(testbed, place):
    service = DynamicService(testbed, f"elsewhere-{uuid.uuid4().hex[:8]}")
    spec = service.spec()
    service.create_table()
    service.put_spec(spec | {"presenters": {"publish": [place], "within": "1s"}})
    with pytest.raises(FunctionFailed) as refused:
        service.invoke("rotate")
    assert refused.value.error_type == "AccessDenied"
    assert service.status()["revision"] is None
