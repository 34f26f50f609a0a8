#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the chart promises, checked on what helm makes of it."""

from __future__ import annotations

import re
import sys
import unittest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.dont_write_bytecode = True

import chart
import loader_test
import values_test

PRIVILEGED = {"ublkd/ublkd", "ublkd-guard/ublkd-guard", "ublkd-csi/ublkd-csi"}

# Settings that reach every branch of the templates.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "driver loaded by the node": {"driver": {"load": "none"}},
    "another name and another kubelet": {
        "driverName": "disks.example.com",
        "kubeletDir": "/var/lib/k0s/kubelet/",
    },
    "two pools": {
        "pools": [
            {"name": "fast", "path": "/mnt/nvme", "overcommit": 1.5},
            {"name": "bulk", "path": "/mnt/disk", "create": True},
        ],
        "storageClasses": [
            {"name": "fast", "pool": "fast", "fsType": "xfs", "default": True},
            {"name": "bulk", "pool": "bulk", "provisioning": "thick", "mountOptions": ["noatime"]},
        ],
    },
    "no storage class": {"storageClasses": []},
    "everything else": {
        "image": {"repository": "example.com/ublkd", "digest": "sha256:" + "0" * 64},
        "imagePullSecrets": ["pull"],
        "podMonitor": {"enabled": True, "interval": "30s", "labels": {"release": "prometheus"}},
        "ublkd": {
            "extraArgs": ["--log-level=debug"],
            "nodeSelector": {"disk": "nvme"},
            "podAnnotations": {"a": "b"},
            "tolerations": [],
            "metricsHost": "[::]",
            "failAfter": "5m",
        },
        "guard": {
            "enabled": True,
            "extraArgs": ["--state-dir=/run/ublkd"],
            "nodeSelector": {"disk": "nvme"},
            "podAnnotations": {"a": "b"},
        },
        "csi": {
            "maxVolumesPerNode": 20,
            "maxUnavailable": 1,
            "extraArgs": ["--log-level=debug"],
            "nodeSelector": {"disk": "nvme"},
            "podAnnotations": {"a": "b"},
        },
        "uninstallCheck": {"nodeSelector": {"disk": "nvme"}, "tolerations": []},
        "sidecars": {"provisioner": {"extraArgs": ["--v=5"]}},
    },
    "nobody asks before it goes": {"uninstallCheck": {"enabled": False}},
}


def load_tests(
    loader: unittest.TestLoader, tests: unittest.TestSuite, _pattern: str | None
) -> unittest.TestSuite:
    """Adds the tests of the other files of this folder."""
    for module in (values_test, loader_test):
        tests.addTests(loader.loadTestsFromModule(module))
    return tests


class Chart(unittest.TestCase):
    """Each test looks at all variants, or at the one that it is about."""

    rendered: dict[str, list[chart.Document]]

    @classmethod
    def setUpClass(cls) -> None:
        cls.rendered = {name: chart.render(values) for name, values in VARIANTS.items()}

    def test_lint_is_clean(self) -> None:
        for name, values in VARIANTS.items():
            with self.subTest(name):
                result = chart.helm("lint", "--strict", str(chart.CHART), values=values)
                self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_objects_have_names_of_their_own_and_the_namespace_of_the_release(self) -> None:
        cluster_wide = {"ClusterRole", "ClusterRoleBinding", "CSIDriver", "StorageClass"}
        for name, documents in self.rendered.items():
            with self.subTest(name):
                ids = [(d["kind"], d["metadata"]["name"]) for d in documents]
                self.assertEqual(len(ids), len(set(ids)), ids)
                for document in documents:
                    expected = None if document["kind"] in cluster_wide else chart.NAMESPACE
                    self.assertEqual(document["metadata"].get("namespace"), expected, document)

    def test_kubernetes_knows_every_field(self) -> None:
        commands = {
            "DaemonSet": ("set", "image", "*=example.com/another:1"),
            "Job": ("set", "image", "*=example.com/another:1"),
            "ClusterRoleBinding": ("set", "subject", "--serviceaccount=a:b"),
            "RoleBinding": ("set", "subject", "--serviceaccount=a:b"),
        }
        for name, documents in self.rendered.items():
            for document in documents:
                if document["kind"] not in commands:
                    continue
                with self.subTest(name, kind=document["kind"]):
                    read = chart.as_kubernetes_reads_it(document, *commands[document["kind"]])
                    # What the command itself changed does not count.
                    read["subjects"] = read.get("subjects", [])[:1]
                    lost = [
                        line
                        for line in chart.missing(document, read)
                        if not re.search(r"\.image: |\.subjects: None", line)
                    ]
                    self.assertEqual(lost, [])

    def test_kubelets_folder_comes_from_one_value_everywhere(self) -> None:
        folder = "/var/lib/k0s/kubelet"
        documents = self.rendered["another name and another kubelet"]
        self.assertNotIn("/var/lib/kubelet", str(documents), "a path is written down somewhere")
        spec = chart.pod(documents, "ublkd-csi")
        plugin = chart.container(documents, "ublkd-csi", "ublkd-csi")
        registrar = chart.container(documents, "ublkd-csi", "node-driver-registrar")
        paths = chart.host_paths(spec)
        self.assertEqual(paths["kubelet"], folder)
        self.assertEqual(chart.mounts(plugin)["kubelet"]["mountPath"], folder)
        self.assertEqual(chart.mounts(plugin)["kubelet"]["mountPropagation"], "Bidirectional")
        self.assertEqual(chart.flags(plugin)["--kubelet-dir"], folder)
        self.assertEqual(paths["registration"], f"{folder}/plugins_registry")
        self.assertEqual(paths["plugin"], f"{folder}/plugins/disks.example.com")
        socket = f"{folder}/plugins/disks.example.com/csi.sock"
        self.assertEqual(chart.flags(plugin)["--endpoint"], f"unix://{socket}")
        self.assertEqual(chart.flags(registrar)["--kubelet-registration-path"], socket)

    def test_the_data_plane_sees_no_mount_of_a_pod(self) -> None:
        for name, documents in self.rendered.items():
            with self.subTest(name):
                spec = chart.pod(documents, "ublkd")
                self.assertNotIn("kubelet", str(chart.host_paths(spec)))
                for one in chart.containers(spec):
                    for mount in one.get("volumeMounts", []):
                        self.assertNotIn("mountPropagation", mount)
                for word in ("hostPID", "hostIPC", "hostNetwork", "shareProcessNamespace"):
                    self.assertNotIn(word, spec)

    def test_pools_and_kubelet_must_not_lie_in_each_other(self) -> None:
        for path in ("/var/lib/kubelet/pool", "/var/lib", "/var/lib/kubelet/"):
            with self.subTest(path):
                result = chart.template({"pools": [{"name": "p", "path": path}]})
                self.assertNotEqual(result.returncode, 0)
                self.assertIn("lie in each other", result.stderr)
        chart.render({"pools": [{"name": "p", "path": "/var/lib/kubelet-disks"}]})

    def test_storage_classes_name_pools_that_exist(self) -> None:
        pools = [{"name": "a", "path": "/a"}, {"name": "b", "path": "/b"}]
        for wrong, sentence in [
            ({"storageClasses": [{"name": "s", "pool": "none"}]}, "wants pool none"),
            ({"pools": pools, "storageClasses": [{"name": "s"}]}, "must name its pool"),
            ({"pools": [pools[0], pools[0]], "storageClasses": []}, "is given twice"),
        ]:
            with self.subTest(sentence):
                result = chart.template(wrong)
                self.assertNotEqual(result.returncode, 0)
                self.assertIn(sentence, result.stderr)

    def test_images_are_pinned(self) -> None:
        for name, documents in self.rendered.items():
            for where, one in chart.all_containers(documents):
                with self.subTest(name, container=where):
                    self.assertRegex(one["image"], r"(:[\w.-]+|@sha256:[0-9a-f]{64})$")
                    self.assertNotRegex(one["image"], r":latest$")

    def test_the_image_is_that_of_the_chart(self) -> None:
        version = re.search(r"VERSION (\S+)", (chart.ROOT / "CMakeLists.txt").read_text("utf-8")
                            .split("project(ublkd")[1])
        assert version is not None
        one = chart.container(self.rendered["default"], "ublkd", "ublkd")
        self.assertEqual(one["image"], f"ublkd:{version[1]}", "appVersion is not the version")
        pinned = chart.container(self.rendered["everything else"], "ublkd", "ublkd")
        self.assertEqual(pinned["image"], "example.com/ublkd@sha256:" + "0" * 64)

    def test_only_declared_containers_are_privileged(self) -> None:
        for name, documents in self.rendered.items():
            for where, one in chart.all_containers(documents):
                context = one["securityContext"]
                with self.subTest(name, container=where):
                    self.assertIs(context["readOnlyRootFilesystem"], True)
                    if where in PRIVILEGED:
                        self.assertIs(context["privileged"], True)
                        continue
                    self.assertNotIn("privileged", context)
                    self.assertIs(context["allowPrivilegeEscalation"], False)
                    self.assertEqual(context["capabilities"]["drop"], ["ALL"])
                    added = ["SYS_MODULE"] if where == "ublkd/load-driver" else None
                    self.assertEqual(context["capabilities"].get("add"), added)

    def test_the_loader_may_only_read_modules(self) -> None:
        loader = chart.container(self.rendered["default"], "ublkd", "load-driver")
        self.assertEqual([m["mountPath"] for m in loader["volumeMounts"]], ["/lib/modules"])
        self.assertIs(loader["volumeMounts"][0]["readOnly"], True)
        self.assertEqual(loader["terminationMessagePolicy"], "FallbackToLogsOnError")
        self.assertEqual(loader["args"][-1], "ublks_max=1024")
        without = chart.pod(self.rendered["driver loaded by the node"], "ublkd")
        self.assertNotIn("initContainers", without)
        self.assertNotIn("modules", chart.host_paths(without))

    def test_nobody_reads_secrets(self) -> None:
        for name, documents in self.rendered.items():
            with self.subTest(name):
                for role in documents:
                    for rule in role.get("rules", []):
                        self.assertNotIn("secrets", rule["resources"])
                        for words in (rule["apiGroups"], rule["resources"], rule["verbs"]):
                            self.assertNotIn("*", words)
                bound = [s["name"] for d in documents for s in d.get("subjects", [])]
                self.assertNotIn("ublkd", bound, "it needs no rights")
                self.assertIs(chart.pod(documents, "ublkd")["automountServiceAccountToken"], False)

    def test_rights_are_bound_to_accounts_that_exist(self) -> None:
        for name, documents in self.rendered.items():
            with self.subTest(name):
                for binding in (d for d in documents if d["kind"].endswith("RoleBinding")):
                    reference = binding["roleRef"]
                    chart.find(documents, reference["kind"], reference["name"])
                    for subject in binding["subjects"]:
                        account = chart.find(documents, subject["kind"], subject["name"])
                        self.assertEqual(subject["namespace"], account["metadata"]["namespace"])
                for daemon_set in ("ublkd", "ublkd-csi"):
                    account = chart.pod(documents, daemon_set)["serviceAccountName"]
                    chart.find(documents, "ServiceAccount", account)

    def test_the_driver_has_one_name(self) -> None:
        for name, documents in self.rendered.items():
            with self.subTest(name):
                driver = VARIANTS[name].get("driverName", "csi.ublkd.dev")
                plugin = chart.container(documents, "ublkd-csi", "ublkd-csi")
                self.assertEqual(chart.find(documents, "CSIDriver")["metadata"]["name"], driver)
                self.assertEqual(chart.flags(plugin)["--driver-name"], driver)
                self.assertIn(f"/plugins/{driver}/csi.sock", chart.flags(plugin)["--endpoint"])
                for document in documents:
                    if document["kind"] == "StorageClass":
                        self.assertEqual(document["provisioner"], driver)

    def test_the_default_name_is_the_one_in_the_program(self) -> None:
        header = (chart.ROOT / "daemon/csi/options.h").read_text("utf-8")
        found = re.search(r'kDriverName\[\] = "([^"]+)"', header)
        assert found is not None
        driver = chart.find(self.rendered["default"], "CSIDriver")
        self.assertEqual(driver["metadata"]["name"], found[1])

    def test_the_csi_driver_object(self) -> None:
        spec = chart.find(self.rendered["default"], "CSIDriver")["spec"]
        self.assertEqual(
            spec,
            {
                "attachRequired": False,
                "podInfoOnMount": True,
                "fsGroupPolicy": "File",
                "storageCapacity": True,
                "volumeLifecycleModes": ["Persistent"],
            },
        )

    def test_update_strategies(self) -> None:
        for name, documents in self.rendered.items():
            with self.subTest(name):
                data = chart.find(documents, "DaemonSet", "ublkd")["spec"]["updateStrategy"]
                self.assertEqual(data, {"type": "OnDelete"})
                control = chart.find(documents, "DaemonSet", "ublkd-csi")["spec"]["updateStrategy"]
                self.assertEqual(control["type"], "RollingUpdate")
                self.assertIn("maxUnavailable", control["rollingUpdate"])

    def test_kubernetes_waits_longer_than_ublkd(self) -> None:
        documents = chart.render({"ublkd": {"shutdownGraceSeconds": 200}})
        grace_ms = chart.flags(chart.container(documents, "ublkd", "ublkd"))["--shutdown-grace-ms"]
        patience = chart.pod(documents, "ublkd")["terminationGracePeriodSeconds"]
        self.assertEqual(grace_ms, "200000")
        self.assertGreater(patience, 200)

    def test_pods_are_critical_to_their_node(self) -> None:
        for name in ("ublkd", "ublkd-csi"):
            spec = chart.pod(self.rendered["default"], name)
            self.assertEqual(spec["priorityClassName"], "system-node-critical")
            self.assertEqual(spec["tolerations"], [{"operator": "Exists"}])

    def test_mounts_ports_and_selectors_meet(self) -> None:
        for name, documents in self.rendered.items():
            for document in (d for d in documents if d["kind"] == "DaemonSet"):
                with self.subTest(name, daemon_set=document["metadata"]["name"]):
                    labels = document["spec"]["template"]["metadata"]["labels"]
                    selector = document["spec"]["selector"]["matchLabels"]
                    self.assertLessEqual(selector.items(), labels.items())
                    spec = document["spec"]["template"]["spec"]
                    used = set()
                    for one in chart.containers(spec):
                        used |= chart.mounts(one).keys()
                        ports = {port["name"] for port in one.get("ports", [])}
                        for probe in ("livenessProbe", "readinessProbe"):
                            if probe in one:
                                self.assertIn(one[probe]["httpGet"]["port"], ports)
                    self.assertEqual(used, chart.host_paths(spec).keys())

    def test_sidecars_find_the_socket_of_the_plugin(self) -> None:
        documents = self.rendered["default"]
        for name in ("node-driver-registrar", "external-provisioner", "liveness-probe"):
            with self.subTest(name):
                one = chart.container(documents, "ublkd-csi", name)
                folder = chart.mounts(one)["plugin"]["mountPath"]
                self.assertEqual(chart.flags(one)["--csi-address"], f"{folder}/csi.sock")

    def test_both_parts_meet_at_one_socket(self) -> None:
        for values in ({}, {"ublkd": {"runDir": "/run/elsewhere"}}):
            documents = chart.render(values)
            server = chart.container(documents, "ublkd", "ublkd")
            client = chart.container(documents, "ublkd-csi", "ublkd-csi")
            socket = chart.flags(server)["--socket"]
            self.assertEqual(chart.flags(client)["--ublkd-socket"], socket)
            folder = socket.rsplit("/", 1)[0]
            for daemon_set, one in (("ublkd", server), ("ublkd-csi", client)):
                self.assertEqual(chart.mounts(one)["run"]["mountPath"], folder)
                self.assertEqual(chart.host_paths(chart.pod(documents, daemon_set))["run"], folder)

    def test_the_guard_is_there_when_it_is_wanted(self) -> None:
        names = [d["metadata"]["name"] for d in self.rendered["default"]]
        self.assertNotIn("ublkd-guard", names)
        documents = self.rendered["everything else"]
        guarded = chart.find(documents, "DaemonSet", "ublkd-guard")
        self.assertEqual(guarded["spec"]["updateStrategy"], {"type": "OnDelete"})
        spec = chart.pod(documents, "ublkd-guard")
        self.assertEqual(set(chart.host_paths(spec)), {"dev", "run"}, "it needs no data")
        self.assertIs(spec["automountServiceAccountToken"], False)

    def test_the_guard_meets_ublkd_in_the_state_folder(self) -> None:
        documents = chart.render({"ublkd": {"runDir": "/run/elsewhere"}, "guard": {"enabled": True}})
        for name in ("ublkd", "ublkd-guard"):
            one = chart.container(documents, name, name)
            self.assertEqual(chart.flags(one)["--state-dir"], "/run/elsewhere")
            self.assertNotIn("--guard-socket", chart.flags(one))
            self.assertEqual(chart.mounts(one)["run"]["mountPath"], "/run/elsewhere")
            self.assertEqual(chart.host_paths(chart.pod(documents, name))["run"], "/run/elsewhere")

    def test_nobody_waits_for_a_guard_that_is_not_there(self) -> None:
        result = chart.template({"ublkd": {"failAfter": "5m"}})
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("set guard.enabled", result.stderr)
        documents = chart.render({"ublkd": {"failAfter": "1h30m"}, "guard": {"enabled": True}})
        flags = chart.flags(chart.container(documents, "ublkd", "ublkd"))
        self.assertEqual(flags["--fail-after"], "1h30m")

    def test_the_uninstall_check_may_list_volumes_and_nothing_else(self) -> None:
        name = "ublkd-uninstall-check"
        for variant, documents in self.rendered.items():
            jobs = [d for d in documents if d["kind"] == "Job"]
            rules = [d["rules"] for d in documents if d["metadata"]["name"] == name and "rules" in d]
            with self.subTest(variant):
                if variant == "nobody asks before it goes":
                    self.assertEqual((jobs, rules), ([], []))
                    continue
                self.assertEqual([job["metadata"]["name"] for job in jobs], [name])
                only = {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["list"]}
                self.assertEqual(rules, [[only]])
                hook = jobs[0]["metadata"]["annotations"]["helm.sh/hook"]
                self.assertEqual(hook, "pre-delete", "it runs before anything is removed")
                spec = jobs[0]["spec"]["template"]["spec"]
                self.assertEqual(spec["serviceAccountName"], name)
                self.assertNotIn("volumes", spec)
                self.assertIs(spec["containers"][0]["securityContext"]["runAsNonRoot"], True)
                driver = chart.find(documents, "CSIDriver")["metadata"]["name"]
                self.assertEqual(chart.flags(spec["containers"][0]), {"--driver-name": driver})

    def test_every_flag_is_one_of_the_program(self) -> None:
        for daemon_set, folder in (
            ("ublkd", "server"), ("ublkd-csi", "csi"), ("ublkd-guard", "guard")
        ):
            sources = "".join(
                path.read_text("utf-8") for path in (chart.ROOT / "daemon" / folder).glob("*.cc")
            )
            known = set(re.findall(r'add_(?:option|flag)\(\s*"(--[a-z-]+)"', sources))
            for name, documents in self.rendered.items():
                if daemon_set not in [d["metadata"]["name"] for d in documents]:
                    continue
                with self.subTest(name, daemon_set=daemon_set):
                    one = chart.container(documents, daemon_set, daemon_set)
                    self.assertLessEqual(chart.flags(one).keys(), known)

    def test_pools_are_mounted_where_the_node_has_them(self) -> None:
        documents = self.rendered["two pools"]
        one = chart.container(documents, "ublkd", "ublkd")
        pools = [argument for argument in one["args"] if argument.startswith("--pool=")]
        self.assertEqual(
            pools, ["--pool=fast=/mnt/nvme,overcommit=1.5", "--pool=bulk=/mnt/disk"]
        )
        volumes = {v["name"]: v["hostPath"] for v in chart.pod(documents, "ublkd")["volumes"]}
        self.assertEqual(volumes["pool-fast"], {"path": "/mnt/nvme", "type": "Directory"})
        self.assertEqual(volumes["pool-bulk"], {"path": "/mnt/disk", "type": "DirectoryOrCreate"})
        self.assertEqual(chart.mounts(one)["pool-fast"]["mountPath"], "/mnt/nvme")

    def test_storage_classes(self) -> None:
        classes = {
            d["metadata"]["name"]: d
            for d in self.rendered["two pools"]
            if d["kind"] == "StorageClass"
        }
        self.assertEqual(
            classes["bulk"]["parameters"],
            {"csi.storage.k8s.io/fstype": "ext4", "pool": "bulk", "provisioning": "thick"},
        )
        self.assertEqual(classes["bulk"]["mountOptions"], ["noatime"])
        self.assertEqual(classes["fast"]["parameters"]["csi.storage.k8s.io/fstype"], "xfs")
        default = "storageclass.kubernetes.io/is-default-class"
        self.assertEqual(classes["fast"]["metadata"]["annotations"], {default: "true"})
        self.assertNotIn("annotations", classes["bulk"]["metadata"])
        for one in classes.values():
            self.assertEqual(one["volumeBindingMode"], "WaitForFirstConsumer")

    def test_the_provisioner_works_on_its_own_node(self) -> None:
        one = chart.container(self.rendered["default"], "ublkd-csi", "external-provisioner")
        for flag in ("--node-deployment", "--strict-topology", "--enable-capacity"):
            self.assertIn(flag, one["args"])
        self.assertIn("NODE_NAME", [variable["name"] for variable in one["env"]])

    def test_the_pod_monitor_is_made_only_when_asked_for(self) -> None:
        self.assertFalse([d for d in self.rendered["default"] if d["kind"] == "PodMonitor"])
        documents = self.rendered["everything else"]
        monitor = chart.find(documents, "PodMonitor")
        self.assertEqual(monitor["metadata"]["labels"]["release"], "prometheus")
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        for name in ("ublkd", "ublkd-csi"):
            template = chart.find(documents, "DaemonSet", name)["spec"]["template"]
            self.assertLessEqual(wanted, template["metadata"]["labels"].items())
            ports = chart.container(documents, name, name)["ports"]
            self.assertIn("metrics", [port["name"] for port in ports])


if __name__ == "__main__":
    unittest.main()
