"""The stack by Terraform: README's example applied as it stands, the same as by CloudFormation, and in use.

It needs Terraform and the module's provider, and is skipped where they cannot be had. To have them without a registry:
`CHANGEOVER_TERRAFORM_PLUGINS` names a directory that `terraform providers mirror` has filled.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from testbed import deployment, terraform
from testbed.deployment import PROJECT
from testbed.dynamic_service import DynamicService
from testbed.stacks import TOLD_WITH_ANOTHER, Stack
from testbed.terraform import Terraform, TerraformFailed

NAME = "by-terraform"
# Its sweep is about its own records; with specs of its own it does not find the other stack's tokens either.
ITS_OWN = {"specs": f"/{NAME}/tokens", "clusters": f"/{NAME}/clusters"}
# For CodeDeploy or the emulator alone, and no variables of the module.
WITHOUT_VARIABLES = {"AutomaticRollback", "EndpointUrl", "Lease", "LateWrite"}
VARIABLES_OF_THE_EMULATOR = {"AWS_ENDPOINT_URL", "CHANGEOVER_LEASE", "CHANGEOVER_LATE_WRITE"}

# The template's name of each resource, and its address in the module. What has no name of its own there is told with another.
ADDRESSES = {
    "Rotator": "aws_lambda_function.rotator",
    "Logs": "aws_cloudwatch_log_group.rotator",
    "Table": "aws_dynamodb_table.records",
    "SealingKey": "aws_kms_key.sealing",
    "SealingKeyAlias": "aws_kms_alias.sealing",
    "PublicationKey": "aws_kms_key.publication",
    "PublicationKeyAlias": "aws_kms_alias.publication",
    "RotatorRole": "aws_iam_role.rotator",
    "SchedulerRole": "aws_iam_role.scheduler[0]",
    "WriteSpecs": "aws_iam_policy.write_specs",
    "Rotate": "aws_iam_policy.rotate",
    "Observe": "aws_iam_policy.observe",
    "Issue": "aws_iam_policy.issue[0]",
    "RotatorAliaslive": "aws_lambda_alias.live",
    "StatusAlias": "aws_lambda_alias.status",
    "SweepAlias": "aws_lambda_alias.sweep",
    "EventInvocations": "aws_lambda_function_event_invoke_config.events",
    "SweepInvocations": "aws_lambda_function_event_invoke_config.sweep",
    "UnqualifiedInvocations": "aws_lambda_function_event_invoke_config.unqualified",
    "Inbox": "aws_cloudwatch_event_rule.inbox[0]",
    "Sweep": "aws_cloudwatch_event_rule.sweep",
    "RotationSchedule": "aws_scheduler_schedule.rotation[0]",
    "FailedEvents": "aws_sqs_queue.failed_events",
    "UndeliveredEvents": "aws_sqs_queue.undelivered_events[0]",
    "InboxUndelivered": "aws_sqs_queue.inbox_undelivered[0]",
    "Dashboard": "aws_cloudwatch_dashboard.this",
    "RotationHeldAlarm": 'aws_cloudwatch_metric_alarm.this["rotation-held"]',
    "RotationOverdueAlarm": 'aws_cloudwatch_metric_alarm.this["rotation-overdue"]',
    "SweepMissingAlarm": 'aws_cloudwatch_metric_alarm.this["sweep-missing"]',
    "SweepErrorsAlarm": 'aws_cloudwatch_metric_alarm.this["sweep-errors"]',
    "FunctionErrorsAlarm": 'aws_cloudwatch_metric_alarm.this["function-errors"]',
    "FunctionThrottledAlarm": 'aws_cloudwatch_metric_alarm.this["function-throttled"]',
    "FailedEventsAlarm": 'aws_cloudwatch_metric_alarm.this["failed-events"]',
    "UndeliveredEventsAlarm": 'aws_cloudwatch_metric_alarm.this["schedule-undelivered"]',
    "InboxUndeliveredAlarm": 'aws_cloudwatch_metric_alarm.this["inbox-undelivered"]',
}
# Only CodeDeploy needs it.
NOT_BY_TERRAFORM = {"NewVersionAlarm"}
PARTS = {"aws_iam_role_policy", "aws_cloudwatch_event_target", "aws_lambda_permission"}
# Whose name is made up by whoever makes it, or is the stack's.
NAMED = re.compile("Table|Key|Role|ManagedPolicy|Queue|Rule|Schedule|Function")
# What the template says of CodeDeploy, and the module does not.
OF_CODE_DEPLOY = {
    ("SweepErrorsAlarm", "AlarmDescription"): ("; an update that is under way is undone", ""),
    # SAM's own alias has no description.
    ("RotatorAliaslive", "description"): ("", "What schedules, pipelines and people invoke."),
}
# The provider speaks CloudWatch's older protocol, in which the emulator leaves these out of what it tells of an alarm: each
# plan would put them there. The comparison with the other stack asks by the newer one, and is told.
NOT_TOLD_TO_THE_PROVIDER = {
    "actions_enabled", "alarm_description", "dimensions", "period", "statistic", "treat_missing_data"
}
ALARM = "module.changeover.aws_cloudwatch_metric_alarm.this"
KEPT = ["aws_dynamodb_table.records", "aws_kms_key.sealing", "aws_kms_key.publication"]

# What is refused before anything is asked of AWS: each variable, with a value that the template refuses too.
REFUSED = {
    "architecture": "riscv",
    "scope": "two words",
    "specs": "tokens",
    "clusters": "/clusters/",
    "cluster_name": "-",
    "publication_path": "coilysiren",
    "inbox_path": "/",
    "scheduled_token": "Token",
    "scheduled_by": "cron",
    "schedule_window": 1441,
    "tracing": "active",
    "reserved_concurrency": 0,
    "event_bus": "arn:aws:events:eu-west-1:000000000000:event-bus/tokens",
    "alarm_topic": "topic",
}


pytestmark = [pytest.mark.verify, pytest.mark.xdist_group("terraform")]


@pytest.fixture(scope="module")
def provider(tmp_path_factory) -> Path:
    try:
        return terraform.provider(tmp_path_factory.mktemp("provider"))
    except terraform.Unavailable as reason:
        mirror = f"{terraform.PLUGINS}=DIRECTORY, filled by `terraform -chdir=infra/terraform providers mirror DIRECTORY`"
        pytest.skip(f"{reason}\nTo run this: Terraform 1.5 or newer on PATH, and its AWS provider from a registry or by {mirror}")


@pytest.fixture(scope="module")
def example() -> str:
    """What README says."""
    section = (PROJECT / "infra" / "README.md").read_text().split("\n## By Terraform\n")[1]
    return re.search(r"^```hcl\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture(scope="module")
def applying(testbed, provider, example, tmp_path_factory) -> Iterator[Future[Terraform]]:
    """README's example with the options that the other stack has, on its way: the provider waits half a minute for each queue,
    in which there is time for what is only planned. It is taken away again, with what Terraform refuses to take."""
    directory = tmp_path_factory.mktemp("root")
    _write(directory, example)
    code = deployment.package(testbed.rotator, directory, testbed.logs / f"function-{NAME}.log")
    (directory / "rotator.zip").write_bytes(code)
    variables = _variables(deployment.parameters(testbed.aws)) | ITS_OWN | {"name": NAME}
    overrides = {"terraform": {"backend": {"local": {}}}, "module": {"changeover": variables}}
    (directory / "override.tf.json").write_text(json.dumps(overrides))
    root = Terraform(testbed.aws, directory, provider)

    def apply() -> Terraform:
        root.init()
        root.apply()
        return root

    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(apply)
        yield future
        # Whether it succeeded or not.
        future.exception()
        _take_away(testbed, root)


@pytest.fixture(scope="module")
def module(testbed, applying, provider, tmp_path_factory) -> Terraform:
    """The module alone, to plan it with other options."""
    directory = tmp_path_factory.mktemp("module")
    for file in terraform.MODULE.glob("*.tf"):
        shutil.copy(file, directory)
    (directory / "rotator.zip").touch()
    planned = Terraform(testbed.aws, directory, provider)
    planned.init()
    return planned


@pytest.fixture(scope="module")
def applied(applying) -> Terraform:
    return applying.result()


def readme_example_validates_unchanged(testbed, applying, example, provider, tmp_path):
    _write(tmp_path, example)
    root = Terraform(testbed.aws, tmp_path, provider)
    root.init("-backend=false")
    validated = json.loads(root("validate", "-json"))
    assert validated["diagnostics"] == []
    root("fmt", "-check", "-diff")
    root("fmt", "-check", "-diff", str(terraform.MODULE))


def each_option_adds_only_its_resources(module):
    least = _planned(module)
    assert not {address for address in least if re.search(r"inbox|undelivered|rotation\[|scheduler|issue", address)}

    queue = {"aws_sqs_queue.undelivered_events[0]", 'aws_cloudwatch_metric_alarm.this["schedule-undelivered"]'}
    rule = {f"{kind}.rotation[0]" for kind in ("aws_cloudwatch_event_rule", "aws_cloudwatch_event_target", "aws_lambda_permission")}
    assert _planned(module, scheduled_token="monthly", scheduled_by="rule") - least == queue | rule

    schedule = {"scheduled_token": "monthly", "schedule_timezone": "Europe/Berlin", "schedule_window": 60}
    network = {"subnet_ids": ["subnet-1"], "security_group_ids": ["sg-1"], "tracing": "Active", "reserved_concurrency": 10}
    topic = "arn:aws:sns:eu-west-1:000000000000:alarms"
    most = _planned(module, **schedule, **network, inbox_path="/inbox", alarm_topic=topic, live_version="41")
    role = {"aws_iam_role.scheduler[0]", "aws_iam_role_policy.scheduler[0]", "aws_scheduler_schedule.rotation[0]"}
    inbox = {each for each in most if "inbox" in each} | {"aws_iam_policy.issue[0]"}
    assert most - least == queue | role | inbox and len(inbox) == 6
    resources = module.planned()["planned_values"]["root_module"]["resources"]
    planned = {each["address"]: each["values"] for each in resources}
    function = planned["aws_lambda_function.rotator"]
    assert function["vpc_config"][0]["subnet_ids"] == ["subnet-1"]
    assert function["tracing_config"] == [{"mode": "Active"}]
    assert function["reserved_concurrent_executions"] == 10
    timed = planned["aws_scheduler_schedule.rotation[0]"]
    assert timed["flexible_time_window"] == [{"mode": "FLEXIBLE", "maximum_window_in_minutes": 60}]
    assert timed["schedule_expression_timezone"] == "Europe/Berlin"
    aliases = [planned[f"aws_lambda_alias.{name}"]["function_version"] for name in ("live", "status", "sweep")]
    assert aliases == ["41"] * 3
    alarms = [values for address, values in planned.items() if address.startswith("aws_cloudwatch_metric_alarm.")]
    assert len(alarms) == 9 and all(alarm["alarm_actions"] == alarm["ok_actions"] == [topic] for alarm in alarms)


def module_refuses_values_refused_by_template(module):
    with pytest.raises(TerraformFailed) as refusal:
        _planned(module, **REFUSED)
    assert set(re.findall(r'"traversal":"var\.(\w+)"', str(refusal.value))) == set(REFUSED)
    with pytest.raises(TerraformFailed, match="A rule knows UTC only"):
        _planned(module, scheduled_token="monthly", scheduled_by="rule", schedule_timezone="Europe/Berlin")


def terraform_stack_equals_cloudformation_stack(testbed, applied):
    listed = testbed.boto3("cloudformation").describe_stack_resources(StackName=testbed.stack)["StackResources"]
    kinds = {each["LogicalResourceId"]: each["ResourceType"] for each in listed}
    compared = {name for name, kind in kinds.items() if kind not in TOLD_WITH_ANOTHER}
    assert compared == ADDRESSES.keys() | NOT_BY_TERRAFORM
    resources = applied.resources()
    assert {each for each in resources if each.partition(".")[0] not in PARTS} == set(ADDRESSES.values())

    by_cloudformation = {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in listed}
    by_terraform = {name: resources[address]["id"].removeprefix("default/") for name, address in ADDRESSES.items()}
    its_own_paths = {path: f"/changeover{path.removeprefix(f'/{NAME}')}" for path in ITS_OWN.values()}
    stacks = [
        Stack(testbed.aws, by_cloudformation, _names(by_cloudformation, kinds)),
        Stack(testbed.aws, by_terraform, _names(by_terraform, kinds) | its_own_paths),
    ]
    for name in ADDRESSES:
        expected, made = (stack.describe(kinds[name], name) for stack in stacks)
        for (resource, property), (written, instead) in OF_CODE_DEPLOY.items():
            if resource == name:
                assert written in expected[property]
                expected[property] = expected[property].replace(written, instead, 1)
        if name == "Rotator":
            expected["variables"] = {
                variable: value for variable, value in expected["variables"].items() if variable not in VARIABLES_OF_THE_EMULATOR
            }
        assert made == expected, name


def rotation_through_live_causes_no_terraform_change(testbed, applied, tell):
    outputs = applied.outputs()["changeover"]
    stack = testbed.of(function=outputs["function_name"], qualifier="live", specs=ITS_OWN["specs"])
    assert outputs["alias_arn"].endswith(f":{stack.function}:live")
    parameters, tables = testbed.boto3("ssm"), testbed.boto3("dynamodb")
    service = DynamicService(stack, NAME)
    service.create_table()
    service.put_spec(service.spec(overlap="5s"))
    values = []
    with _granted_what_the_emulator_cannot_evaluate(testbed, outputs):
        assert stack.invoke({"action": "status"}, "status")["outcome"] == "reported"
        for action, outcome in (("publish", "published"), ("rotate", "rotated")):
            answer = service.invoke(action)
            assert (answer["outcome"], answer["version"]) == (outcome, len(values) + 1)
            values.append(parameters.get_parameter(Name=service.token_parameter, WithDecryption=True)["Parameter"]["Value"])
    assert len(set(values)) == 2

    # Meanwhile the overlap passes.
    changes = applied.plan()
    assert {re.sub(r"\[.*", "", address): action for address, action in changes.items()} == {ALARM: "update"}
    again = applied.planned()
    for each in again["resource_changes"]:
        before, after = each["change"]["before"], each["change"]["after"]
        assert {name for name in after if after[name] != before[name]} <= NOT_TOLD_TO_THE_PROVIDER, each["address"]
    assert again["output_changes"]["changeover"]["actions"] == ["no-op"]
    # Nobody who reads states or plans learns a token.
    told = [json.dumps(again), *(path.read_text() for path in applied.directory.glob("terraform.tfstate*"))]
    assert len(told) > 1 and not [value for value in values if any(value in text for text in told)]

    with _granted_what_the_emulator_cannot_evaluate(testbed, outputs):
        standing = service.sweep_until_nothing_is_owed()
    assert [each["version"] for each in standing["versions"]] == [2]
    # Of the tokens of all other stories it knows nothing.
    records = tables.scan(TableName=outputs["table_name"])["Items"]
    assert {item["pk"]["S"] for item in records} == {f"token#{service.token}"}
    parameters.delete_parameters(Names=[f"{stack.specs}/{service.token}", service.token_parameter])
    tables.delete_table(TableName=service.table)
    tell(f"{len(applied.resources())} resources as by CloudFormation; planned again {len(changes)} alarms, of which it is told too little")


def terraform_destroy_of_records_and_keys_is_refused(applied):
    with pytest.raises(TerraformFailed) as refusal:
        applied("plan", "-destroy", "-refresh=false")
    refused = re.findall(r"Resource module\.changeover\.(\S+) has lifecycle\.prevent_destroy set", str(refusal.value))
    # It says so of the first that it comes to.
    assert refused and set(refused) <= set(KEPT)


def _write(directory: Path, example: str) -> None:
    """The example as README has it: `source` is below it, as in a checkout."""
    (directory / "main.tf").write_text(example)
    (directory / "infra").symlink_to(PROJECT / "infra")


def _variables(parameters: dict[str, str]) -> dict[str, str | list[str]]:
    """The template's parameters as the module has them."""
    lists = {"ClusterRoles", "PublishedTables", "PublishedItems", "PublishedKeyAttributes", "PublicationKeys"}
    return {
        re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): value.split(",") if name in lists else value
        for name, value in parameters.items() if name not in WITHOUT_VARIABLES
    }


def _names(made: dict[str, str], kinds: dict[str, str]) -> dict[str, str]:
    """What is written in place of each name that is made up."""
    named = (name for name in made if NAMED.fullmatch(kinds[name].rpartition("::")[2]))
    return {made[name].rpartition("/")[2]: f"<{name}>" for name in named}


def _planned(module: Terraform, **variables) -> set[str]:
    """The addresses of what would be made."""
    changes = module.plan(**{"package": "rotator.zip", "publication_path": "/coilysiren", **variables})
    assert set(changes.values()) == {"create"}
    return set(changes)


@contextlib.contextmanager
def _granted_what_the_emulator_cannot_evaluate(testbed, outputs: dict[str, str]) -> Iterator[None]:
    """Taken back at the end, so that Terraform finds what it made."""
    role, key = outputs["role_arn"].rpartition("/")[2], {"KeyId": outputs["sealing_key_arn"], "PolicyName": "default"}
    policy = testbed.boto3("kms").get_key_policy(**key)["Policy"]
    deployment.grant_what_the_emulator_cannot_evaluate(testbed.aws, role, outputs["sealing_key_arn"])
    try:
        yield
    finally:
        testbed.boto3("kms").put_key_policy(**key, Policy=policy)
        testbed.boto3("iam").delete_role_policy(RoleName=role, PolicyName=deployment.IN_THE_EMULATOR)


def _take_away(testbed, root: Terraform) -> None:
    resources = root.resources()
    kept = [address for address in KEPT if address in resources]
    if kept:
        root("state", "rm", *(f"module.changeover.{address}" for address in kept))
    root("destroy", "-auto-approve", "-parallelism=30")
    tables, keys = testbed.boto3("dynamodb"), testbed.boto3("kms")
    for address in kept:
        if address.startswith("aws_kms_key."):
            keys.schedule_key_deletion(KeyId=resources[address]["id"], PendingWindowInDays=7)
        else:
            tables.update_table(TableName=resources[address]["name"], DeletionProtectionEnabled=False)
            tables.delete_table(TableName=resources[address]["name"])
