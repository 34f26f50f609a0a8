#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""README.md names tests that exist, and each number that a test carries is in its table."""

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
TEST = re.compile(r"\bTEST(?:_F|_P)?\(\s*(\w+),\s*(\w+)\s*\)")


def main():
    readme = (FOLDER / "README.md").read_text()
    sources = "".join(file.read_text() for file in sorted(FOLDER.glob("*_test.cc")))
    tests = {f"{suite}.{name}" for suite, name in TEST.findall(sources)}
    rows = dict(re.findall(r"^\| (R\d\d) \|.*\| (.*) \|$", readme, re.MULTILINE))
    faults = []
    for name in re.findall(r"`(\w+\.[A-Z]\w+)`", readme):
        if name not in tests:
            faults.append(f"README.md names {name}: there is no such test")
    for number, cell in rows.items():
        if not any(number in name.split("_") for name in re.findall(r"`([\w.]+)`", cell)):
            faults.append(f"README.md has no test for {number}")
    for number in sorted({part for name in tests for part in name.split("_")[1:]} - rows.keys()):
        faults.append(f"{number} is carried by a test, but not in the table of README.md")
    print("\n".join(faults) or f"{len(rows)} requirements, {len(tests)} tests")
    return 1 if faults or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
