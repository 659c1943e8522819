"""The stack as a platform team lives with it: shared with people who may not do the same, and with tokens of their own.

What the emulator leaves out of a stack (time to live, encryption, queues of what failed) is held on the template by tests/it/template.rs
and infra/guard, and CodeDeploy, which is in no template before it is translated, here.
"""

import json
import uuid

import botocore.exceptions
import pytest

from testbed import deployment, platform
from testbed.deployment import INBOX_PATH, PROJECT
from testbed.testbed import FunctionFailed

RECORD = {"pk": {"S": "token#kept"}, "sk": {"S": "record"}}


def aliases_point_to_one_published_version(testbed):
    aliases = testbed.boto3("lambda").list_aliases(FunctionName=testbed.function)["Aliases"]
    assert {alias["Name"] for alias in aliases} == {"live", "status", "sweep"}
    (version,) = {alias["FunctionVersion"] for alias in aliases}
    assert version.isdigit()


def canary_update_with_alarm_rollback_is_optional(testbed):
    resources = deployment.translated(testbed.aws, AutomaticRollback="true", DeploymentType="Canary10Percent5Minutes")
    groups = {name: each for name, each in resources.items() if each["Type"] == "AWS::CodeDeploy::DeploymentGroup"}
    ((group, deployment_group),) = groups.items()
    alias = resources["RotatorAliaslive"]
    assert alias["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]["DeploymentGroupName"] == {"Ref": group}
    deployed = deployment_group["Properties"]
    assert json.dumps(deployed["DeploymentConfigName"]).count("Canary10Percent5Minutes") == 1
    assert deployed["AlarmConfiguration"]["Enabled"] and deployed["AutoRollbackConfiguration"]["Enabled"]
    alarms = [alarm["Name"] for alarm in deployed["AlarmConfiguration"]["Alarms"]]
    assert alarms == [{"Ref": "NewVersionAlarm"}, {"Ref": "SweepErrorsAlarm"}]
    assert {"DEPLOYMENT_FAILURE", "DEPLOYMENT_STOP_ON_ALARM"} <= set(deployed["AutoRollbackConfiguration"]["Events"])
    # The alarm of the new version is about that version, which is another with each update.
    version = alias["Properties"]["FunctionVersion"]["Fn::GetAtt"][0]
    dimensions = {each["Name"]: each["Value"] for each in resources["NewVersionAlarm"]["Properties"]["Dimensions"]}
    assert dimensions["ExecutedVersion"] == {"Fn::GetAtt": [version, "Version"]}

    at_once = deployment.translated(testbed.aws, AutomaticRollback="false")
    assert not any(each["Type"].startswith("AWS::CodeDeploy") for each in at_once.values())
    assert "UpdatePolicy" not in at_once["RotatorAliaslive"]


# What the holder of each policy may do, and what it may not: service, operation, parameters.
STATUS = {"action": "status"}
MAY = {
    "RotatePolicyArn": ["invoke live", "invoke the function"],
    # And the log, which the emulator looks for under another ARN.
    "ObservePolicyArn": ["invoke status"],
    "WriteSpecsPolicyArn": ["write a spec", "read a spec", "delete a spec"],
    "IssuePolicyArn": ["put into the inbox"],
}
ATTEMPTS = {
    "invoke live": ("lambda", "invoke", lambda at: {"FunctionName": f"{at['FunctionName']}:live"}),
    "invoke the function": ("lambda", "invoke", lambda at: {"FunctionName": at["FunctionName"]}),
    "invoke status": ("lambda", "invoke", lambda at: {"FunctionName": f"{at['FunctionName']}:status"}),
    "write a spec": ("ssm", "put_parameter", lambda at: _parameter(f"{at['specs']}/of-a-policy")),
    "read a spec": ("ssm", "get_parameter", lambda at: {"Name": f"{at['specs']}/of-a-policy"}),
    "delete a spec": ("ssm", "delete_parameter", lambda at: {"Name": f"{at['specs']}/of-a-policy"}),
    "put into the inbox": ("ssm", "put_parameter", lambda at: _parameter(f"{INBOX_PATH}/of-a-policy")),
    "read the inbox": ("ssm", "get_parameter", lambda at: {"Name": f"{INBOX_PATH}/of-a-policy"}),
    "publish": ("ssm", "put_parameter", lambda at: _parameter(f"{deployment.PUBLICATION_PATH}/of-a-policy")),
    "read a record": ("dynamodb", "get_item", lambda at: {"TableName": at["TableName"], "Key": RECORD}),
    "unseal": ("kms", "decrypt", lambda at: {"CiphertextBlob": at["sealed"], "KeyId": at["SealingKeyArn"]}),
    "give itself rights": ("iam", "attach_role_policy", lambda at: {"RoleName": "x", "PolicyArn": at["RotatePolicyArn"]}),
}


@pytest.mark.parametrize("policy", MAY)
def policy_grants_exactly_its_operations(testbed, policy):
    (stack,) = testbed.boto3("cloudformation").describe_stacks(StackName=testbed.stack)["Stacks"]
    at = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]} | {"specs": testbed.specs}
    at["sealed"] = testbed.boto3("kms").encrypt(KeyId=at["SealingKeyArn"], Plaintext=b"x")["CiphertextBlob"]
    client = _holder_of(testbed, at[policy])
    done = []
    for attempt, (service, operation, parameters) in ATTEMPTS.items():
        payload = {"Payload": json.dumps(STATUS)} if operation == "invoke" else {}
        try:
            getattr(client(service), operation)(**parameters(at), **payload)
            done.append(attempt)
        except botocore.exceptions.ClientError as refused:
            assert refused.response["Error"]["Code"] in ("AccessDenied", "AccessDeniedException"), f"{attempt}: {refused}"
    assert done == MAY[policy]


def status_alias_reports_and_refuses_changes(testbed):
    assert testbed.invoke(STATUS, "status")["outcome"] == "reported"
    with pytest.raises(FunctionFailed, match="only status and preflight"):
        testbed.invoke({"action": "sweep"}, "status")


def inbox_rule_matches_only_arrivals(testbed):
    """Of AWS's own example of the event: monitoring-systems-manager-event-examples.html in its user guide."""
    events = testbed.boto3("events")
    rules = [rule for rule in events.list_rules()["Rules"] if rule["Name"].startswith(f"{testbed.stack}-Inbox")]
    (rule,) = rules

    def matches(operation: str, name: str) -> bool:
        event = {
            "version": "0",
            "id": "9547ef2d-3b7e-4057-b6cb-5fdf09ee7c8f",
            "detail-type": "Parameter Store Change",
            "source": "aws.ssm",
            "account": "123456789012",
            "time": "2026-11-22T16:44:48Z",
            "region": testbed.aws.region,
            "resources": [f"arn:aws:ssm:{testbed.aws.region}:123456789012:parameter{name}"],
            "detail": {"operation": operation, "name": name, "type": "SecureString", "description": ""},
        }
        return events.test_event_pattern(EventPattern=rule["EventPattern"], Event=json.dumps(event))["Result"]

    assert matches("Create", f"{INBOX_PATH}/service-token")
    assert matches("Update", f"{INBOX_PATH}/team/service-token")
    assert not matches("Delete", f"{INBOX_PATH}/service-token")
    assert not matches("LabelParameterVersion", f"{INBOX_PATH}/service-token")
    assert not matches("Update", f"{INBOX_PATH}-of-others/service-token")


def token_stack_creates_spec_schedule_and_alarms(testbed):
    name = f"stacked-{uuid.uuid4().hex[:8]}"
    spec = {"token": {"bytes": 32}, "overlap": "15m", "presenters": {"publish": [], "within": "5s"}}
    outputs = deployment.create(
        testbed.aws,
        name,
        (PROJECT / "infra" / "token.yaml").read_text(),
        {
            "Token": name,
            "Spec": json.dumps(spec),
            "Specs": testbed.specs,
            "Function": testbed.function,
            "ScheduleExpression": "cron(0 4 1 * ? *)",
            "LogGroup": f"/aws/lambda/{testbed.function}",
        },
    )
    parameters, stacks = testbed.boto3("ssm"), testbed.boto3("cloudformation")
    assert json.loads(parameters.get_parameter(Name=outputs["SpecName"])["Parameter"]["Value"]) == spec
    schedules = [
        each for each in testbed.boto3("scheduler").list_schedules()["Schedules"] if each["Name"].startswith(name)
    ]
    (schedule,) = schedules
    assert schedule["Target"]["Arn"].endswith(f":function:{testbed.function}:live")
    prefix = f"{testbed.function}-{name}-"
    alarms = testbed.boto3("cloudwatch").describe_alarms(AlarmNamePrefix=prefix)["MetricAlarms"]
    assert {alarm["AlarmName"].removeprefix(prefix) for alarm in alarms} == {
        "token-overdue", "token-age", "schedule-undelivered"
    }
    stacks.delete_stack(StackName=name)
    platform.wait_until(lambda: not _exists(stacks, name), 60, "the stack's deletion")
    with pytest.raises(parameters.exceptions.ParameterNotFound):
        parameters.get_parameter(Name=outputs["SpecName"])


def _holder_of(testbed, policy: str):
    """Clients of a role that has this policy and no other."""
    identities = testbed.boto3("iam")
    name = f"holder-{uuid.uuid4().hex[:8]}"
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
    }
    role = identities.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    identities.attach_role_policy(RoleName=name, PolicyArn=policy)
    session = testbed.boto3("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="story")["Credentials"]
    credentials = {
        "aws_access_key_id": session["AccessKeyId"],
        "aws_secret_access_key": session["SecretAccessKey"],
        "aws_session_token": session["SessionToken"],
    }
    return lambda service: testbed.boto3(service, **credentials)


def _parameter(name: str) -> dict:
    return {"Name": name, "Type": "String", "Value": "{}", "Overwrite": True}


def _exists(stacks, name: str) -> bool:
    try:
        return stacks.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"] != "DELETE_COMPLETE"
    except botocore.exceptions.ClientError:
        return False
