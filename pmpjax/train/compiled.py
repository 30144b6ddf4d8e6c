"""What a compiled program needs of each device: memory, and how much its devices tell one another."""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Memory(NamedTuple):
    """Bytes on each device, as the compiler says.

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


def memory(compiled: Any) -> Memory:
    """The `memory_analysis` of `jax.stages.Compiled`; of the backend that compiled it, and of no other."""
    found = compiled.memory_analysis()
    output = found.output_size_in_bytes - found.alias_size_in_bytes
    return Memory(found.argument_size_in_bytes, output, found.temp_size_in_bytes)


def compiler_flops(compiled: Any) -> float | None:
    """FLOPs that the compiler counts on each device, the body of a loop once; None where it counts none."""
    found = compiled.cost_analysis() or {}
    return float(found["flops"]) if "flops" in found else None


def collectives(text: str, branch: float = 1.0) -> dict[str, Traffic]:
    """Collectives by kind in a compiled program's HLO, those in loops as often as the loops go round.

    Args:
        text: `jax.stages.Compiled.as_text()`.
        branch: the share of times that a conditional takes its costliest branch; the others are left out. A loop whose
            length the compiler does not know counts once.

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
    lines, entry = _computations(text)

    @functools.cache
    def within(name: str) -> dict[str, Traffic]:
        total: dict[str, Traffic] = {}
        for line in lines.get(name, ()):
            if found := _COLLECTIVE.search(line):
                _add(total, {found[2]: Traffic(1.0, _bytes(found[1], starts=bool(found[3])))}, 1.0)
            if branches := _BRANCHES.search(line):
                names = re.findall(r"[\w.-]+", (branches[1] or f"{branches[2]} {branches[3]}"))
                costs = [within(one) for one in names]
                _add(total, max(costs, key=lambda cost: sum(kind.bytes for kind in cost.values())), branch)
            elif called := _CALLED.findall(line):
                trips = _TRIPS.search(line)
                for one in called:
                    _add(total, within(one), float(trips[1]) if trips and " while(" in line else 1.0)
        return total

    return {kind: within(entry)[kind] for kind in KINDS if kind in within(entry)}


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


def _add(total: dict[str, Traffic], more: Mapping[str, Traffic], times: float) -> None:
    for kind, traffic in more.items():
        before = total.get(kind, Traffic(0.0, 0.0))
        total[kind] = Traffic(before.count + times * traffic.count, before.bytes + times * traffic.bytes)


def _bytes(shape: str, starts: bool) -> float:
    """Of an array or a tuple of arrays; the type of an operation's asynchronous start may hold its operands first."""
    sizes = [_bits(kind) / 8 * math.prod(int(n) for n in axes.split(",") if n) for kind, axes in _ARRAY.findall(shape)]
    return float(sum(sizes[len(sizes) // 2 :] if starts and shape.startswith("((") else sizes))


def _bits(kind: str) -> int:
    if kind in _BITS:
        return _BITS[kind]
    return int(re.sub(r"^[a-z]+(\d+).*", r"\1", kind))
