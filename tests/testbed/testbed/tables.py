"""Tables beside the deployed one: records of a test's own, so that its sweeps are about its tokens alone, and configuration."""

from __future__ import annotations

import json

from testbed.testbed import Testbed

RECORDS = "changeover-of-"


def create_records(testbed: Testbed, *names: str) -> list[str]:
    """Tables of records like the deployed one, `changeover-of-<name>`, which the function's role may use alike."""
    tables = testbed.boto3("dynamodb")
    deployed = tables.describe_table(TableName=testbed.table)["Table"]
    like = {field: deployed[field] for field in ("AttributeDefinitions", "KeySchema")}
    fields = ("IndexName", "KeySchema", "Projection")
    indexes = [{field: index[field] for field in fields} for index in deployed["GlobalSecondaryIndexes"]]
    created = [f"{RECORDS}{name}" for name in names]
    for name in created:
        tables.create_table(TableName=name, BillingMode="PAY_PER_REQUEST", GlobalSecondaryIndexes=indexes, **like)
    arn = deployed["TableArn"].replace(testbed.table, f"{RECORDS}*")
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "dynamodb:*", "Resource": arn}]}
    testbed.boto3("iam").put_role_policy(
        RoleName=testbed.role.rpartition("/")[2], PolicyName="tables-of-records", PolicyDocument=json.dumps(policy)
    )
    return created


def create_configuration(testbed: Testbed, name: str) -> None:
    """A team's table of configuration: items with the key `id`."""
    testbed.boto3("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
