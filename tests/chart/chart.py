# SPDX-License-Identifier: Apache-2.0
"""Renders the chart and finds things in what comes out."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Iterator

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/ublkd"
NAMESPACE = "storage"

Document = dict[str, Any]


@functools.cache
def tools() -> Path:
    """The folder with helm and kubectl."""
    script = Path(__file__).with_name("get-helm.sh")
    return Path(subprocess.run([script], check=True, capture_output=True, text=True).stdout.strip())


def helm(*arguments: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs helm; `values` (which may be nested) win over the chart's own."""
    # Neither a cluster nor the settings of whoever runs the test count.
    environment = {**os.environ, "KUBECONFIG": "/dev/null", "HELM_CONFIG_HOME": "/nonexistent"}
    return subprocess.run(
        [tools() / "helm", *arguments, "--values", "-"],
        input=json.dumps(values or {}),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def template(values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """helm template, also when it fails."""
    return helm("template", "test", str(CHART), "--namespace", NAMESPACE, values=values)


def render(values: dict[str, Any] | None = None) -> list[Document]:
    """The documents that the chart makes of these values."""
    result = template(values)
    if result.returncode != 0:
        raise AssertionError(f"helm template failed: {result.stderr}")
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def find(documents: list[Document], kind: str, name: str | None = None) -> Document:
    """The one document of this kind (and name)."""
    found = [
        document
        for document in documents
        if document["kind"] == kind and name in (None, document["metadata"]["name"])
    ]
    if len(found) != 1:
        raise AssertionError(f"expected one {kind} {name or ''}, there are {len(found)}")
    return found[0]


def pod(documents: list[Document], daemon_set: str) -> Document:
    """The pod of a DaemonSet."""
    return find(documents, "DaemonSet", daemon_set)["spec"]["template"]["spec"]


def containers(pod_spec: Document) -> list[Document]:
    """All containers of a pod, init containers first."""
    return [*pod_spec.get("initContainers", []), *pod_spec["containers"]]


def container(documents: list[Document], daemon_set: str, name: str) -> Document:
    """One container of a DaemonSet."""
    return next(c for c in containers(pod(documents, daemon_set)) if c["name"] == name)


def all_containers(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """("name/container", container) of every DaemonSet and Job."""
    for document in documents:
        if document["kind"] in ("DaemonSet", "Job"):
            name = document["metadata"]["name"]
            for one in containers(document["spec"]["template"]["spec"]):
                yield f"{name}/{one['name']}", one


def flags(one: Document) -> dict[str, str]:
    """The command line of a container as {"--flag": "value"}; of a repeated flag the last."""
    return dict(argument.partition("=")[::2] for argument in one["args"])


def mounts(one: Document) -> dict[str, Document]:
    """The mounts of a container by the name of their volume."""
    return {mount["name"]: mount for mount in one.get("volumeMounts", [])}


def host_paths(pod_spec: Document) -> dict[str, str]:
    """The host's path of each volume of a pod."""
    return {volume["name"]: volume["hostPath"]["path"] for volume in pod_spec["volumes"]}


def as_kubernetes_reads_it(document: Document, *arguments: str) -> Document:
    """The document after a round through Kubernetes' own types, which drop what they do not know.

    `arguments` is a kubectl command that needs no cluster and changes the document.
    """
    result = subprocess.run(
        [tools() / "kubectl", *arguments, "--local", "--dry-run=client", "-o", "json", "-f", "-"],
        input=json.dumps(document),
        capture_output=True,
        text=True,
        env={**os.environ, "KUBECONFIG": "/dev/null"},
        check=False,
    )
    if result.returncode != 0:
        raise AssertionError(f"kubectl cannot read it: {result.stderr}")
    return json.loads(result.stdout)


def missing(wanted: Any, got: Any, path: str = "") -> list[str]:
    """Paths of what is in `wanted` and not, or not the same, in `got`."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        return [
            lost for key in wanted for lost in missing(wanted[key], got.get(key), f"{path}.{key}")
        ]
    if isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        pairs = zip(wanted, got)
        return [
            lost for i, (a, b) in enumerate(pairs) for lost in missing(a, b, f"{path}[{i}]")
        ]
    return [] if wanted == got else [f"{path}: {wanted!r} became {got!r}"]
