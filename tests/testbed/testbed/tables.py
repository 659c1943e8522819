"""Tables beside the deployed one: records of a test's own, so that its sweeps are about its tokens alone, and configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from testbed.testbed import Testbed

RECORDS = "changeover-of-"


@contextmanager
def records(testbed: Testbed, *names: str) -> Iterator[list[str]]:
    """Tables of records like the deployed one, `changeover-of-<name>`, which the function's role may use within the block."""
    tables, identities = testbed.boto3("dynamodb"), testbed.boto3("iam")
    deployed = tables.describe_table(TableName=testbed.table)["Table"]
    like = {field: deployed[field] for field in ("AttributeDefinitions", "KeySchema")}
    fields = ("IndexName", "KeySchema", "Projection")
    indexes = [{field: index[field] for field in fields} for index in deployed["GlobalSecondaryIndexes"]]
    created = [f"{RECORDS}{name}" for name in names]
    for name in created:
        tables.create_table(TableName=name, BillingMode="PAY_PER_REQUEST", GlobalSecondaryIndexes=indexes, **like)
    arn = deployed["TableArn"].replace(testbed.table, f"{RECORDS}*")
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "dynamodb:*", "Resource": arn}]}
    grant = {"RoleName": testbed.role.rpartition("/")[2], "PolicyName": "tables-of-records"}
    identities.put_role_policy(**grant, PolicyDocument=json.dumps(policy))
    try:
        yield created
    finally:
        identities.delete_role_policy(**grant)


def create_configuration(testbed: Testbed, name: str) -> None:
    """A team's table of configuration: items with the key `id`."""
    testbed.boto3("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
