# SPDX-License-Identifier: Apache-2.0
"""Judges what the kernel said: a message of level warning or worse fails, unless it is allowed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import host

ALLOW_FILE = Path(__file__).resolve().parent / "guest" / "allow.txt"
_WARNING_LEVEL = 4
_LEVEL_MASK = 7
_END_MARK = "vm: the time limit has passed"  # What comes later was asked for by the harness.
_CONTEXT_BEFORE = 3
_MOST_LINES = 80
# Bad whatever their level is, and the only judge of a console without levels.
_ALWAYS_BAD = re.compile(
    r"WARNING: |BUG: |\bBUG at |Oops|Kernel panic|general protection|INFO: task .* blocked"
    r"|(rcu|INFO): .*stall|soft lockup|hard LOCKUP|possible (circular|recursive) locking"
    r"|suspicious RCU usage|inconsistent lock state|KASAN|KCSAN|KFENCE|UBSAN"
    r"|kmemleak: .* new suspected|refcount_t: |unregister_netdevice: waiting"
    r"|scheduling while atomic|sleeping function called|list_(add|del) corruption"
    r"|Object .* not freed|Objects remaining|Bad page state|double free"
)

# Said also by a sound kernel whose processors or timers do not go on.
_STANDSTILL = re.compile(
    r"(rcu|INFO): .*stall|INFO: task .* blocked for more|BUG: (soft lockup|workqueue lockup)"
)


@dataclass(frozen=True)
class Message:
    """One kernel message; level is None when it was read from the console."""

    level: int | None
    seconds: float
    text: str

    def __str__(self) -> str:
        level = "" if self.level is None else f"<{self.level}>"
        return f"{level}[{self.seconds:12.6f}] {self.text}"


def _unescape(text: str) -> str:
    return re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m.group(1), 16)), text)


def read_kmsg(path: Path) -> list[Message]:
    """The messages of a file with a dump of /dev/kmsg."""
    return parse_kmsg(path.read_text(errors="replace"))


def parse_kmsg(text: str) -> list[Message]:
    """The messages of a /dev/kmsg dump: `priority,sequence,microseconds,flags;text`."""
    messages = []
    for line in text.splitlines():
        head, semicolon, body = line.partition(";")
        fields = head.split(",")
        if line.startswith(" ") or not semicolon or len(fields) < 3:
            continue
        level = int(fields[0]) & _LEVEL_MASK
        messages.append(Message(level, int(fields[2]) / 1e6, _unescape(body)))
    return messages


def read_console(text: str) -> list[Message]:
    """The kernel's messages among the lines of a serial console."""
    messages = []
    for line in text.splitlines():
        found = re.match(r"\[ *(\d+\.\d+)\](?:\[ *[CT]\d+\])? (.*)", line)
        if found:
            messages.append(Message(None, float(found.group(1)), found.group(2)))
    return messages


def read_allow_file(path: Path = ALLOW_FILE) -> list[re.Pattern[str]]:
    """The patterns of a file that has `regex # reason` on each line."""
    patterns = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        regex, mark, reason = line.partition(" # ")
        if not mark or not reason.strip():
            raise host.Failure(
                f"reading {path}: line {number} gives no reason; write `regex # why it is harmless`"
            )
        patterns.append(compile_pattern(regex.strip()))
    return patterns


def compile_pattern(regex: str) -> re.Pattern[str]:
    """Compiles an allow pattern."""
    try:
        return re.compile(regex)
    except re.error as error:
        raise host.Failure(f"allowing {regex!r}: {error}; mend the regular expression") from error


def is_bad(message: Message, allowed: list[re.Pattern[str]]) -> bool:
    """Whether a message fails a run."""
    loud = message.level is not None and message.level <= _WARNING_LEVEL
    if not loud and not _ALWAYS_BAD.search(message.text):
        return False
    if message.level is not None and not message.text.strip():
        return False
    return not any(pattern.search(message.text) for pattern in allowed)


def is_standstill(message: Message) -> bool:
    """Whether a message says no more than that something does not go on."""
    return bool(_STANDSTILL.search(message.text))


def judge(messages: list[Message], allowed: list[re.Pattern[str]]) -> list[str]:
    """The bad messages as lines for people, marked with `>`, with those just before them."""
    lines: list[str] = []
    shown = -1
    for index, message in enumerate(messages):
        if message.text == _END_MARK:
            break
        if not is_bad(message, allowed):
            continue
        first = max(shown + 1, index - _CONTEXT_BEFORE)
        if lines and first > shown + 1:
            lines.append("  ...")
        lines += [f"  {before}" for before in messages[first:index]]
        lines.append(f"> {message}")
        shown = index
    if len(lines) > _MOST_LINES:
        more = len(lines) - _MOST_LINES
        lines = lines[:_MOST_LINES] + [f"  ... and {more} more lines, see kmsg.txt"]
    return lines
