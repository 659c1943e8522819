"""Ten tokens rotate at once. Their views share one Secret a side, which one Deployment reads: nothing of another is ever lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from testbed import end_of_rotation
from testbed.shared_platform import SIDES, TOKENS, SharedPlatform, Watch

STAMPS = '{{range $name, $value := .spec.template.metadata.annotations}}{{$name}}={{$value}} {{end}}{{"\\n"}}'
KEYS = '{{range $name, $value := .data}}{{$name}}=there {{end}}{{"\\n"}}'


@pytest.mark.parametrize("way", ["copied", "written"])
def ten_tokens_sharing_secret_and_workload_rotate_concurrently(testbed, tell, way):
    with ExitStack() as stack:
        platform = SharedPlatform(testbed, way, stack)
        platform.create_namespace()
        platform.put_specs()
        platform.apply(*platform.objects())
        assert {answer["outcome"] for answer in platform.all_at_once("publish")} == {"published"}
        platform.wait_available(*SIDES.values())
        platform.wait_under_load()

        def watch(kind: str, template: str) -> dict[str, Watch]:
            files = {name: testbed.directory / f"{platform.name}-{kind}-{name}" for name in SIDES.values()}
            return {name: stack.enter_context(Watch(platform, kind, name, template, file)) for name, file in files.items()}

        stamps, keys = watch("deployment", STAMPS), watch("secret", KEYS)
        answers = platform.all_at_once("rotate")
        assert {(answer["outcome"], answer["version"]) for answer in answers} == {("rotated", 2)}
        assert [answer["warnings"] for answer in answers] == [[]] * TOKENS, "nothing of another counts as a change"
        platform.sweep_all_to_rest()
        platform.wait_under_load()

        rolled = {name: _check_stamps(platform, name, watched.states) for name, watched in stamps.items()}
        for name, watched in keys.items():
            assert all(state.keys() == set(platform.tokens) for state in watched.states()), f"a key of {name} was lost"
        tell(f"{way}: {platform.load.summary()}; {rolled}")
        assert platform.load.failed == [], platform.load.failures()
        assert list(platform.load.by_version()) == [1, 2]


def _check_stamps(platform: SharedPlatform, name: str, states: Callable[[], list[dict[str, str]]]) -> str:
    """No stamp was lost or went back, and none rolled the Deployment twice."""
    before: dict[str, str] = {}
    templates, made = set(), set()
    for state in states():
        assert all(end_of_rotation.fence_of(state[stamp]) >= end_of_rotation.fence_of(value) for stamp, value in before.items()), f"{name}: {before} became {state}"
        templates.add(tuple(sorted(state.items())))
        made |= state.items()
        before = state
    assert len(before) == TOKENS
    sets = platform.testbed.kubectl(
        "get", "replicasets", f"--namespace={platform.name}", f"--selector=app={name}", "--output=name"
    ).split()
    # The first template bears none.
    assert len(sets) <= len(templates) <= 1 + len(made)
    return f"{len(made)} stamps, {len(sets) - 1} rollouts"
