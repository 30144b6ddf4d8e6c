"""What a compiled program needs of each device: memory, matrix products, and how much its devices send one another."""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple


class Memory(NamedTuple):
    """Bytes on each device, as the compiler reports them.

    Fields:
        arguments: what is given. output: what comes back, less what takes an argument's place. temporary: the most that
        exists in between.
    """

    arguments: int
    output: int
    temporary: int

    @property
    def total(self) -> int:
        """All three."""
        return sum(self)


class Traffic(NamedTuple):
    """One kind of collective: times that a device takes part in one, and bytes that it has in its hands afterwards."""

    count: float
    bytes: float


KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_COLLECTIVE = re.compile(rf"= (.+?) ({'|'.join(KINDS)})(-start)?\(")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_TRIPS = re.compile(r"known_trip_count[^\d]*(\d+)")
_CALLED = re.compile(r"\b(?:body|calls|to_apply|called_computations=\{)=?%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|true_computation=%?([\w.-]+), false_computation=%?([\w.-]+)")
_NAMED = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = ")
_DOT = re.compile(r"= (\S+) dot\((?:\S+ )?%?([\w.-]+), .*lhs_contracting_dims=\{([\d,]*)\}")


def memory(compiled: Any) -> Memory:
    """The `memory_analysis` of `jax.stages.Compiled`; of the backend that compiled it, and of no other."""
    found = compiled.memory_analysis()
    output = found.output_size_in_bytes - found.alias_size_in_bytes
    return Memory(found.argument_size_in_bytes, output, found.temp_size_in_bytes)


def matrix_product_flops(text: str, branch: float = 1.0, rounds: float | None = None) -> float:
    """FLOPs of the matrix products on each device, sum of 2 (output's size) (contracted size), loops multiplied out.

    Elementwise work is left out: for a language model the products are all but a few per cent. The compiler's own
    `cost_analysis` has the body of a loop once.

    Args:
        text: `jax.stages.Compiled.as_text()`.
        branch: the share of times that a conditional takes its costliest branch; the others are left out.
        rounds: on average, of a loop whose length is data, so that the compiler does not know it.

    Raises:
        ValueError: there is such a loop, it has products, and `rounds` is None.

    >>> text = '''%body (p: (s32[], f32[8,2])) -> (s32[], f32[8,2]) {
    ...   %a = f32[8,2]{1,0} get-tuple-element(%p), index=1
    ...   %d = f32[8,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
    ... }
    ... ENTRY %main (p: f32[2]) -> f32[2] {
    ...   %w = (s32[], f32[8,2]{1,0}) while(%t), body=%body, backend_config={"known_trip_count":{"n":"24"}}
    ... }'''
    >>> matrix_product_flops(text) == 24 * 2 * 8 * 8 * 2
    True
    """

    def products(line: str, shapes: dict[str, str]) -> dict[str, float]:
        found = _DOT.search(line)
        if found is None:
            return {}
        left = _sizes(shapes[found[2]])
        contracted = math.prod(left[int(axis)] for axis in found[3].split(",") if axis)
        return {"flops": 2.0 * math.prod(_sizes(found[1])) * contracted}

    return _total(text, products, branch, rounds).get("flops", 0.0)


def collectives(text: str, branch: float = 1.0, rounds: float | None = None) -> dict[str, Traffic]:
    """Collectives by kind in a compiled program's HLO, those in loops as often as the loops go round.

    Args:
        text: `jax.stages.Compiled.as_text()`.
        branch: the share of times that a conditional takes its costliest branch; the others are left out.
        rounds: on average, of a loop whose length is data, so that the compiler does not know it.

    Raises:
        ValueError: there is such a loop, it has collectives, and `rounds` is None.

    >>> text = '''%sum (a: f32[]) -> f32[] {
    ... }
    ... %body (p: (s32[], f32[8,2])) -> (s32[], f32[8,2]) {
    ...   %r = f32[8,2]{1,0} all-gather(%x), dimensions={0}
    ... }
    ... ENTRY %main (p: f32[2]) -> f32[2] {
    ...   %w = (s32[], f32[8,2]{1,0}) while(%t), body=%body, backend_config={"known_trip_count":{"n":"24"}}
    ...   ROOT %s = (f32[2]{0}, bf16[3]{0}) all-reduce(%y, %z), to_apply=%sum
    ... }'''
    >>> collectives(text)
    {'all-gather': Traffic(count=24.0, bytes=1536.0), 'all-reduce': Traffic(count=1.0, bytes=14.0)}
    """

    def traffic(line: str, shapes: dict[str, str]) -> dict[str, float]:
        found = _COLLECTIVE.search(line)
        return {f"{found[2]} count": 1.0, f"{found[2]} bytes": _bytes(found[1], bool(found[3]))} if found else {}

    total = _total(text, traffic, branch, rounds)
    return {kind: Traffic(total[f"{kind} count"], total[f"{kind} bytes"]) for kind in KINDS if f"{kind} count" in total}


def _total(
    text: str, count: Callable[[str, dict[str, str]], dict[str, float]], branch: float, rounds: float | None
) -> dict[str, float]:
    """The sum of `count(line, shapes by name in its computation)` over all that the program runs.

    A conditional counts as its branch of the largest sum, times `branch`; a loop of unknown length `rounds` times.
    """
    lines, entry = _computations(text)

    @functools.cache
    def within(name: str) -> dict[str, float]:
        total: dict[str, float] = {}
        shapes = {named[1]: line[named.end() :] for line in lines.get(name, ()) if (named := _NAMED.match(line))}

        def add(more: dict[str, float], times: float) -> None:
            for key, value in more.items():
                total[key] = total.get(key, 0.0) + times * value

        for line in lines.get(name, ()):
            add(count(line, shapes), 1.0)
            if branches := _BRANCHES.search(line):
                names = re.findall(r"[\w.-]+", (branches[1] or f"{branches[2]} {branches[3]}"))
                add(max((within(one) for one in names), key=lambda cost: sum(cost.values())), branch)
                continue
            times: float | None = 1.0
            if " while(" in line:
                times = float(trips[1]) if (trips := _TRIPS.search(line)) else rounds
            for one in _CALLED.findall(line):
                if times is None and within(one):
                    raise ValueError(f"the compiler does not know how often a loop goes round: {line.strip()[:200]}")
                add(within(one), times or 0.0)
        return total

    return within(entry)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    lines: dict[str, list[str]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            name = head[2]
            lines[name] = []
            entry = name if head[1] else entry
        elif name:
            lines[name].append(line)
    return lines, entry


def _sizes(shape: str) -> list[int]:
    """Of the first array that a text names."""
    found = _ARRAY.search(shape)
    if found is None:
        raise ValueError(f"no shape in {shape[:200]!r}")
    return [int(size) for size in found[2].split(",") if size]


def _bytes(shape: str, starts: bool) -> float:
    """Of an array or a tuple of arrays; the type of an operation's asynchronous start may hold its operands first."""
    sizes = [_bits(kind) / 8 * math.prod(int(n) for n in axes.split(",") if n) for kind, axes in _ARRAY.findall(shape)]
    return float(sum(sizes[len(sizes) // 2 :] if starts and shape.startswith("((") else sizes))


def _bits(kind: str) -> int:
    if kind in _BITS:
        return _BITS[kind]
    return int(re.sub(r"^[a-z]+(\d+).*", r"\1", kind))
