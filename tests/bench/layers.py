# SPDX-License-Identifier: Apache-2.0
"""Sorts a profile's functions into the layers of an I/O's way."""

from __future__ import annotations

import collections
import re
from typing import Iterable

_KERNEL = "kernel.kallsyms"
_FIO = "fio"
# Other servers are started by a loader of their own (subjects.py), whose name they have.
_SERVER = re.compile(r"ublk\d|serve_device|ld-linux")

# Kernel functions by their names; the first that fits. What is left is the last of LAYERS.
_KERNEL_LAYERS = (
    ("our driver", r"^_*ublk_"),
    ("io_uring", r"^_*io_(?!schedule)|^__do_sys_io_uring|^__x64_sys_io|_iopoll|task_work|^ctx_flush"),
    (
        "scheduler and idle",
        r"sched|switch|^pick_|_entity|_task_fair|_curr|safe_halt|idle|tick_|ttwu|wake|^prepare_to_wait"
        r"|finish_wait|hrtimer|^select_|load_avg|clock|ktime|rseq|^update_|runnable|dequeue|enqueue|^perf_"
        r"|psi_|cpuacct|cgroup|read_tsc|timekeeping|irq_exit|irqtime|vruntime|rb_(insert|erase)|^sugov|^dl_|^resched|^place_",
    ),
    ("RAM disk", r"^brd_|^xa_|^xas_|radix_tree"),
    ("the file's filesystem", r"ext4|iomap|^jbd2|dio_|^generic_file|^file_|inode|atime|^mnt_|vfsgid|_map_blocks|kiocb"),
    ("block layer", r"bio|blk|sbitmap|wbt|rq_qos|^disk_|^part_|^elv|^dd_|block|bdev|^ioc_|_rq$|mempool|^bvec"),
    (
        "copies, pages, memory",
        r"rep_movs|mem(cpy|set)|copy_|gup|pin_user|page|folio|iov_iter|kmem|slab|kfree|kmalloc|^__?alloc|import_",
    ),
    ("locks and RCU", r"_raw_|rcu|mutex|spin|refcount|percpu_ref"),
    ("system call entry", r"syscall|entry_|x64_sys|fdget|fput|fget|apparmor|^aa_|lsm|security|rw_verify"),
)
_COMPILED = tuple((name, re.compile(pattern)) for name, pattern in _KERNEL_LAYERS)
REST = "other kernel functions"
LAYERS = ("fio", "engine", *(name for name, _ in _KERNEL_LAYERS), REST)


def layer_of(task: str, place: str, function: str) -> str:
    """The layer of a function (of a program, a library or a kernel module) in a task."""
    in_kernel = place == _KERNEL or place.startswith(("ublk_drv", "brd", "ext4", "guest.kernel"))
    if not in_kernel:
        return "engine" if _SERVER.match(task) else "fio"
    return next((name for name, pattern in _COMPILED if pattern.search(function)), REST)


def side_of(task: str) -> str:
    """Who it is done for: fio, the server, or neither."""
    if task == _FIO:
        return "fio"
    return "server" if _SERVER.match(task) else "idle"


def by_layer(rows: Iterable[list]) -> dict[str, dict[str, int]]:
    """The instructions of a profile by layer, and in each by the side they are done on."""
    sums: dict[str, collections.Counter] = {layer: collections.Counter() for layer in LAYERS}
    for count, task, place, function in rows:
        sums[layer_of(task, place, function)][side_of(task)] += count
    return {layer: dict(sides) for layer, sides in sums.items() if sides}
