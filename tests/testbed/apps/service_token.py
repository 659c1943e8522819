"""How a service reads its token from DynamoDB when it needs it. Nothing in here knows of changeover."""

from __future__ import annotations


class ServiceTokenProvider:
    """Reads the item `service_token` of a configuration table, a fresh read each time."""

    def __init__(self, table):
        self._table = table

    def get_token(self) -> str:
        """The token to send now. Raises ValueError where the item or its attribute `token` is missing."""
        item = self._table.get_item(Key={"id": "service_token"}).get("Item")
        if item is None:
            raise ValueError("the configuration table has no item service_token")
        token = item.get("token")
        if not token:
            raise ValueError("the item service_token has no attribute token")
        return token
