"""Pods of the Kubernetes manifests as processes of this host: their command, variables and volumes.

What differs from a cluster: paths are below a directory of the test, ports are free ones of
loopback addresses, and the API server is that of ``kubernetes_api``.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from importlib import metadata
from pathlib import Path

import httpx

from tests.support import certs
from tests.support.kubernetes_api import KubernetesApi
from tests.support.manifests import Manifests, Workload
from tests.support.processes import end
from tests.support.volumes import Volume
from tests.support.weirgate import Running, start
from weirgate.shared.testing import Configuration, eventually, free_port

EDGE, GATEWAY = "127.0.0.1", "127.0.0.11"


class Cluster:
    """Where both tiers of an overlay run."""

    def __init__(self, built: Manifests, api: KubernetesApi, directory: Path) -> None:
        self.built = built
        self.api = api
        self.directory = directory
        self.ports = {name: free_port() for name in ("http", "https", "edges", "load")}
        secrets = {"cookie_secret": "0" * 64, "admin_token": "0123456789abcdef" * 2}
        self.secrets = Volume(directory / "secrets", secrets)
        issued = certs.issue(directory, "shop.test")
        pair = {"tls.crt": issued.cert.read_bytes(), "tls.key": issued.key.read_bytes()}
        self.tls = Volume(directory / "tls", pair)
        self.files = self._here(built.files())
        self.config = Volume(directory / "config", self.files)
        self._commands = directory / "bin"
        self._commands.mkdir()
        for script in metadata.distribution("weirgate").entry_points:
            program = f"from {script.module} import {script.attr}; {script.attr}()"
            command = self._commands / script.name
            command.write_text(f"#!/bin/sh\nexec {sys.executable} -P -c '{program}' \"$@\"\n")
            command.chmod(0o755)

    def _here(self, files: dict[str, str]) -> dict[str, str]:
        access = f"token: {self.api.token_file}, ca: {self.api.ca_file}, "
        changes = {
            "/etc/weirgate": str(self.directory),
            "/run/weirgate/node": "${RUN_DIRECTORY}",
            "0.0.0.0:9080": f"${{ADDRESS}}:{self.ports['edges']}",
            "0.0.0.0:9081": f"${{ADDRESS}}:{self.ports['load']}",
            "kubernetes: {": "kubernetes: {" + access,
            "0.0.0.0:$": f"{EDGE}:$",
        }
        for old, new in changes.items():
            assert any(old in text for text in files.values()), old
            files = {name: text.replace(old, new) for name, text in files.items()}
        return files

    def environment(self, tier: Workload, address: str = GATEWAY) -> dict[str, str]:
        """Return the variables of a pod with an address, with what is different here."""
        admin = f"127.0.0.1:{free_port()}"
        own = {
            "WEIRGATE_HTTP_PORT": str(self.ports["http"]),
            "WEIRGATE_HTTPS_PORT": str(self.ports["https"]),
            "WEIRGATE_EDGES": f"{EDGE}/32",
            "WEIRGATE_WORKERS": "1",
            "WEIRGATE_ADMIN_BIND": admin,
            "WEIRGATE_ADMIN": f"http://{admin}",
            "WEIRGATE_TOKEN": "0123456789abcdef" * 2,
            "ADDRESS": address,
            "RUN_DIRECTORY": str(self.directory / f"{tier.name}-{address}" / "run"),
            "PATH": f"{self._commands}:/usr/bin:/bin",
            **self.api.environ(),
        }
        given = self.built.environment(tier)
        assert own.keys() - given.keys() == {
            "ADDRESS",
            "RUN_DIRECTORY",
            "PATH",
            *self.api.environ(),
        }
        return given | own

    @contextlib.asynccontextmanager
    async def pod(
        self, name: str, address: str = GATEWAY, *, wait: bool = True
    ) -> AsyncIterator["Pod"]:
        """Start a pod of a tier, and wait until its startup probe succeeds."""
        tier = self.built.tier(name)
        directory = self.directory / f"{name}-{address}"
        directory.mkdir(exist_ok=True)
        environment = self.environment(tier, address)
        arguments = [
            a.replace("/etc/weirgate", str(self.directory)) for a in tier.container["args"]
        ]
        process = await start(*arguments, directory=directory, env=environment)
        headers = {"authorization": f"Bearer {environment['WEIRGATE_TOKEN']}"}
        url = environment["WEIRGATE_ADMIN"]
        async with httpx.AsyncClient(base_url=url, trust_env=False, headers=headers) as admin:
            node = Running(Configuration(), directory, process, admin)
            pod = Pod(tier, node, environment)
            try:
                if wait:
                    await pod.is_started()
                yield pod
            except BaseException as error:
                error.add_note(node.log()[-4000:])
                raise
            finally:
                await end(process)


class Pod:
    """A running pod."""

    def __init__(self, tier: Workload, node: Running, environment: dict[str, str]) -> None:
        self.tier = tier
        self.node = node
        self._environment = environment

    async def probe(self, name: str) -> bool:
        """Run a probe as the kubelet does; say whether it succeeded."""
        spec = self.tier.container[name]
        process = await asyncio.create_subprocess_exec(
            *spec["exec"]["command"],
            env=self._environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(spec["timeoutSeconds"]):
            return await process.wait() == 0

    async def is_started(self) -> None:
        """Wait until the startup probe succeeds."""

        async def seen() -> bool:
            assert self.node.process.returncode is None, "the pod has ended"
            return await self.probe("startupProbe")

        what = f"the startup probe of {self.tier.name}"
        await eventually(seen, within_s=20, what=what, explain=self.node.log)
