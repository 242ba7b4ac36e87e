"""Arithmetic on whole models, done when it is needed, in one pass over the memory.

A method's step direction is a line of additions and products of [S, K, P] tensors; computed as it
is written, each operation reads and writes all of them. A `Lazy` tensor only remembers what was
asked; when its values are wanted, one Triton kernel computes the whole line. Whatever is not
elementwise arithmetic makes it an ordinary tensor first, so methods need not know.
"""

from __future__ import annotations

import hashlib
import importlib.util
import operator
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BLOCK = 1024
TEMPLATE = """
import triton
import triton.language as tl


@triton.jit
def line({arguments}, out, P, K: tl.constexpr, ALIGN: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    s, k = row // K, row % K
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = e < P * ALIGN
{loads}
    tl.store(out + row * (P * ALIGN) + e, {expression}, mask=inside)
"""


class Lazy:
    """A tensor [S, K, P] that is known by how it is computed."""

    def __init__(self, symbol: str, parts: tuple[Any, ...], shape: torch.Size) -> None:
        self.symbol, self.parts, self.shape = symbol, parts, shape
        self.value: Tensor | None = None

    @staticmethod
    def of(tensor: Tensor) -> Lazy:
        """A tensor as the beginning of a line."""
        lazy = Lazy("", (), tensor.shape)
        lazy.value = tensor
        return lazy

    def tensor(self) -> Tensor:
        """The values."""
        if self.value is None:
            self.value = _compute(self)
        return self.value

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tensor(), name)

    def __getitem__(self, key: Any) -> Tensor:
        return self.tensor()[key]

    def __neg__(self) -> Any:
        return _combine("*", self, -1.0)

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args=(), kwargs=None) -> Any:
        return func(*computed(args), **computed(kwargs or {}))


def _combine(symbol: str, a: Any, b: Any) -> Any:
    """a `symbol` b for two operands of which one is lazy."""
    shapes = [x.shape for x in (a, b) if isinstance(x, Lazy | Tensor)]
    shape = torch.broadcast_shapes(*shapes)
    mixed = any(isinstance(x, Tensor) and x.dtype != _dtype(a, b) for x in (a, b))
    if len(shape) != 3 or mixed or not all(_is_operand(x) for x in (a, b)):
        return _OPERATORS[symbol](computed(a), computed(b))
    return Lazy(symbol, (a, b), shape)


def _is_operand(x: Any) -> bool:
    return isinstance(x, Lazy | Tensor | int | float) and not isinstance(x, bool)


def _dtype(*operands: Any) -> torch.dtype:
    for x in operands:
        if isinstance(x, Lazy):
            return x.value.dtype if x.value is not None else _dtype(*x.parts)
    return next(x.dtype for x in operands if isinstance(x, Tensor))


_OPERATORS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


def _at_once(apply: Callable, reflected: bool = False) -> Callable:
    """An operator on values, which makes a lazy tensor an ordinary one."""
    if reflected:
        return lambda b, a: apply(computed(a), computed(b))
    return lambda *operands: apply(*computed(operands))


for _name in ("pow", "floordiv", "mod", "lt", "le", "gt", "ge", "eq", "ne", "abs"):
    setattr(Lazy, f"__{_name}__", _at_once(getattr(operator, _name)))
for _name in ("pow", "floordiv", "mod"):
    setattr(Lazy, f"__r{_name}__", _at_once(getattr(operator, _name), reflected=True))
for _symbol, _name in (("+", "add"), ("-", "sub"), ("*", "mul"), ("/", "truediv")):
    setattr(Lazy, f"__{_name}__", lambda a, b, s=_symbol: _combine(s, a, b))
    setattr(Lazy, f"__r{_name}__", lambda a, b, s=_symbol: _combine(s, b, a))


def computed(value: Any) -> Any:
    """The same with tensors in place of lazy ones, in tuples, lists and dictionaries too."""
    if isinstance(value, Lazy):
        return value.tensor()
    if isinstance(value, tuple | list):
        return type(value)(computed(v) for v in value)
    if isinstance(value, dict):
        return {k: computed(v) for k, v in value.items()}
    return value


def _compute(lazy: Lazy) -> Tensor:
    inputs: dict[int, tuple[str, Tensor]] = {}

    def text(x: Any) -> str:
        if isinstance(x, Lazy):
            if x.value is None:
                left, right = (text(part) for part in x.parts)
                return f"({left} {x.symbol} {right})"
            x = x.value
        if isinstance(x, int | float):
            return repr(float(x))
        return inputs.setdefault(id(x), (f"v{len(inputs)}", x))[0]

    expression = text(lazy)
    tensors = [tensor for _, tensor in inputs.values()]
    S, K, P = lazy.shape
    out = torch.empty(lazy.shape, dtype=tensors[0].dtype, device=tensors[0].device)
    spread = [tensor.expand(S, K, P) for tensor in tensors]
    spread = [t if t.stride(2) in (0, 1) else t.contiguous() for t in spread]
    # Rows begin at multiples of `align`, which tells the kernel how much it can read at once.
    jumps = [P, *(t.stride(d) for t in spread if t.stride(2) for d in (0, 1))]
    align = next(a for a in (4, 2, 1) if all(jump % a == 0 for jump in jumps))
    arguments: list[Any] = []
    for t in spread:
        unit = align if t.stride(2) else 1
        arguments += [t, t.stride(0) // unit, t.stride(1) // unit]
    kernel = _kernel(expression, tuple(t.stride(2) != 0 for t in spread))
    kernel[(-(-P // BLOCK), S * K, 1)](*arguments, out, P // align, K=K, ALIGN=align, BLOCK=BLOCK)
    return out


@cache
def _kernel(expression: str, long: tuple[bool, ...]) -> Any:
    """The Triton kernel of a line over inputs v0, v1, ...; `long`: which of them have P values.

    All are kept: Triton unloads a kernel that is dropped, and a recorded round may still launch it.
    """
    arguments, loads = [], []
    for i, many in enumerate(long):
        arguments.append(f"x{i}, a{i}, b{i}")
        place = f"(s * a{i} + k * b{i})"
        where = f"{place} * ALIGN + e, mask=inside, other=0.0" if many else place
        loads.append(f"    v{i} = tl.load(x{i} + {where})")
    source = TEMPLATE.format(
        arguments=", ".join(arguments), loads="\n".join(loads), expression=expression
    )
    # Triton reads a kernel's source from its file, which goes when the process does.
    name = f"fedgloss_line_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    path = Path(_folder().name) / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader  # of a file there is always one
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.line


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="fedgloss-")
