# SPDX-License-Identifier: Apache-2.0
"""Draws results as an SVG: what a 4 KiB read costs, one request at a time and many in flight."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

import plan
from results import Place, Results

_OURS, _OURS_LIGHT, _KERNEL, _PEER, _FLOOR = "ours", "light", "kernel", "peer", "floor"


@dataclass(frozen=True)
class Bar:
    """A row of the chart: whose cost it is, and how it is drawn."""

    label: str
    subject: str
    driver: str
    colour: str


_BARS = (
    Bar("RAM disk alone", "ramdisk", plan.NO_DRIVER, _FLOOR),
    Bar("kernel loop, file", "loop", plan.NO_DRIVER, _KERNEL),
    Bar("ublkd, file", "file", plan.OURS, _OURS),
    Bar("ublkd, file, stock driver", "file", plan.STOCK, _OURS_LIGHT),
    Bar("kublk, file", "kublk-loop", plan.STOCK, _PEER),
    Bar("kublk, file, zero copy", "kublk-loop-zero-copy", plan.STOCK, _PEER),
    Bar("ublkd, null", "null", plan.OURS, _OURS),
    Bar("ublkd, null, stock driver", "null", plan.STOCK, _OURS_LIGHT),
    Bar("kublk, null", "kublk-null", plan.STOCK, _PEER),
)
_PANELS = (("1", "one request at a time"), ("32b", "32 requests in flight"))
_LOAD = ("randread", 4)

_TITLE = "What a 4 KiB random read costs"
_UNIT = "Thousand instructions for each read, of the whole system: fio, kernel and server. Shorter is better."
_NOTES = (
    "RAM disk: the disk below the file, the floor for all. null: a device that has no data, so the cost of ublk itself.",
    "kublk: the server of the kernel's own ublk tests, on the kernel's driver, and on ours where it has none.",
)

# Sizes in pixels; GitHub shows a README about 850 wide.
_WIDTH = 860
_MARGIN = 20
_LABELS = 190
_GAP = 26
_NUMBER = 44  # Room for a number beside its bar.
_BAR, _STEP = 15, 21
_TOP = 96
_KERNEL_HEAD = 30
_NOTE_STEP = 18
_THOUSAND = 1000

# Okabe and Ito's palette, which the colour-blind can tell apart; it is legible on both grounds.
_STYLE = """
  text { font: 13px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; fill: #1f2328; }
  .title { font-size: 19px; font-weight: 600; }
  .head { font-size: 14px; font-weight: 600; }
  .quiet { fill: #59636e; }
  .strong { font-weight: 600; }
  .ground { fill: #ffffff; }
  .line { stroke: #d1d9e0; stroke-width: 1; }
  .ours { fill: #0072b2; }
  .light { fill: #56b4e9; }
  .kernel { fill: #e69f00; }
  .peer { fill: #cc79a7; }
  .floor { fill: #999999; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .quiet { fill: #9198a1; }
    .ground { fill: #0d1117; }
    .line { stroke: #3d444d; }
    .ours { fill: #2f8fd0; }
    .light { fill: #8fd0f5; }
  }
"""


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    css = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{css}>{escape(words)}</text>'


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    size = f'width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" {size} rx="2"/>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="line" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


class _Numbers:
    """What the chart shows, in thousands of instructions."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self.kernels = [name for name in results.kernels if self.bars(name)]

    def value(self, kernel: str, bar: Bar, depth: str) -> float | None:
        runs = self._results.runs(Place(kernel, bar.driver, "cost", bar.subject, *_LOAD, depth, 1))
        if runs is None and bar.driver == plan.STOCK and bar.colour == _PEER:
            # A kernel without a driver of its own: on ours.
            place = Place(kernel, plan.OURS, "cost", bar.subject, *_LOAD, depth, 1)
            runs = self._results.runs(place)
        return runs.value / _THOUSAND if runs else None

    def bars(self, kernel: str) -> list[Bar]:
        depths = [depth for depth, _ in _PANELS]
        return [b for b in _BARS if any(self.value(kernel, b, depth) for depth in depths)]

    def largest(self) -> float:
        depths = [depth for depth, _ in _PANELS]
        bars = [(kernel, bar) for kernel in self.kernels for bar in self.bars(kernel)]
        return max(self.value(kernel, bar, depth) or 0 for kernel, bar in bars for depth in depths)


def _rows(numbers: _Numbers, results: Results, lefts: list[float], width: float) -> tuple[list[str], float]:
    """The bars of all kernels, and where they end."""
    parts, y, largest = [], float(_TOP), numbers.largest()
    for kernel in numbers.kernels:
        parts.append(_line(_MARGIN, y, _WIDTH - _MARGIN, y))
        release = results.kernels[kernel]["release"]
        parts.append(_text(_MARGIN, y + 20, f"Linux {release.split('-')[0].split('+')[0]}", "head"))
        y += _KERNEL_HEAD
        for bar in numbers.bars(kernel):
            kind = "strong" if bar.colour == _OURS else ""
            parts.append(_text(_MARGIN + _LABELS - 10, y + 12, bar.label, kind, "end"))
            for left, (depth, _) in zip(lefts, _PANELS):
                value = numbers.value(kernel, bar, depth)
                if value is not None:
                    length = (width - _NUMBER) * value / largest
                    parts.append(_rect(left, y, length, _BAR, bar.colour))
                    parts.append(_text(left + length + 6, y + 12, f"{value:.1f}", kind))
            y += _STEP
        y += 8
    return parts, y


def draw(results: Results) -> str:
    """The chart's SVG: two panels side by side, of one scale."""
    numbers = _Numbers(results)
    if not numbers.kernels:
        raise SystemExit("drawing a chart: there are no costs in the results; measure group cost")
    width = (_WIDTH - 2 * _MARGIN - _LABELS - _GAP) / len(_PANELS)
    lefts = [_MARGIN + _LABELS + i * (width + _GAP) for i in range(len(_PANELS))]
    rows, end = _rows(numbers, results, lefts, width)
    height = end + _NOTE_STEP * (len(_NOTES) + 1)
    parts = [_rect(0, 0, _WIDTH, height, "ground"), _text(_MARGIN, 32, _TITLE, "title")]
    parts.append(_text(_MARGIN, 56, _UNIT, "quiet"))
    parts += [_text(left, _TOP - 10, words, "head") for left, (_, words) in zip(lefts, _PANELS)]
    parts += rows
    parts += [_line(left, _TOP + _KERNEL_HEAD - 6, left, end - 4) for left in lefts]
    for number, words in enumerate(_NOTES, 1):
        parts.append(_text(_MARGIN, end + number * _NOTE_STEP, words, "quiet"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}"'
    head += f' width="{_WIDTH}" height="{height:.0f}" role="img">'
    body = "\n".join(parts)
    return f"{head}\n<title>{_TITLE}. {_UNIT}</title>\n<style>{_STYLE}</style>\n{body}\n</svg>\n"
