"""Queues that rules pass events of changeover's bus to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from testbed.aws import Aws

BUS = "tokens"
# The one that everything goes to, from the start.
EVERYTHING = "changeover-events"


@dataclass
class Subscription:
    """A queue and what has arrived there so far."""

    aws: Aws
    url: str
    events: list[dict[str, Any]] = field(default_factory=list)

    def arrived(self) -> list[dict[str, Any]]:
        """All events that have arrived by now, in the order of their arrival."""
        queues = self.aws.client("sqs")
        while messages := queues.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            self.events += [json.loads(message["Body"]) for message in messages]
            entries = [{"Id": str(at), "ReceiptHandle": each["ReceiptHandle"]} for at, each in enumerate(messages)]
            queues.delete_message_batch(QueueUrl=self.url, Entries=entries)
        return self.events


def create_bus(aws: Aws) -> None:
    """Creates the bus, with a queue that everything goes to."""
    aws.client("events").create_event_bus(Name=BUS)
    subscribe(aws, EVERYTHING, {})


def subscribe(aws: Aws, name: str, detail: dict[str, list[str]]) -> Subscription:
    """A new queue for events of changeover whose detail is so."""
    queues, rules = aws.client("sqs"), aws.client("events")
    url = queues.create_queue(QueueName=name)["QueueUrl"]
    arn = queues.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    pattern = {"source": ["changeover"], **({"detail": detail} if detail else {})}
    rules.put_rule(Name=name, EventBusName=BUS, EventPattern=json.dumps(pattern))
    put = rules.put_targets(Rule=name, EventBusName=BUS, Targets=[{"Id": "queue", "Arn": arn}])
    if put["FailedEntryCount"]:
        raise LookupError(f"the rule {name} takes no queue: {put['FailedEntries']}")
    return Subscription(aws, url)


def everything(aws: Aws) -> Subscription:
    """What was told since the start, as far as nobody has looked at it before."""
    return Subscription(aws, aws.client("sqs").get_queue_url(QueueName=EVERYTHING)["QueueUrl"])
