# SPDX-License-Identifier: Apache-2.0
"""Wrong values are refused, and the right ones are explained."""

from __future__ import annotations

import json
import re
import unittest
from typing import Any, Iterator

import chart

# Values that must be refused, and a word of the complaint.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"kubletDir": "/x"}, "kubletDir"),
    ({"kubeletDir": "var/lib/kubelet"}, "kubeletDir"),
    ({"kubeletDir": "/var/lib/../kubelet"}, "kubeletDir"),
    ({"kubeletDir": ""}, "kubeletDir"),
    ({"driverName": "CSI Driver"}, "driverName"),
    ({"driverName": "a" * 64}, "driverName"),
    ({"image": {"tag": "latest"}}, "tag"),
    ({"image": {"digest": "sha256:12"}}, "digest"),
    ({"image": {"name": "x"}}, "name"),
    ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ({"pools": []}, "pools"),
    ({"pools": [{"name": "fast"}]}, "path"),
    ({"pools": [{"name": "Fast", "path": "/x"}]}, "name"),
    ({"pools": [{"name": "fast", "path": "x"}]}, "path"),
    ({"pools": [{"name": "fast", "path": "/x,overcommit=9"}]}, "path"),
    ({"pools": [{"name": "fast", "path": "/x", "overcommit": 0.5}]}, "overcommit"),
    ({"pools": [{"name": "fast", "path": "/x", "size": 1}]}, "size"),
    ({"driver": {"load": "compile"}}, "load"),
    ({"driver": {"parameters": ["a; reboot"]}}, "parameters"),
    ({"ublkd": {"metricsPort": 0}}, "metricsPort"),
    ({"ublkd": {"metricsPort": "9500"}}, "metricsPort"),
    ({"ublkd": {"metricsHost": "localhost"}}, "metricsHost"),
    ({"ublkd": {"updateStrategy": "RollingUpdate"}}, "updateStrategy"),
    ({"ublkd": {"shutdownGraceSeconds": -1}}, "shutdownGraceSeconds"),
    ({"ublkd": {"failAfter": "5 minutes"}}, "failAfter"),
    ({"ublkd": {"failAfter": ""}}, "failAfter"),
    ({"ublkd": {"failAfter": 300}}, "failAfter"),
    ({"guard": {"enabled": "yes"}}, "enabled"),
    ({"guard": {"updateStrategy": "RollingUpdate"}}, "updateStrategy"),
    ({"ublkd": {"tolerations": [{"operator": "Sometimes"}]}}, "operator"),
    ({"ublkd": {"resources": {"request": {}}}}, "request"),
    ({"csi": {"maxUnavailable": "many"}}, "maxUnavailable"),
    ({"csi": {"maxVolumesPerNode": -1}}, "maxVolumesPerNode"),
    ({"sidecars": {"attacher": {}}}, "attacher"),
    ({"sidecars": {"provisioner": {"image": {"tag": ""}}}}, "tag"),
    ({"sidecars": {"provisioner": {"image": {"tag": "latest"}}}}, "tag"),
    ({"storageClasses": [{"fsType": "ext4"}]}, "name"),
    ({"storageClasses": [{"name": "s", "fsType": "ntfs"}]}, "fsType"),
    ({"storageClasses": [{"name": "s", "reclaimPolicy": "Recycle"}]}, "reclaimPolicy"),
    ({"podMonitor": {"interval": "often"}}, "interval"),
]


def levels(schema: Any, path: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of an object, with its path."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for key, value in schema.items():
            yield from levels(value, f"{path}.{key}")


class Values(unittest.TestCase):
    """values.yaml and values.schema.json."""

    def test_wrong_values_are_refused_by_name(self) -> None:
        for values, word in WRONG:
            with self.subTest(values=values):
                result = chart.template(values)
                self.assertNotEqual(result.returncode, 0, "it was accepted")
                self.assertIn(word, result.stderr)
                self.assertIn("schema", result.stderr, "the schema should have caught it")

    def test_no_level_takes_unknown_names(self) -> None:
        schema = json.loads((chart.CHART / "values.schema.json").read_text("utf-8"))
        found = list(levels(schema))
        self.assertGreater(len(found), 10)
        for path, level in found:
            with self.subTest(path):
                if "properties" in level:
                    self.assertIs(level["additionalProperties"], False)
                else:
                    # A map with names of the user's own: its values have a type.
                    self.assertIn("type", level["additionalProperties"])

    def test_each_value_is_explained(self) -> None:
        lines = (chart.CHART / "values.yaml").read_text("utf-8").splitlines()
        # Further down the names repeat those of Kubernetes or of an entry that is explained.
        inside_sidecars = False
        for above, line in zip(lines, lines[1:]):
            if re.match(r"\S", line) and not line.startswith("#"):
                inside_sidecars = line.startswith("sidecars")
            if re.match(r"( {0,2})[A-Za-z]+:", line) and not (inside_sidecars and line[2] == " "):
                with self.subTest(line):
                    self.assertRegex(above, r"^\s*# ", "there is no comment above")

    def test_registries_are_named_in_the_values_only(self) -> None:
        for path in chart.CHART.rglob("*"):
            if path.is_file() and path.name != "values.yaml":
                self.assertNotRegex(path.read_text("utf-8"), r"registry\.|docker\.io|ghcr\.io|quay\.io")
