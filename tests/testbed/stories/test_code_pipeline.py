"""A deployment pipeline rotates: deploy, rotate, smoke test. A rollout that fails fails the stage."""

import json

import pytest

from testbed.code_pipeline import CodePipeline, Hangs
from testbed.small_platform import SmallPlatform

# All deployed functions look for CodePipeline at the same place.
pytestmark = pytest.mark.xdist_group("pipeline")


@pytest.fixture
def pipeline(testbed):
    """A pipeline that invokes the alias `live`, and takes the answers where deployed functions look for CodePipeline."""
    port = int(testbed.aws.code_pipeline.rpartition(":")[2])
    with CodePipeline(testbed.invoke, port) as pipeline:
        yield pipeline


@pytest.mark.slow
def pipeline_stage_follows_rotation_and_fails_with_rollout(testbed, tell, pipeline):
    with SmallPlatform(testbed, "pipeline") as platform:
        switch = testbed.directory / f"{platform.name}-broken"
        platform.create()
        # The next deployment crashes where the switch is set.
        platform.apply(platform.backend(CRASH_IF_EXISTS=str(switch)))
        platform.wait_available("backend")

        execution = pipeline.execute(_parameters(platform, wait="2s"))
        assert execution.failure is None
        variables = execution.variables
        # "unchanged" where the sweep was the one that ended it.
        assert variables["outcome"] in ("rotated", "unchanged")
        assert (variables["token"], variables["version"]) == (platform.token, "2")
        assert len(execution.jobs) > 1, "it was over before it could go on"
        parameter = testbed.boto3("ssm").get_parameter(Name=variables["selectors"], WithDecryption=True)["Parameter"]
        assert set(platform.verdicts(parameter["Value"]).values()) == {200}
        assert parameter["Value"] not in json.dumps(variables)
        tell(f"{len(execution.jobs)} jobs for one rotation: {variables}")

        switch.touch()
        failed = pipeline.execute(_parameters(platform))
        assert failed.failure["type"] == "JobFailed"
        assert "backend" in failed.failure["message"] and "CrashLoopBackOff" in failed.failure["message"]
        tell(f"the stage fails: {failed.failure['message']}")

        switch.unlink()
        platform.wait_available("backend", seconds=120)
        retried = pipeline.execute(_parameters(platform))
        assert (retried.failure, retried.variables["version"]) == (None, "3")

        # Delivered twice, it is done once and answered once.
        twice = pipeline.execute(_parameters(platform), deliveries=2)
        assert (twice.failure, twice.variables["version"]) == (None, "4")
        assert pipeline.answers(twice.jobs[0]) == 2
        assert platform.current_version() == 4
        platform.wait_under_load()
        tell(platform.load.summary())
        assert platform.load.failed == [], platform.load.failures()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (None, "no UserParameters"),
        ("rotate the token", "not JSON"),
        ('{"action": "rotate"}', "`token`"),
        ('{"action": "rotate", "token": "nobody-knows-it"}', "nobody-knows-it"),
    ],
)
def invalid_stage_parameters_are_named_in_failure(pipeline, written, told):
    execution = pipeline.execute(written)
    assert execution.failure["type"] == "ConfigurationError"
    assert told in execution.failure["message"]


def denied_job_answer_is_logged_and_not_retried(testbed, pipeline):
    pipeline.is_forbidden = True
    with pytest.raises(Hangs):
        pipeline.execute('{"action": "sweep"}')
    log = testbed.function_log.read_text()
    told = [json.loads(line) for line in log.splitlines() if "the job hangs unanswered" in line]
    assert len(told) == 1
    assert told[0]["level"] == "ERROR" and "codepipeline:PutJobSuccessResult" in told[0]["error"]


def _parameters(platform: SmallPlatform, **fields: str) -> str:
    return json.dumps({"action": "rotate", "token": platform.token} | fields)
