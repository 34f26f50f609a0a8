# SPDX-License-Identifier: Apache-2.0
"""Holds results against plan.MUSTS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterator

import plan
from results import Place, Results, Runs

OK = "ok"
TOLD = "not judged"
EVEN = "even"  # Over the bound, but by no more than can be told.
TOO_MUCH = "TOO MUCH"


@dataclass(frozen=True)
class Verdict:
    """What became of one must at one place."""

    column: str
    what: str
    found: float
    doubt: float
    bound: float | None  # None: nothing is required.
    aim: float | None = None
    unit: str = ""

    @property
    def word(self) -> str:
        if self.bound is None:
            return TOLD
        if self.found <= self.bound:
            return OK
        return EVEN if self.found <= self.bound + self.doubt else TOO_MUCH

    def __str__(self) -> str:
        doubt = f" +- {self.doubt:.3f}" if self.doubt else ""
        aim = f" (aim {self.aim:g})" if self.aim is not None else ""
        must = f", must be <= {self.bound:g}{aim}" if self.bound is not None else ""
        found = f"{self.found:.3f}" if not self.unit else f"{self.found:.0f}{self.unit}"
        return f"{self.column:>11}  {self.what}: {found}{doubt}{must}: {self.word}"


def _find(results: Results, kernel: str, driver: str, subject: str, rest: tuple) -> Runs | None:
    """The runs of a subject in exact cost mode."""
    driver = driver if plan.SUBJECTS[subject].needs_driver else plan.NO_DRIVER
    return results.runs(Place(kernel, driver, "cost", subject, *rest, 1))


def _compare(
    column: str,
    what: str,
    runs: Runs,
    other: Runs,
    depth: str,
    bound: float | None,
    aim: float | None = None,
) -> Verdict:
    ratio = runs.value / other.value
    spread = plan.RUN_SPREAD[depth]
    doubt = math.hypot(runs.doubt(spread), other.doubt(spread)) * ratio
    return Verdict(column, what, ratio, doubt, bound, aim)


def column_name(kernel: str, driver: str) -> str:
    return kernel if driver != plan.STOCK else f"{kernel} stock"


def _musts(results: Results, kernel: str, driver: str) -> Iterator[Verdict]:
    for must in plan.MUSTS:
        # Other servers on the driver that comes with the kernel, as their users have it. What ublkd
        # costs on that driver is told alone: much of it is the driver's.
        peer = plan.SUBJECTS[must.other].peer
        bounds = (must.bound, must.aim) if driver == plan.OURS else (None, None)
        for depth in must.depths:
            for pattern, kib in must.loads:
                rest = (pattern, kib, depth)
                runs = _find(results, kernel, driver, must.subject, rest)
                other = _find(results, kernel, plan.STOCK if peer else driver, must.other, rest)
                if runs is not None and other is not None:
                    what = f"{must.name}, {kib}k {pattern} qd{depth}"
                    column = column_name(kernel, driver)
                    yield _compare(column, what, runs, other, depth, *bounds)


def _stock(results: Results) -> Iterator[Verdict]:
    """Our driver to the kernel's own."""
    for place in results.of_group("cost"):
        if place.driver != plan.OURS or place.subject not in plan.STOCK_MUST_SUBJECTS:
            continue
        rest = (place.pattern, place.kib, place.depth)
        stock = _find(results, place.kernel, plan.STOCK, place.subject, rest)
        if stock is not None:
            what = f"{place.subject}, {place.load}, our driver to the kernel's"
            runs = results.cells[place]
            yield _compare(place.kernel, what, runs, stock, place.depth, plan.STOCK_BOUND)


def _idle(results: Results) -> Iterator[Verdict]:
    for found in results.idle:
        column = column_name(found["kernel"], found["driver"])
        kib = found["kib_per_device"]["used"]
        cpu = sum(threads["cpu"] for threads in found["threads"].values())
        many = f"{found['devices']} idle devices"
        yield Verdict(column, f"{many}, memory of each", kib, 0, plan.IDLE_MUST_KIB, unit=" KiB")
        switches = found["threads"]["queue threads"]["switches_per_second"]
        what = f"{many}, task switches/s of their threads"
        yield Verdict(column, what, switches, 0, plan.IDLE_MUST_SWITCHES)
        yield Verdict(column, f"{many}, CPUs that ublkd takes", cpu, 0, plan.IDLE_MUST_CPU)


def judge(results: Results) -> list[Verdict]:
    """One verdict for each must and place that the results have."""
    verdicts = []
    for kernel, driver in results.columns("cost"):
        verdicts += _musts(results, kernel, driver)
    return [*verdicts, *_stock(results), *_idle(results)]
