"""The Kubernetes control plane: etcd, API server, controllers, scheduler, all of them real."""

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from testbed.cache import Binaries
from testbed.certificates import Authority
from testbed.kubectl import Kubectl
from testbed.processes import Processes, free_port

# What is said of every request to the audit log; never bodies, they hold Secrets. Renewed leases say nothing of interest.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
        {"level": "None", "nonResourceURLs": ["/healthz*", "/readyz*", "/livez*", "/openapi*"]},
        {"level": "Metadata"},
    ],
}


class Plane:
    """A control plane: where it is going to be reached, with which rights, and where it writes what was asked of it.

    Making one writes files only. What is started with it dies with `processes`.
    """

    def __init__(self, processes: Processes, binaries: Binaries, directory: Path) -> None:
        self._processes = processes
        self._api_server_command: list[str | Path] = []
        self._binaries = binaries
        self._directory = directory
        self._authority = Authority(directory / "certificates")
        self._port = free_port()
        self.api_server = f"https://127.0.0.1:{self._port}"
        self.certificate_authority = self._authority.certificate
        # Certificate and key that every server of the testbed serves with.
        self.serving = self._authority.serving
        self.audit_log = processes.logs / "audit.log"
        self.kubeconfig = self.user("administrator", "system:masters")
        self.kubectl = Kubectl(binaries.kubectl, self.kubeconfig)

    def user(self, name: str, *groups: str) -> Path:
        """A kubeconfig that authenticates as this user by a client certificate."""
        certificate, key = self._authority.client(name, *groups)
        path = self._directory / f"{name.replace(':', '-')}.kubeconfig"
        user = {"client-certificate": str(certificate), "client-key": str(key)}
        _write_kubeconfig(path, self.api_server, self.certificate_authority, user)
        return path

    def start_api_server(self, authentication: list[str]) -> None:
        """Starts etcd and the API server, with these flags on who knows whose token, and returns when it is ready."""
        etcd_client, etcd_peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._processes.start(
            "etcd",
            [
                self._binaries.etcd,
                "--name=testbed",
                f"--data-dir={self._directory / 'etcd'}",
                f"--listen-client-urls={etcd_client}",
                f"--advertise-client-urls={etcd_client}",
                f"--listen-peer-urls={etcd_peer}",
                f"--initial-advertise-peer-urls={etcd_peer}",
                f"--initial-cluster=testbed={etcd_peer}",
                # Nothing of a testbed has to survive a power cut.
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
        )
        self._processes.wait_until("etcd is healthy", lambda: _healthy(f"{etcd_client}/health", None), "etcd")

        audit_policy = self._directory / "audit-policy.json"
        audit_policy.write_text(json.dumps(AUDIT_POLICY))
        service_accounts = self._authority.service_accounts
        certificate, key = self.serving
        self._api_server_command = [
            self._binaries.kube_apiserver,
            f"--etcd-servers={etcd_client}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.certificate_authority}",
            *authentication,
            "--authorization-mode=RBAC",
            f"--service-account-key-file={service_accounts}",
            f"--service-account-signing-key-file={service_accounts}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-cluster-ip-range=10.96.0.0/16",
            # It would publish 127.0.0.1 as the address of a Service, which Kubernetes refuses.
            "--endpoint-reconciler-type=none",
            # Pods of the process node use no service account.
            "--disable-admission-plugins=ServiceAccount",
            f"--audit-policy-file={audit_policy}",
            f"--audit-log-path={self.audit_log}",
        ]
        self.start_api_server_again()

    def start_api_server_again(self) -> None:
        """Starts an API server that was killed: at the same place, on the same etcd. Returns when it is ready."""
        self._processes.start("kube-apiserver", self._api_server_command)
        ready = f"{self.api_server}/readyz"
        self._processes.wait_until(
            "the API server is ready", lambda: _healthy(ready, self.certificate_authority), "kube-apiserver"
        )

    def kill_api_server(self) -> None:
        """Ends it without a word to anybody. Controllers and operators wait for it to come back."""
        self._processes.kill("kube-apiserver")

    def token_webhook(self, url: str) -> list[str]:
        """Flags by which the API server asks this webhook about tokens, as EKS's asks its authenticator."""
        webhook = self._directory / "token-webhook.kubeconfig"
        _write_kubeconfig(webhook, url, self.certificate_authority, {})
        return [
            f"--authentication-token-webhook-config-file={webhook}",
            "--authentication-token-webhook-version=v1",
            "--authentication-token-webhook-cache-ttl=10s",
        ]

    def token_file(self, token: str, user: str, *groups: str) -> list[str]:
        """Flags by which the API server knows this bearer token as the user's."""
        path = self._directory / "tokens.csv"
        path.touch(mode=0o600)
        path.write_text(f'{token},{user},{user},"{",".join(groups)}"\n')
        return [f"--token-auth-file={path}"]

    def start_controllers(self) -> None:
        """Starts controller manager and scheduler, and returns when both are healthy."""
        controllers = [
            # All of them: without the node's life cycle a node keeps its taint and nothing is scheduled.
            "--controllers=*",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self._authority.service_accounts}",
            # Dozens of rollouts at once: its own limit of 20 calls a second is a large cluster's.
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            f"--root-ca-file={self.certificate_authority}",
        ]
        self._start_controller("kube-controller-manager", self._binaries.kube_controller_manager, controllers)
        self._start_controller("kube-scheduler", self._binaries.kube_scheduler, [])

    def _start_controller(self, name: str, program: Path, flags: list[str]) -> None:
        port = free_port()
        user = self.user(f"system:{name}")
        certificate, key = self.serving
        self._processes.start(
            name,
            [
                program,
                f"--kubeconfig={user}",
                f"--authentication-kubeconfig={user}",
                f"--authorization-kubeconfig={user}",
                "--bind-address=127.0.0.1",
                f"--secure-port={port}",
                f"--tls-cert-file={certificate}",
                f"--tls-private-key-file={key}",
                "--leader-elect=false",
                *flags,
            ],
        )
        url = f"https://127.0.0.1:{port}/healthz"
        self._processes.wait_until(f"{name} is healthy", lambda: _healthy(url, self.certificate_authority), name)


def _healthy(url: str, certificate_authority: Path | None) -> bool:
    context = ssl.create_default_context(cafile=str(certificate_authority)) if certificate_authority else None
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as response:
            return response.status == 200
    except (OSError, urllib.error.URLError):
        return False


def _write_kubeconfig(path: Path, server: str, certificate_authority: Path, user: dict[str, str]) -> None:
    """Writes it as JSON, which is YAML too."""
    path.touch(mode=0o600)
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {
                        "name": "testbed",
                        "cluster": {"server": server, "certificate-authority": str(certificate_authority)},
                    }
                ],
                "users": [{"name": "testbed", "user": user}],
                "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "testbed"}}],
                "current-context": "testbed",
            },
            indent=2,
        )
    )
