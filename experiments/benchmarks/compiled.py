"""What a compiled module costs, read off its optimised HLO: floating point operations of its matrix products."""

import math
import re
from typing import Any

_SHAPE = re.compile(r"\w+\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_CALLS = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def _dimensions(text: str) -> list[int]:
    found = _SHAPE.search(text)
    if found is None:
        raise ValueError(f"no shape in {text!r}")
    return [int(n) for n in found.group(1).split(",") if n]


def matrix_product_flops(compiled: Any) -> float:
    """2 * (output size) * (contracted size) over every dot of a compiled jax function, loops multiplied out.

    Unlike `cost_analysis`, which counts a loop's body once, this follows `while` loops with their known trip counts;
    a loop without one raises ValueError. Branches of a conditional count as the dearest of them. Elementwise work is
    left out: for a language model the products are all but a few per cent.
    """
    bodies: dict[str, list[tuple[str, str]]] = {}
    shapes: dict[str, dict[str, list[int]]] = {}
    entry = name = ""
    for line in compiled.as_text().splitlines():
        if start := _COMPUTATION.match(line):
            name = start.group(1)
            bodies[name], shapes[name] = [], {}
            entry = name if line.startswith("ENTRY") else entry
        elif (found := _INSTRUCTION.match(line)) and name:
            bodies[name].append((found.group(1), found.group(2)))
            if _SHAPE.match(found.group(2)):
                shapes[name][found.group(1)] = _dimensions(found.group(2))
    memory: dict[str, float] = {}

    def flops(computation: str) -> float:
        if computation in memory:
            return memory[computation]
        total = 0.0
        for _, text in bodies[computation]:
            if dot := re.search(r" dot\((?:\S+ )?%?([\w.\-]+), ", text):
                left = shapes[computation][dot.group(1)]
                contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", text)
                axes = [int(n) for n in contracted.group(1).split(",") if n] if contracted else []
                total += 2.0 * math.prod(_dimensions(text)) * math.prod(left[i] for i in axes)
            elif " while(" in text:
                trips = _TRIPS.search(text)
                inner = sum(flops(c) for c in _CALLS.findall(text))
                if inner and trips is None:
                    raise ValueError(f"a loop with matrix products has no known trip count: {text[:200]}")
                total += inner * (int(trips.group(1)) if trips else 0)
            elif " conditional(" in text:
                names = [n.strip().lstrip("%") for a, b in _BRANCHES.findall(text) for n in (a or b).split(",")]
                total += max(flops(n) for n in names)
            else:
                total += sum(flops(c) for c in _CALLS.findall(text) if c in bodies)
        memory[computation] = total
        return total

    return flops(entry)
