"""After all the other stories: no token that was ever published is found in anything that was said, logged or set."""

import base64
import os
from pathlib import Path

from testbed.dynamic_service import DynamicService


def no_token_is_in_any_log_answer_annotation_or_command_line(testbed, tell):
    with DynamicService(testbed, "secret") as service:
        service.create_table()
        service.put_spec(service.spec())
        assert service.invoke("publish")["outcome"] == "published"
        assert service.invoke("rotate")["outcome"] == "rotated"
        service.status()

        tokens = _every_token(testbed)
        assert len(tokens) >= 2
        searched = 0
        found = set()
        for place, text in _everything_said(testbed):
            searched += 1
            found |= {place for token in tokens for form in _forms(token) if form in text}
        tell(f"{len(tokens)} tokens looked for in {searched} places")
        assert found == set()


def _every_token(testbed) -> set[str]:
    """All tokens that were ever published as parameters: each version of each parameter that holds a bare one."""
    parameters = testbed.boto3("ssm")
    tokens = set()
    for page in parameters.get_paginator("get_parameters_by_path").paginate(Path="/coilysiren", Recursive=True):
        for parameter in page["Parameters"]:
            history = parameters.get_paginator("get_parameter_history")
            for versions in history.paginate(Name=parameter["Name"], WithDecryption=True):
                tokens |= {each["Value"] for each in versions["Parameters"] if not each["Value"].startswith("{")}
    return tokens


def _forms(token: str) -> list[bytes]:
    """The token as it is, and in base64 as Kubernetes and AWS carry it (without the end, which depends on what follows)."""
    return [token.encode(), base64.b64encode(token.encode()).rstrip(b"=")[:-1]]


def _everything_said(testbed):
    """Logs, answers, requests, log groups, objects of the cluster that are no Secrets, and command lines."""
    for directory in (testbed.logs, testbed.directory):
        for path in directory.rglob("*") if directory == testbed.logs else directory.glob("*.json*"):
            if path.is_file():
                yield str(path), path.read_bytes()
    logs = testbed.boto3("logs")
    for group in (group for page in logs.get_paginator("describe_log_groups").paginate() for group in page["logGroups"]):
        events = logs.get_paginator("filter_log_events").paginate(logGroupName=group["logGroupName"])
        lines = (event["message"] for page in events for event in page["events"])
        yield group["logGroupName"], "\n".join(lines).encode()
    kinds = "deployments,replicasets,pods,externalsecrets,configmaps,events"
    yield "objects of the cluster", testbed.kubectl("get", kinds, "--all-namespaces", "--output=json").encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield f"command line of {os.readlink(process / 'exe')}", (process / "cmdline").read_bytes()
        except OSError:
            continue
    yield "the record", str(testbed.boto3("dynamodb").scan(TableName=testbed.table)["Items"]).encode()
