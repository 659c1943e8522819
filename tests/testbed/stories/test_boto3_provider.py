"""A service that reads its token with boto3, as it always did, does not have to know about changeover."""

import sys
import threading
import time

import boto3

from testbed import platform as platforms
from testbed.dynamic_service import ATTRIBUTES, DynamicService

sys.path.append(str(platforms.APPLICATIONS))
from service_token import ServiceTokenProvider  # noqa: E402

ISSUED_LONG_AGO = "issued-by-hand-long-ago"


def provider_reads_published_tokens_and_other_attributes_survive(testbed, tell):
    with DynamicService(testbed, "provider") as service:
        service.create_table(ISSUED_LONG_AGO)
        service.put_spec(service.spec())
        aws = testbed.aws
        table = boto3.resource(
            "dynamodb", endpoint_url=aws.endpoint, region_name=aws.region,
            aws_access_key_id=aws.access_key_id, aws_secret_access_key=aws.secret_access_key,
        ).Table(service.table)
        provider = ServiceTokenProvider(table)

        # What the item holds is adopted, not replaced: nobody who has it is cut off.
        published = service.invoke("publish")
        assert (published["outcome"], published["version"]) == ("published", 1)
        assert provider.get_token() == ISSUED_LONG_AGO

        read: list[str | Exception] = []
        over = threading.Event()
        reader = threading.Thread(target=_keep_reading, args=(provider, read, over), daemon=True)
        reader.start()
        for version in (2, 3):
            answer = service.invoke("rotate")
            assert (answer["outcome"], answer["version"]) == ("rotated", version)
        over.set()
        reader.join(30)

        # Never an error, never half a token, and never one again that was left behind.
        assert [each for each in read if isinstance(each, Exception)] == []
        tokens = list(dict.fromkeys(read))
        assert len(tokens) == 3 and tokens[0] == ISSUED_LONG_AGO
        assert all(token.startswith("st_") for token in tokens[1:])
        assert read == sorted(read, key=tokens.index)
        assert provider.get_token() == tokens[-1]
        tell(f"{len(read)} reads through the provider class: {[read.count(token) for token in tokens]} by version")

        item = testbed.boto3("dynamodb").get_item(TableName=service.table, Key={"id": {"S": "service_token"}})["Item"]
        assert item["token_version"] == {"N": "3"}
        assert {name: item[name] for name in ATTRIBUTES} == ATTRIBUTES


def _keep_reading(provider: ServiceTokenProvider, read: list, over: threading.Event) -> None:
    while not over.is_set():
        try:
            read.append(provider.get_token())
        except Exception as error:
            read.append(error)
        time.sleep(0.01)
