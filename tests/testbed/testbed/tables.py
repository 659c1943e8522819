"""Tables beside the deployed one: records of a test's own, so that its sweeps are about its tokens alone, and configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from testbed.testbed import Testbed

RECORDS = "changeover-of-"


@contextmanager
def records(testbed: Testbed, *names: str) -> Iterator[list[str]]:
    """Tables of records like the deployed one, `changeover-of-<name>`, which the function's role may use within the block."""
    tables, identities = testbed.boto3("dynamodb"), testbed.boto3("iam")
    created = [f"{RECORDS}{name}" for name in names]
    definition = like_the_deployed(testbed)
    for name in created:
        tables.create_table(TableName=name, **definition)
    arn = tables.describe_table(TableName=testbed.table)["Table"]["TableArn"].replace(testbed.table, f"{RECORDS}*")
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "dynamodb:*", "Resource": arn}]}
    grant = {"RoleName": testbed.role.rpartition("/")[2], "PolicyName": "tables-of-records"}
    identities.put_role_policy(**grant, PolicyDocument=json.dumps(policy))
    try:
        yield created
    finally:
        identities.delete_role_policy(**grant)


def like_the_deployed(testbed: Testbed) -> dict[str, Any]:
    """What `create_table` needs, beside a name, to make a table of records like the deployed one."""
    deployed = testbed.boto3("dynamodb").describe_table(TableName=testbed.table)["Table"]
    fields = ("IndexName", "KeySchema", "Projection")
    return {
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": deployed["AttributeDefinitions"],
        "KeySchema": deployed["KeySchema"],
        "GlobalSecondaryIndexes": [{each: index[each] for each in fields} for index in deployed["GlobalSecondaryIndexes"]],
    }


def make_due(dynamodb: Any, table: str, token: str, compare: bool = False) -> None:
    """Makes a token's record due, as the passing of time does: the next sweep takes it on; with `compare` it looks at what is
    published, too, as it does each minute or each day."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    names = {"ExpressionAttributeNames": {"#record": "record"}} if compare else {}
    dynamodb.update_item(
        TableName=table,
        Key={"pk": {"S": f"token#{token}"}, "sk": {"S": "record"}},
        UpdateExpression="SET due_at = :now" + (", #record.compare_at = :now" if compare else ""),
        ExpressionAttributeValues={":now": {"S": now}},
        **names,
    )


def create_configuration(dynamodb: Any, name: str) -> None:
    """A team's table of configuration, items with the key `id`, in the account of the client; returns when it is there."""
    dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    dynamodb.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 10})
