"""What a stack is made of, as AWS tells it, in words that do not depend on who made it."""

from __future__ import annotations

import json
from typing import Any

from testbed.aws import Aws
from testbed.deployment import IN_THE_EMULATOR

# Properties of an alarm that say what it is, and not how it stands.
ALARM = (
    "AlarmDescription", "Namespace", "MetricName", "Dimensions", "Statistic", "Period", "EvaluationPeriods", "Threshold",
    "ComparisonOperator", "TreatMissingData", "ActionsEnabled", "AlarmActions", "OKActions",
)
FUNCTION = (
    "Description", "Runtime", "Handler", "Timeout", "MemorySize", "Architectures", "TracingConfig", "PackageType", "Layers",
)
QUEUE = ("MessageRetentionPeriod", "SqsManagedSseEnabled", "VisibilityTimeout", "KmsMasterKeyId")


class Stack:
    """The resources of one stack: for each of the template's names its name or ARN, however it was made.

    `names` are what stands for a thing of this stack, each with what it is written as instead.
    """

    def __init__(self, aws: Aws, made: dict[str, str], names: dict[str, str]) -> None:
        self._client = aws.client
        self._made = made
        # What is part of another comes after it.
        self._names = sorted(names.items(), key=lambda name: -len(name[0]))

    def describe(self, kind: str, name: str) -> Any:
        """The resource of CloudFormation's type `kind` that the template calls `name`, without what differs from one stack to
        the next, or from one day to the next."""
        text = json.dumps(DESCRIPTIONS[kind](self._client, self._made[name]), sort_keys=True, default=str)
        for written, instead in self._names:
            text = text.replace(written, instead)
        return json.loads(text)


def _table(client: Any, name: str) -> dict:
    """Without its encryption, its recovery and its time to live, which the emulator's CloudFormation drops."""
    table = client("dynamodb").describe_table(TableName=name)["Table"]
    indexes = [{key: index[key] for key in ("IndexName", "KeySchema", "Projection")} for index in table["GlobalSecondaryIndexes"]]
    attributes = sorted(table["AttributeDefinitions"], key=lambda each: each["AttributeName"])
    told = ("KeySchema", "BillingModeSummary", "DeletionProtectionEnabled")
    return {"attributes": attributes, "indexes": indexes, **{key: table.get(key) for key in told}}


def _key(client: Any, name: str) -> dict:
    keys = client("kms")
    key = keys.describe_key(KeyId=name)["KeyMetadata"]
    return {
        "policy": _policy(keys.get_key_policy(KeyId=name, PolicyName="default")["Policy"]),
        "rotates": keys.get_key_rotation_status(KeyId=name)["KeyRotationEnabled"],
        **{each: key[each] for each in ("Description", "KeySpec", "KeyUsage", "KeyState")},
    }


def _key_alias(client: Any, name: str) -> str:
    return client("kms").describe_key(KeyId=name)["KeyMetadata"]["KeyId"]


def _role(client: Any, name: str) -> dict:
    identities = client("iam")
    role = identities.get_role(RoleName=name)["Role"]
    policies = identities.list_role_policies(RoleName=name)["PolicyNames"]
    granted = [
        identities.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
        for policy in policies if policy != IN_THE_EMULATOR
    ]
    attached = identities.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
    trust = _policy(role["AssumeRolePolicyDocument"])
    return {"description": role["Description"], "trust": trust, "policies": [_policy(each) for each in granted], "attached": attached}


def _managed_policy(client: Any, arn: str) -> dict:
    identities = client("iam")
    policy = identities.get_policy(PolicyArn=arn)["Policy"]
    version = identities.get_policy_version(PolicyArn=arn, VersionId=policy["DefaultVersionId"])["PolicyVersion"]
    return {"description": policy.get("Description"), "policy": _policy(version["Document"])}


def _queue(client: Any, url: str) -> dict:
    attributes = client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return {"policy": _policy(attributes["Policy"]), **{each: attributes.get(each) for each in QUEUE}}


def _rule(client: Any, name: str) -> dict:
    events = client("events")
    rule = events.describe_rule(Name=name)
    told = {each: rule.get(each) for each in ("Description", "ScheduleExpression", "State", "EventBusName")}
    return {
        **told,
        "pattern": json.loads(rule["EventPattern"]) if rule.get("EventPattern") else None,
        "targets": events.list_targets_by_rule(Rule=name)["Targets"],
    }


def _schedule(client: Any, name: str) -> dict:
    schedule = client("scheduler").get_schedule(Name=name)
    told = ("Description", "ScheduleExpression", "ScheduleExpressionTimezone", "FlexibleTimeWindow", "State", "GroupName", "Target")
    return {each: schedule.get(each) for each in told}


def _function(client: Any, name: str) -> dict:
    function = client("lambda").get_function_configuration(FunctionName=name)
    return {
        "variables": function["Environment"]["Variables"],
        "role": function["Role"],
        "log": function["LoggingConfig"]["LogGroup"],
        "network": (function.get("VpcConfig") or {}).get("SubnetIds", []),
        **{each: function.get(each) for each in FUNCTION},
    }


def _alias(client: Any, arn: str) -> dict:
    functions = client("lambda")
    name, _, qualifier = arn.rpartition(":")
    alias = functions.get_alias(FunctionName=name, Name=qualifier)
    try:
        policy = functions.get_policy(FunctionName=name, Qualifier=qualifier)["Policy"]
    except functions.exceptions.ResourceNotFoundException:
        policy = {"Statement": []}
    return {
        "description": alias["Description"],
        "is of a version": alias["FunctionVersion"].isdigit(),
        # Its name there is made up by whoever makes it.
        "policy": [{key: value for key, value in each.items() if key != "Sid"} for each in _policy(policy)],
    }


def _invocations(client: Any, name: str) -> dict:
    function, _, qualifier = name.rpartition(":")
    settings = client("lambda").get_function_event_invoke_config(FunctionName=function, Qualifier=qualifier)
    told = ("MaximumRetryAttempts", "MaximumEventAgeInSeconds")
    failed = settings.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
    return {"failed": failed, **{each: settings[each] for each in told}}


def _log(client: Any, name: str) -> dict:
    (group,) = client("logs").describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    return {"retention": group["retentionInDays"]}


def _alarm(client: Any, name: str) -> dict:
    (alarm,) = client("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"]
    dimensions = sorted(alarm["Dimensions"], key=lambda each: each["Name"])
    datapoints = alarm.get("DatapointsToAlarm", alarm["EvaluationPeriods"])
    return {each: alarm.get(each) for each in ALARM} | {"Dimensions": dimensions, "DatapointsToAlarm": datapoints}


def _dashboard(client: Any, name: str) -> list[dict]:
    """Without the list of alarms, which are those of the stack itself."""
    body = json.loads(client("cloudwatch").get_dashboard(DashboardName=name)["DashboardBody"])
    for widget in body["widgets"]:
        widget["properties"].pop("alarms", None)
        widget["properties"].setdefault("stacked", False)
    return body["widgets"]


def _policy(document: str | dict) -> list[dict]:
    """Its statements in their order, each list of words in alphabetical order, and one word as a list of one."""
    parsed = json.loads(document) if isinstance(document, str) else document

    def in_order(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: in_order(each) for key, each in value.items()}
        return sorted(value) if isinstance(value, list) else [value]

    statements = ({key: in_order(value) for key, value in each.items()} for each in parsed["Statement"])
    return [each for each in statements if not each.get("Sid", [""])[0].endswith(IN_THE_EMULATOR)]


# By the type that CloudFormation knows it as.
DESCRIPTIONS = {
    "AWS::CloudWatch::Alarm": _alarm,
    "AWS::CloudWatch::Dashboard": _dashboard,
    "AWS::DynamoDB::Table": _table,
    "AWS::Events::Rule": _rule,
    "AWS::IAM::ManagedPolicy": _managed_policy,
    "AWS::IAM::Role": _role,
    "AWS::KMS::Alias": _key_alias,
    "AWS::KMS::Key": _key,
    "AWS::Lambda::Alias": _alias,
    "AWS::Lambda::EventInvokeConfig": _invocations,
    "AWS::Lambda::Function": _function,
    "AWS::Logs::LogGroup": _log,
    "AWS::SQS::Queue": _queue,
    "AWS::Scheduler::Schedule": _schedule,
}
# Told with what it is of: a policy with its role or queue, a permission with its alias, a version with the function.
TOLD_WITH_ANOTHER = {"AWS::IAM::Policy", "AWS::Lambda::Permission", "AWS::Lambda::Version", "AWS::SQS::QueuePolicy"}
