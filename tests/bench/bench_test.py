#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The benchmark's own arithmetic: what it asks of fio, how it judges, what it draws."""

import pathlib
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "vm")]

import chart  # noqa: E402
import guest_bench  # noqa: E402
import guests  # noqa: E402
import judge  # noqa: E402
import layers  # noqa: E402
import plan  # noqa: E402
import report  # noqa: E402
import results  # noqa: E402
import workload  # noqa: E402


def cost(subject, instructions, depth="32b", driver=plan.OURS, pattern="randread"):
    return {"driver": driver if plan.SUBJECTS[subject].needs_driver else plan.NO_DRIVER,
            "subject": subject, "pattern": pattern, "kib": 4, "depth": depth, "jobs": 1,
            "instructions": instructions}


def found(*cells, kernel="6.12"):
    result = results.Results(kernels={kernel: {"release": "6.12.0-test"}})
    for cell in cells:
        result.add_cell(kernel, "cost", cell)
    return result


def words(*cells):
    return [verdict.word for verdict in judge.judge(found(*cells))]


class Plan(unittest.TestCase):
    def test_everything_that_is_named_is_there(self):
        for group in plan.GROUPS.values():
            for block in (*group.blocks, *group.quick):
                self.assertLessEqual(set(block.subjects), set(plan.SUBJECTS))
                self.assertLessEqual(set(block.depths), set(plan.DEPTHS))
        for must in plan.MUSTS:
            self.assertIn(must.subject, plan.SUBJECTS)
            self.assertIn(must.other, plan.SUBJECTS)

    def test_every_must_is_measured(self):
        cells = {(subject, load, depth) for block in plan.GROUPS["cost"].blocks
                 for subject in block.subjects for load in block.loads for depth in block.depths}
        for must in plan.MUSTS:
            for subject in (must.subject, must.other):
                for depth in must.depths:
                    for load in must.loads:
                        self.assertIn((subject, load, depth), cells)

    def test_one_cpu_has_one_job(self):
        for group in plan.GROUPS.values():
            if group.exact:
                self.assertEqual({block.jobs for block in group.blocks}, {1})


class Choice(unittest.TestCase):
    def chosen(self, name, drivers, peers=True, only=()):
        order = {"drivers": drivers, "peers": peers, "subjects": only}
        block = plan.GROUPS["cost"].blocks[0]
        return [d for d in drivers if guest_bench.wanted(order, d, name, block)]

    def test_each_subject_is_measured_where_it_says_something(self):
        both = [plan.OURS, plan.STOCK]
        self.assertEqual(self.chosen("file", both), both)
        self.assertEqual(self.chosen("loop", both), [plan.OURS])
        self.assertEqual(self.chosen("kublk-null", both), [plan.STOCK])
        self.assertEqual(self.chosen("kublk-null", [plan.OURS]), [plan.OURS])
        self.assertEqual(self.chosen("kublk-null", both, peers=False), [])
        self.assertEqual(self.chosen("file", both, only=["null"]), [])

    def test_only_results_are_taken_from_what_the_guest_says(self):
        self.assertEqual(guests._told('{"kind": "idle"}'), {"kind": "idle"})
        for noise in ('{"level": "warning"}', "[1]", "E1128 accept4", ""):
            self.assertIsNone(guests._told(noise))


class Fio(unittest.TestCase):
    def test_jobs_of_a_sequential_load_share_the_file_out(self):
        load = workload.Load("read", 128, "32b", 4)
        text = workload.job_file("/dev/x", [load], plan.GROUPS["wall"])
        part = plan.FILE_MIB // 4
        self.assertIn(f"size={part}m\noffset_increment={part}m", text)

    def test_reaps_in_batches_only_when_asked(self):
        for depth, batch in (("1", 1), ("32", 1), ("32b", plan.BATCH)):
            text = workload.job_file("/x", [workload.Load("read", 4, depth, 1)], plan.GROUPS["cost"])
            self.assertIn(f"iodepth_batch_complete_max={batch}\n", text)


class Judge(unittest.TestCase):
    def test_within_the_bound_is_ok(self):
        self.assertEqual(words(cost("loop", 10000), cost("file", 11500)), [judge.OK])

    def test_over_it_is_too_much(self):
        self.assertEqual(words(cost("loop", 10000), cost("file", 12000)), [judge.TOO_MUCH])

    def test_over_it_by_less_than_can_be_told_is_even(self):
        self.assertEqual(words(cost("loop", 10000), cost("file", 11600)), [judge.EVEN])

    def test_one_request_at_a_time_leaves_hardly_any_doubt(self):
        peer = cost("kublk-loop", 10000, "1", plan.STOCK)
        self.assertEqual(words(peer, cost("file", 9010, "1")), [judge.TOO_MUCH])
        self.assertEqual(words(peer, cost("file", 9005, "1")), [judge.EVEN])

    def test_others_are_judged_on_the_driver_of_the_kernel(self):
        self.assertEqual(words(cost("kublk-loop", 10000), cost("file", 9999)), [])
        stock = [cost(name, 10000, driver=plan.STOCK) for name in ("kublk-null", "null")]
        self.assertEqual(words(*stock), [judge.TOLD])

    def test_runs_that_agree_leave_less_doubt_than_one(self):
        ours = [cost("file", value) for value in (11600, 11601, 11599)]
        loop = [cost("loop", value) for value in (10000, 10001, 9999)]
        self.assertEqual(words(*ours, *loop), [judge.TOO_MUCH])

    def test_our_driver_may_not_cost_more_than_the_kernels(self):
        stock = cost("null", 10000, "1", plan.STOCK)
        self.assertEqual(words(cost("null", 10010, "1"), stock), [judge.TOO_MUCH])
        self.assertEqual(words(cost("null", 10000, "1"), stock), [judge.OK])

    def test_what_was_not_measured_is_not_judged(self):
        self.assertEqual(words(cost("file", 12000)), [])

    def test_idle_devices(self):
        result = results.Results()
        idle = {"kernel": "6.12", "driver": plan.OURS, "devices": 200,
                "kib_per_device": {"used": 1025}, "threads": {"queue threads": {"cpu": 0.0, "switches_per_second": 0.5}}}
        result.idle.append(idle)
        self.assertEqual([v.word for v in judge.judge(result)], [judge.TOO_MUCH, judge.TOO_MUCH, judge.OK])


class Files(unittest.TestCase):
    def test_what_is_saved_is_loaded(self):
        result = found(cost("file", 12000), cost("file", 12100), cost("loop", 11000))
        result.add_cell("6.12", "wall", {
            "driver": plan.OURS, "subject": "file", "pattern": "randread", "kib": 4, "depth": "1",
            "jobs": 1, "iops": 5000, "latency_us": {"p50": 100.0}})
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "results.json"
            result.save(path)
            again = results.load(path)
        self.assertEqual(again, result)

    def test_runs_of_two_files_join(self):
        both = found(cost("file", 100))
        both.add(found(cost("file", 200), kernel="6.12"))
        both.add(found(cost("file", 300), kernel="6.1"))
        self.assertEqual([runs.value for runs in both.cells.values()], [150, 300])
        self.assertEqual(list(both.kernels), ["6.12", "6.1"])

    def test_another_schema_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "results.json"
            path.write_text('{"schema": 0}', encoding="utf-8")
            with self.assertRaisesRegex(SystemExit, "schema is 0"):
                results.load(path)


class Drawing(unittest.TestCase):
    def test_a_bar_and_its_number_for_each_cost(self):
        drawn = chart.draw(found(cost("file", 12345), cost("loop", 9876), cost("ramdisk", 5000)))
        tree = xml.fromstring(drawn)
        labels = [node.text for node in tree.iter("{http://www.w3.org/2000/svg}text")]
        for number in ("12.3", "9.9", "5.0", "ublkd, file", "Linux 6.12.0"):
            self.assertIn(number, labels)

    def test_nothing_to_draw_is_said(self):
        with self.assertRaisesRegex(SystemExit, "no costs"):
            chart.draw(results.Results(kernels={"6.12": {"release": "6.12.0"}}))

    def test_the_table_has_every_cost(self):
        text = report.text(found(cost("file", 12345), cost("null", 6789, driver=plan.STOCK)))
        self.assertIn("12345", text)
        self.assertRegex(text, "null, kernel's driver +6789")


class Layers(unittest.TestCase):
    def test_each_function_has_one_layer(self):
        for task, place, function, layer in (
            ("fio", "fio", "get_io_u", "fio"),
            ("ublk0-q0", "serve_device", "ublkd::ublk::Tag::Take", "engine"),
            ("ublk0-q0", "kernel.kallsyms", "ublk_chan_cmd", "our driver"),
            ("fio", "kernel.kallsyms", "io_submit_sqes", "io_uring"),
            ("fio", "kernel.kallsyms", "io_schedule", "scheduler and idle"),
            ("fio", "kernel.kallsyms", "blk_mq_submit_bio", "block layer"),
            ("fio", "kernel.kallsyms", "brd_submit_bio", "RAM disk"),
            ("fio", "kernel.kallsyms", "who_knows", layers.REST),
        ):
            self.assertEqual(layers.layer_of(task, place, function), layer, function)

    def test_nothing_is_lost(self):
        rows = [[10, "fio", "fio", "a"], [5, "swapper", "kernel.kallsyms", "b"]]
        sums = layers.by_layer(rows)
        self.assertEqual(sum(sum(sides.values()) for sides in sums.values()), 15)


if __name__ == "__main__":
    unittest.main()
