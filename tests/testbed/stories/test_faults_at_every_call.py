"""Whatever befalls one call of AWS, a rotation comes to the end that it would have had: at once, or after one clear error."""

import contextlib
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from testbed import faults, platform, sample
from testbed.disturbed import Bench
from testbed.faults import Call, Fault
from testbed.faulty_aws import FaultyAws

# Most of a rotation's time is waiting for the overlap's end.
BENCHES = 40
AT_WORK = 8


@pytest.fixture
def aws(testbed):
    with FaultyAws(testbed) as aws:
        platform.wait_until(aws.is_ready, 30, "the proxy answers")
        yield aws


@pytest.mark.xdist_group("heavy")
@pytest.mark.slow
def fault_at_any_call_preserves_rotation_result(testbed, aws, tell):
    began = time.monotonic()
    at_work = threading.Semaphore(AT_WORK)
    with Bench(testbed, aws, at_work) as bench:
        calls, undisturbed = bench.undisturbed("undisturbed")
    assert undisturbed.problems == []

    every_case = [(call, fault) for call in calls for fault in faults.faults_of(call.operation)]
    cases = sample.drawn(every_case, one_in=4)
    waiting: queue.SimpleQueue[tuple[int, Call, Fault]] = queue.SimpleQueue()
    # Those that take longest first.
    for number, case in enumerate(sorted(cases, key=lambda case: not case[1].lands_late)):
        waiting.put((number, *case))

    def work() -> list[str]:
        problems = []
        with Bench(testbed, aws, at_work) as bench, contextlib.suppress(queue.Empty):
            while True:
                number, call, fault = waiting.get_nowait()
                course = bench.disturbed(f"case-{number}", call, fault, by_sweep=number % 2 == 0)
                if course.end != undisturbed.end:
                    course.problems.append(f"it came to {course.end}")
                # A write to Parameter Store whose reply was lost is looked at once more: a sweep more, with the same answer.
                if not fault.told_as and set(course.answers) != set(undisturbed.answers):
                    course.problems.append("it was noticed")
                problems += [f"{call}, {fault.name}: {problem} ({course.answers})" for problem in course.problems]
        return problems

    with ThreadPoolExecutor(BENCHES) as executor:
        workers = [executor.submit(work) for _ in range(BENCHES)]
    problems = [problem for worker in workers for problem in worker.result()]
    tell(f"{len(calls)} calls, {len(cases)} of {len(every_case)} faults at them, in {time.monotonic() - began:.0f} s")
    assert problems == [], "\n".join(problems)
