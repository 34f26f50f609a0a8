#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Boots stock Debian kernels in QEMU and runs programs in them; see README.md."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

import cache  # noqa: E402
import debugkernel  # noqa: E402
import dkms  # noqa: E402
import emulator  # noqa: E402
import hostsetup  # noqa: E402
import host  # noqa: E402
import images  # noqa: E402
import kernels  # noqa: E402
import kmod  # noqa: E402
import kselftest  # noqa: E402
import runner  # noqa: E402
import session  # noqa: E402

_KERNEL_HELP = (
    f"{', '.join(kernels.SOURCES)}, one of these with -debug (see debug-kernel), or a folder that "
    "holds a kernel.json"
)
_RUN_EPILOG = """
The program runs as root. Its output goes to stdout as it comes; the harness speaks on stderr.
In the guest: the payload is at /opt/ublkd (read-only), what the program leaves in /out comes back
to --out together with kmsg.txt (all kernel messages with their levels) and console.log, /scratch is
an ext4 for direct I/O, /ramdisk one on a RAM disk (--ramdisk). Guests are thrown away.

exit status: the program's own if it is not 0; else 125 when the kernel complained or a process
can't be killed; 124 for the time limit; 126 when the guest did not come up in three boots; 127 no
such program; 1 when the harness can't do its work.
"""


def _mebibytes(text: str) -> int:
    """Reads a size such as 512M or 2G."""
    found = re.fullmatch(r"(\d+)([MG]?)", text)
    if not found or int(found.group(1)) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write for example 512M or 2G")
    return int(found.group(1)) * (1024 if found.group(2) == "G" else 1)


def _addition(text: str) -> tuple[Path, str]:
    """Reads HOSTPATH:GUESTPATH."""
    source, colon, target = text.rpartition(":")
    if not colon or not source or not target.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r}: write HOSTPATH:/GUEST/PATH")
    return Path(source), target


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder")
    return path


def _add_run(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser(
        "run",
        help="boot a kernel and run a program in it",
        usage="vm.py run KERNEL [options] -- PROGRAM [ARGS]",
        epilog=_RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("kernel", metavar="KERNEL", help=_KERNEL_HELP)
    run.add_argument(
        "--root", type=Path, metavar="IMAGE", help="a root disk in place of the harness' own"
    )
    run.add_argument("--payload", type=_folder, metavar="DIR", help="folder for /opt/ublkd")
    run.add_argument(
        "--add",
        type=_addition,
        action="append",
        default=[],
        metavar="HOST:GUEST",
        help="a file or folder to be seen at a path in the guest, read-only; may be repeated",
    )
    run.add_argument("--out", type=Path, metavar="DIR", help="where /out and the logs come back to")
    run.add_argument("--smp", type=int, default=2, metavar="N", help="processors (default 2)")
    run.add_argument(
        "--mem", type=int, metavar="MIB", help="memory in MiB (default 1536, a debug kernel 2048)"
    )
    run.add_argument(
        "--scratch", type=_mebibytes, default=0, metavar="SIZE", help="size of /scratch, as 2G"
    )
    run.add_argument(
        "--ramdisk",
        type=_mebibytes,
        default=0,
        metavar="SIZE",
        help="size of a RAM disk (brd) at /ramdisk, as 512M; the guest gets as much more memory",
    )
    run.add_argument(
        "--timeout",
        type=float,
        default=600,
        metavar="S",
        help="time limit of the program in seconds (default 600); booting has its own",
    )
    run.add_argument(
        "--silence",
        type=float,
        default=session.SILENCE_SECONDS,
        metavar="S",
        help="a guest that says nothing for so long while it boots is frozen (default 30); what "
        "QEMU waits for a processor does not count",
    )
    run.add_argument(
        "--icount",
        action="store_true",
        help="exact cost mode: one processor, one instruction is one ns of the guest's clock",
    )
    run.add_argument(
        "--append", action="append", default=[], metavar="ARGS", help="more kernel arguments"
    )
    run.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="REGEX",
        help="kernel messages that do not fail this run; may be repeated",
    )
    run.add_argument(
        "--interactive", action="store_true", help="a root shell on this terminal, no program"
    )


def _add_kselftest(commands: argparse._SubParsersAction) -> None:
    tests = commands.add_parser(
        "kselftest",
        help="run the kernel's own ublk selftests",
        description="Runs the ublk selftests of the newest kernel's source with our driver. A test "
        "fails when its script fails or the kernel complains. Prints a table; DIR gets "
        "results.json, and for each guest what the scripts printed and what the kernel said.",
    )
    tests.add_argument(
        "names", metavar="NAME", nargs="*", help="null_01, or null for all of a kind; default all"
    )
    tests.add_argument(
        "--kernels",
        type=lambda text: text.split(","),
        default=list(kernels.SOURCES),
        metavar="K,...",
        help=f"default {','.join(kernels.SOURCES)}",
    )
    tests.add_argument("--stock", action="store_true", help="the kernel's own driver, not ours")
    tests.add_argument(
        "--limit", type=int, default=300, metavar="S", help="seconds for one test (default 300)"
    )
    tests.add_argument(
        "--out", type=Path, default=kselftest.OUT, metavar="DIR", help="default: build/kselftest"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vm.py",
        description="Boots stock Debian kernels in QEMU and runs programs in them.",
        epilog="caches are in ${XDG_CACHE_HOME:-~/.cache}/ublkd; $UBLKD_MIRROR names a mirror",
    )
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_true", help="say nothing but failures")
    loudness.add_argument("-v", "--verbose", action="store_true", help="show the console as well")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("setup", help="install what the harness needs; quick when all is there")
    fetch = commands.add_parser("fetch", help="get a kernel and its headers, print paths as JSON")
    fetch.add_argument("kernel", metavar="KERNEL", help=_KERNEL_HELP)
    for name, text in (
        ("kmod", "build a kernel module folder for a kernel"),
        ("dkms", "build it as DKMS does on a user's machine"),
    ):
        build = commands.add_parser(name, help=text)
        build.add_argument("kernel", metavar="KERNEL", help=_KERNEL_HELP)
        build.add_argument("driver", type=_folder, metavar="DRIVER_DIR", help="the module's folder")
        build.add_argument("out", type=Path, metavar="OUT_DIR", help="where the .ko files go")
    debug = commands.add_parser(
        "debug-kernel",
        help="compile a kernel that watches drivers, print its folder",
        description="Compiles a kernel with KASAN, lockdep, kmemleak and more, for the other "
        "commands to use as KERNEL-debug, and prints its folder.",
    )
    debug.add_argument("kernel", metavar="KERNEL", choices=debugkernel.KERNELS, help="6.1 or 7.x")
    debug.add_argument(
        "--check", action="store_true", help="boot it, and prove that it notices what it should"
    )
    prepare = commands.add_parser("prepare", help="make all caches that `run` needs")
    prepare.add_argument("kernels", metavar="KERNEL", nargs="+", help=_KERNEL_HELP)
    _add_run(commands)
    commands.add_parser("check", help="read all caches again, and remove what is damaged")
    commands.add_parser("selftest", help="prove that the harness itself works")
    _add_kselftest(commands)
    for command in commands.choices.values():
        command.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS)
        command.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS)
    return parser


def _run(options: argparse.Namespace, words: list[str]) -> int:
    if bool(words) == options.interactive:
        raise host.Failure(
            "running a program: it takes `-- PROGRAM ARGS` or else --interactive; give one of them"
        )
    return runner.run(
        runner.Order(
            kernel=options.kernel,
            words=words,
            root=options.root,
            payload=options.payload,
            adds=options.add,
            out=options.out,
            cpus=options.smp,
            memory_mib=options.mem,
            scratch_mib=options.scratch,
            ramdisk_mib=options.ramdisk,
            silence_seconds=options.silence,
            limit_seconds=float("inf") if options.interactive else options.timeout,
            icount=options.icount,
            interactive=options.interactive,
            append=options.append,
            allow=options.allow,
        )
    )


def _debug_kernel(name: str, check: bool) -> int:
    kernel = debugkernel.obtain(name)
    status = 0
    if check:
        import debugtest

        status = debugtest.main(kernel.name)
    print(kernel.tree)
    return status


def _dispatch(options: argparse.Namespace, words: list[str]) -> int:
    if options.command == "setup":
        hostsetup.setup()
    elif options.command == "fetch":
        print(kernels.fetch(options.kernel).json())
    elif options.command in ("kmod", "dkms"):
        builder = kmod if options.command == "kmod" else dkms
        modules = builder.build(options.kernel, options.driver, options.out)
        print(json.dumps({"modules": [str(path) for path in modules]}))
    elif options.command == "debug-kernel":
        return _debug_kernel(options.kernel, options.check)
    elif options.command == "prepare":
        emulator.command()
        images.userland()
        for name in options.kernels:
            images.modules_disk(kernels.fetch(name))
    elif options.command == "check":
        for entry in cache.check_all():
            print(f"{entry} was damaged and is removed; it will be made again when it is needed")
    elif options.command == "kselftest":
        return kselftest.run(
            kselftest.Options(
                kernels=options.kernels,
                names=options.names,
                stock=options.stock,
                limit_seconds=options.limit,
                out=options.out.resolve(),
            )
        )
    elif options.command == "selftest":
        import selftest

        return selftest.main()
    else:
        return _run(options, words)
    return 0


def main(argv: list[str]) -> int:
    """Runs one command; returns the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    split = argv.index("--") if "--" in argv else len(argv)
    options = _parser().parse_args(argv[:split])
    host.Output.level = 0 if options.quiet else 2 if options.verbose else 1
    try:
        return _dispatch(options, argv[split + 1 :])
    except host.Failure as failure:
        print(f"vm.py: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vm.py: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
