"""A service whose parts read their token when they need it, and are never restarted for it.

    DynamoDB item `service_token_accepted`  →  the datastore, which reads it again within a second
    DynamoDB item `service_token`           →  a backend, through the provider class that it always had
    SSM parameter                           →  another backend
"""

from __future__ import annotations

from testbed import tables
from testbed.platform import Platform, deployment, literals
from testbed.testbed import Testbed

# What the team keeps beside the token, and expects to find there for ever.
ATTRIBUTES = {"issuer": {"S": "platform team"}, "requests_per_minute": {"N": "6000"}, "scopes": {"SS": ["read", "write"]}}


class DynamicService(Platform):
    """One datastore and two backends, two pods each, a hundred requests a second together."""

    def __init__(self, testbed: Testbed, name: str) -> None:
        super().__init__(testbed, name)
        self.table = f"my-service-{name}-config"
        self.token_parameter = f"/coilysiren/{name}/service-token"

    def spec(self, **changes) -> dict:
        """The token's spec: both views are read again within a second. `changes` replace its fields."""

        def item(name: str) -> dict:
            return {"dynamodb": {"table": self.table, "key": {"id": name}}}

        return {
            "token": {"bytes": 32, "prefix": "st_"},
            "source": "generated",
            "overlap": "5s",
            "verifiers": {"publish": [item("service_token_accepted")], "within": "1s"},
            "presenters": {"publish": [item("service_token"), {"ssm": self.token_parameter}], "within": "1s"},
        } | changes

    def create_table(self, token: str | None = None) -> None:
        """Creates the configuration table; with the item of a token that somebody issued long ago, if one is given."""
        dynamodb = self.testbed.boto3("dynamodb")
        tables.create_configuration(dynamodb, self.table)
        if token:
            dynamodb.put_item(TableName=self.table, Item={"id": {"S": "service_token"}, "token": {"S": token}, **ATTRIBUTES})

    def write_by_hand(self, token: str) -> None:
        """Puts a token into the service's item, as the team always did, and touches nothing else of it."""
        self.testbed.boto3("dynamodb").update_item(
            TableName=self.table, Key={"id": {"S": "service_token"}}, UpdateExpression="SET #token = :token",
            ExpressionAttributeNames={"#token": "token"}, ExpressionAttributeValues={":token": {"S": token}},
        )

    def create(self, spec: dict | None = None) -> dict:
        """Sets all of it up and has the first token published, whose answer is returned."""
        self.create_table()
        self.put_spec(spec or self.spec())
        answer = self.invoke("publish")
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}})
        readers = self.testbed.aws.environment
        sending = readers | {"REQUESTS": str(self.load.path), "RATE": "25"}
        accepted = readers | {"ACCEPTED_TABLE": self.table, "ACCEPTED_ITEM": "service_token_accepted"}
        self.apply(
            deployment(self.name, "datastore", "datastore.py", literals(accepted)),
            deployment(self.name, "backend", "backend.py", literals(sending | {"TOKEN_TABLE": self.table})),
            deployment(self.name, "jobs", "backend.py", literals(sending | {"TOKEN_PARAMETER": self.token_parameter})),
        )
        self.wait_available("datastore", "backend", "jobs")
        self.wait_under_load()
        return answer
