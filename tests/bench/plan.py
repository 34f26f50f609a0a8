# SPDX-License-Identifier: Apache-2.0
"""What is measured: subjects, cells, and what the results must keep. All of it is data, read by
bench.py on the machine and by guest_bench.py in the VM; a cell or a bound is changed here alone."""

from __future__ import annotations

from dataclasses import dataclass

FILE_MIB = 256
BATCH = 8

# Where the requests of a subject go: no driver of ublk is in it, or ours, or the kernel's own.
NO_DRIVER = "none"
OURS = "ours"
STOCK = "stock"


@dataclass(frozen=True)
class Subject:
    """A block device to be measured. `maker` names the function of subjects.py that makes it, with
    these words; an `optional` one is left out where server or driver can't make it."""

    maker: str
    words: tuple[str, ...] = ()
    optional: bool = False
    peer: bool = False

    @property
    def needs_driver(self) -> bool:
        return self.maker in ("serve", "kublk")


def _ours(target: str, *words: str, optional: bool = False) -> Subject:
    return Subject("serve", ("--target", target, *words), optional)


def _peer(target: str, *words: str, optional: bool = False) -> Subject:
    return Subject("kublk", ("-t", target, *words), optional, peer=True)


SUBJECTS = {
    "ramdisk": Subject("ramdisk"),
    "loop": Subject("kernel_loop"),
    "null": _ours("null"),
    "file": _ours("file"),
    "null-nometrics": _ours("null", "--no-metrics"),
    "file-nometrics": _ours("file", "--no-metrics"),
    # Ways of the data to the target: a file goes without copies where the driver can, a target that
    # copies for itself is served by user copy.
    "file-copy": _ours("file", "--buffers", "copy"),
    "memory": _ours("memory"),
    "memory-copy": _ours("memory", "--buffers", "copy"),
    # Several threads for one queue.
    "null-2-threads": _ours("null", "--threads", "2", optional=True),
    "null-4-threads": _ours("null", "--threads", "4", optional=True),
    "file-2-threads": _ours("file", "--threads", "2", optional=True),
    "file-4-threads": _ours("file", "--threads", "4", optional=True),
    # The server of the kernel's own tests, which costs what ublksrv does.
    "kublk-null": _peer("null"),
    "kublk-loop": _peer("loop"),
    "kublk-null-zero-copy": _peer("null", "--auto_zc", optional=True),
    "kublk-loop-zero-copy": _peer("loop", "--auto_zc", optional=True),
    # One command for many tags (BATCH_IO).
    "kublk-null-batch": _peer("null", "-b", optional=True),
    "kublk-loop-batch": _peer("loop", "-b", optional=True),
    "kublk-loop-zero-copy-batch": _peer("loop", "--auto_zc", "-b", optional=True),
}

BASE = ("ramdisk", "loop", "null", "file")
BUFFERS = ("file-copy", "memory", "memory-copy")
PEERS = tuple(name for name, subject in SUBJECTS.items() if subject.peer)

# What fio does: pattern and size of a request.
RANDOM = (("randread", 4), ("randwrite", 4))
SEQUENTIAL = (("read", 128), ("write", 128))
# How many requests are in flight; with a b fio reaps in batches, as an application does that keeps
# many of them in flight.
DEPTHS = ("1", "32", "32b")


@dataclass(frozen=True)
class Block:
    """Cells that are measured together: each subject with each load (pattern, KiB) at each depth, by
    so many jobs on a device with as many queues. On the kernel's own driver without `stock`: none of
    it, since the driver is not what it asks about."""

    subjects: tuple[str, ...]
    loads: tuple[tuple[str, int], ...]
    depths: tuple[str, ...]
    jobs: int = 1
    queues: int = 1
    stock: bool = True


@dataclass(frozen=True)
class Group:
    """What one VM measures. In exact cost mode there is one CPU, and a cell is instructions for
    each I/O; else it is IOPS by the clock."""

    exact: bool
    cpus: int
    runtime_ms: int
    passes: int
    blocks: tuple[Block, ...]
    quick: tuple[Block, ...]


GROUPS = {
    # More than one job means nothing on the one CPU that there is.
    "cost": Group(
        exact=True,
        cpus=1,
        runtime_ms=300,
        passes=1,
        blocks=(
            Block(BASE + BUFFERS + PEERS, RANDOM, DEPTHS),
            Block(BASE + BUFFERS + PEERS, SEQUENTIAL, ("32b",)),
            Block(("null-nometrics", "file-nometrics"), RANDOM[:1], DEPTHS, stock=False),
        ),
        quick=(Block(BASE + PEERS, RANDOM[:1], ("1", "32b")),),
    ),
    "wall": Group(
        exact=False,
        cpus=4,
        runtime_ms=500,
        passes=2,
        blocks=(
            Block(BASE + PEERS, RANDOM + SEQUENTIAL, DEPTHS),
            Block(BASE + PEERS, RANDOM + SEQUENTIAL, ("32b",), jobs=4, queues=4),
        ),
        quick=(Block(BASE, RANDOM[:1], ("1", "32b")),),
    ),
    "threads": Group(
        exact=False,
        cpus=4,
        runtime_ms=1000,
        passes=3,
        blocks=tuple(
            Block(
                tuple(f"{target}{threads}" for threads in ("", "-2-threads", "-4-threads")),
                RANDOM[:1],
                ("32",),
                jobs,
            )
            for target in ("null", "file")
            for jobs in (1, 4)
        ),
        quick=(),
    ),
}
DEFAULT_GROUPS = ("cost", "wall")

IDLE_DEVICES = 200
IDLE_SECONDS = 20


@dataclass(frozen=True)
class Must:
    """The cost of `subject` to that of `other` at each of these places may not be over `bound`."""

    name: str
    subject: str
    other: str
    depths: tuple[str, ...]
    bound: float
    aim: float | None = None
    loads: tuple[tuple[str, int], ...] = RANDOM


MUSTS = (
    Must("file to kernel loop", "file", "loop", ("32", "32b"), 1.15, 1.0),
    Must("file to kublk loop", "file", "kublk-loop", ("32", "32b"), 0.85, 0.75),
    Must("file to kublk loop", "file", "kublk-loop", ("1",), 0.90, 0.80),
    Must("null to kublk null", "null", "kublk-null", ("32", "32b"), 0.90, 0.80),
    Must("metrics on to off, null", "null", "null-nometrics", ("1", "32"), 1.01, None, RANDOM[:1]),
    Must("metrics on to off, file", "file", "file-nometrics", ("1", "32"), 1.01, None, RANDOM[:1]),
)

# Our driver to the kernel's own, under the same server: never more, in any cell.
STOCK_MUST_SUBJECTS = ("null", "file")
STOCK_BOUND = 1.00
# What a single run of a cell is taken to be off by, for each depth. With many requests in flight it
# differs how often tasks are switched; with one at a time, only how often the timer ticks.
RUN_SPREAD = {"1": 0.0005, "32": 0.01, "32b": 0.01}

# Of 200 devices that nobody uses.
IDLE_MUST_KIB = 1024
# The threads of the devices sleep; what libraries of ublkd do by themselves is of an emulated CPU, of
# which a real one does the work of ten.
IDLE_MUST_SWITCHES = 0.0
IDLE_MUST_CPU = 0.01


def profiled(subjects: tuple[str, ...]) -> tuple[Block, ...]:
    """What a profile is made of: these subjects, or the usual ones."""
    return (Block(subjects or ("loop", "null", "file"), RANDOM, ("1", "32b")),)
