"""The testbed's commands; `run` starts this in the testbed's own environment of packages."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from testbed import cache, deployment
from testbed.deployment import DeploymentFailed
from testbed.kubectl import KubectlFailed
from testbed.processes import StartFailed
from testbed.testbed import DESCRIPTION, Testbed

EVENTS = deployment.PROJECT / "events"
# The token of the files in `events/`.
DEMO_TOKEN = "datastore-token"

# What their messages say is all there is to know; of anything else the traceback is wanted.
FAILURES = (DeploymentFailed, KubectlFailed, StartFailed)


def main() -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    arguments = _arguments()
    try:
        return arguments.command(arguments)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except FAILURES as failure:
        print(f"testbed: {failure}", file=sys.stderr)
        return 1


def build(_: argparse.Namespace) -> int:
    """Builds everything that the testbed starts."""
    cache.binaries()
    deployment.build_rotator()
    return 0


def up(arguments: argparse.Namespace) -> int:
    """Stays until it is interrupted."""
    from testbed.assembly import started

    with started(arguments.rotator, arguments.binary) as testbed:
        print(look_around(testbed), flush=True)
        _stay()
    return 0


def run_with(arguments: argparse.Namespace) -> int:
    """Runs a command beside the testbed, and ends as the command does."""
    from testbed.assembly import started

    if not arguments.words:
        sys.exit("testbed: run with -- COMMAND: the command is missing")
    with started(arguments.rotator, arguments.binary) as testbed:
        command = subprocess.Popen(
            arguments.words, env={**os.environ, DESCRIPTION: str(testbed.directory / "testbed.json")}
        )
        try:
            code = command.wait()
        except BaseException:
            # Interrupted at a terminal it was interrupted too, and may have to tidy up.
            command.terminate()
            try:
                command.wait(10)
            except subprocess.TimeoutExpired:
                command.kill()
                command.wait()
            raise
        if code != 0:
            # As a shell says that a signal ended it.
            raise SystemExit(code if code > 0 else 128 - code)
    return 0


def run_tests(arguments: argparse.Namespace) -> int:
    """Runs every test; ends with 1 if one failed."""
    from testbed import everything
    from testbed.assembly import started

    with started(arguments.rotator, arguments.binary) as testbed:
        if everything.main(testbed) != 0:
            raise SystemExit(1)
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Shows rotations for processes that read their token by themselves, on the account alone."""
    from testbed.assembly import account_started
    from testbed.local_platform import LocalPlatform

    return _demo(arguments, account_started, LocalPlatform)


def demo_cluster(arguments: argparse.Namespace) -> int:
    """Shows rotations for workloads of a cluster."""
    from testbed.assembly import started
    from testbed.small_platform import SmallPlatform

    return _demo(arguments, started, SmallPlatform)


def _demo(arguments: argparse.Namespace, started: Callable, platform: Callable) -> int:
    """Runs the demo on a platform of that kind; with `--keep` everything stays until it is interrupted."""
    from testbed import demo

    with started(arguments.rotator, arguments.binary) as testbed, platform(testbed, "backend", DEMO_TOKEN) as shown:
        code = demo.main(shown, arguments.picture or testbed.command.resolve().parent.parent / "demo.svg")
        if arguments.keep:
            print(f"\n{look_around(testbed)}\n{rotate_again(testbed)}", flush=True)
            _stay()
        if code != 0:
            raise SystemExit(code)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Compares rotations by hand with changeover's; ends with 1 if one of changeover's had a request refused."""
    from testbed import comparison
    from testbed.assembly import started

    with started(arguments.rotator, arguments.binary) as testbed:
        code = comparison.main(testbed)
        if code != 0:
            raise SystemExit(code)
    return 0


def _stay() -> None:
    """Returns when the testbed is interrupted."""
    try:
        while True:
            signal.pause()
    except (KeyboardInterrupt, SystemExit):
        return


def look_around(testbed: Testbed) -> str:
    """How to use a running testbed from another shell."""
    region = testbed.aws.region
    return f"""testbed: it runs until Ctrl-C. From another shell:{_in_the_cluster(testbed)}
  export AWS_ENDPOINT_URL={testbed.aws.endpoint} AWS_REGION={region} AWS_DEFAULT_REGION={region}
  export AWS_ACCESS_KEY_ID={testbed.aws.access_key_id} AWS_SECRET_ACCESS_KEY={testbed.aws.secret_access_key}
  export {DESCRIPTION}={testbed.directory / "testbed.json"}
  aws lambda invoke --function-name {testbed.function} --payload fileb://{EVENTS / "status-all.json"} /dev/stdout
  tail -f {testbed.function_log}
  ls {testbed.logs}"""


def _in_the_cluster(testbed: Testbed) -> str:
    if not testbed.has_cluster:
        return ""
    return f"""
  export KUBECONFIG={testbed.kubeconfig} PATH={Path(str(testbed.kubectl)).parent}:$PATH
  kubectl get externalsecrets,deployments,pods --all-namespaces"""


def rotate_again(testbed: Testbed) -> str:
    """How to rotate the demo's token in the shell of `look_around`."""
    return f"""To rotate again, by the command or by the AWS CLI:
  {testbed.command} --function {testbed.function} rotate {DEMO_TOKEN} --follow
  aws lambda invoke --function-name {testbed.function} --cli-read-timeout 0 \\
      --payload fileb://{EVENTS / "rotate.json"} /dev/stdout"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run", description="changeover's testbed: the real parts, on this computer")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: object, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=function)
        return added

    command("build", build, "build everything into the cache, and the function")
    running = [
        command("up", up, "start everything and stay until Ctrl-C"),
        command("with", run_with, "start everything, run a command beside it, and exit with its code"),
        command("test", run_tests, "start everything and run every test"),
        command("demo", demo, "show rotations under load, on the emulated account alone"),
        command("demo-cluster", demo_cluster, "show rotations under load, of workloads in a cluster"),
        command("compare", compare, "compare rotations by hand with changeover's, under load"),
    ]
    for added in running:
        added.add_argument("--rotator", type=Path, help="binary of the function to deploy, in place of building it")
        added.add_argument(
            "--command", dest="binary", type=Path, metavar="COMMAND",
            help="binary of the command `changeover`, in place of the one beside the function's",
        )
    running[1].add_argument("words", nargs="*", metavar="-- COMMAND ARGUMENT", help="what to run")
    for added in running[3:5]:
        added.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
        added.add_argument("--picture", type=Path, help="file of the picture, in place of demo.svg in the target directory")
    return parser.parse_args()


def _end(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
