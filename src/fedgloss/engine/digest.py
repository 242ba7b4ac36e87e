"""What an object is and does, as a hash: code and data, by what they do and not where they are.

The same script finds the same hashes in every process:

- A function of the user's is its bytecode, its constants and defaults, what its closure holds, and
  what it reads of its module: other functions, classes, constants. A module that it uses is its
  source and that of all it imports (fingerprint.py), and what the function may read of it now, for
  a script can set that. A class is its methods and attributes.
- A function or class of an installed package is its name and the package's version.
- A tensor or an array is its type, shape and bytes.
- Any other object is what pickle would write of it. What pickle refuses (an open file, a lock, a
  generator) is its type alone: nothing else of it is the same in another process.
- A hook of a module is what it does and its place among the others; torch numbers them through all
  models of a process.

The order of a dict counts: that of a model's parts is the order in which they may be called. The
order of a set does not, nor that of what the body of a class defines.
"""

import hashlib
import sys
from collections.abc import Iterable
from dis import get_instructions
from functools import cache
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fedgloss.files import sha256
from fedgloss.fingerprint import FOLDER, INSTALLED, STANDARD, exists, fingerprint

ATOMS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
# How bytecode reads a name of a module, in a function and in the body of a class.
READS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
SLICE = 2**24
"""Elements of a tensor that are hashed at a time: it may lie on a GPU, or be larger than memory."""
# What a class's body leaves besides what it says: texts, and where it stands.
INCIDENTAL = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__"),
    *("__firstlineno__", "__static_attributes__", "__annotate__", "__annotations_cache__"),
    # Of copyreg and of abstract base classes, caches; of a dataclass, what it says elsewhere.
    *("__slotnames__", "_abc_impl", "__dataclass_fields__", "__dataclass_params__"),
}
# The dictionaries in which every module keeps its hooks, by the numbers of their handles.
HOOKS = [name for name in vars(nn.Module()) if "_hooks" in name]


def identify(value: Any, without_values: Iterable[Tensor] = ()) -> str:
    """SHA-256 of what a value is and does; equal in every process (see above).

    without_values: tensors of which the shape and type alone count.
    """
    return _Walk(without_values).digest(value).hex()


class _Walk:
    """One walk through an object and all that it refers to."""

    def __init__(self, without_values: Iterable[Tensor]) -> None:
        self.without_values = {id(tensor) for tensor in without_values}
        self.done: dict[int, bytes] = {}
        self.open: list[int] = []
        self.kept: list[Any] = []  # so that no id is given to another object meanwhile

    def digest(self, value: Any) -> bytes:
        if type(value) in ATOMS:
            return _hash(type(value).__name__, repr(value).encode())
        if id(value) in self.done:
            return self.done[id(value)]
        if id(value) in self.open:  # it contains itself: so many steps up
            return _hash("above", str(len(self.open) - self.open.index(id(value))).encode())
        self.open.append(id(value))
        self.kept.append(value)
        found = self._digest(value)
        self.open.pop()
        self.done[id(value)] = found
        return found

    def _digest(self, value: Any) -> bytes:
        match value:
            case Tensor():
                return self._tensor(value)
            case np.ndarray() if value.dtype != object:
                what = f"array {value.dtype.str} {value.shape}"
                return _hash(what, np.ascontiguousarray(value).tobytes())
            case FunctionType():
                return self._function(value)
            case MethodType():
                return self._all("method", [value.__func__, value.__self__])
            case BuiltinFunctionType() if not isinstance(value.__self__, ModuleType | None):
                return self._all(f"method {value.__name__}", [value.__self__])
            case BuiltinFunctionType():
                return _installed(value)
            case CodeType():
                return self._code(value)
            case ModuleType():
                return self._module(value)
            case type():
                return self._class(value)
            case staticmethod() | classmethod():
                return self._all(type(value).__name__, [value.__func__])
            case RemovableHandle():
                return self._all("handle", _handle(value))
            case property():
                return self._all("property", [value.fget, value.fset, value.fdel])
            case torch.jit.ScriptFunction():
                return self._all("script", [value.code])
            case torch.jit.ScriptModule():
                code = [getattr(module, "code", "") for module in value.modules()]
                return self._all("script", [code, dict(value.state_dict())])
        if type(value) in (tuple, list):
            return self._all(type(value).__name__, value)
        if isinstance(value, (set, frozenset)):
            kind = self._all("set", [type(value), getattr(value, "__dict__", None)])
            return _hash("set", kind, *sorted(map(self._alone, value)))
        if type(value) is dict:
            return _hash("dict", *(self._all("item", item) for item in value.items()))
        return self._object(value)

    def _all(self, what: str, values: Iterable[Any]) -> bytes:
        return _hash(what, *map(self.digest, values))

    def _alone(self, value: Any) -> bytes:
        """The digest of an element of a set, the same whichever elements were visited before it.

        Where two refer to each other, what each is found to be depends on where the walk entered.
        """
        before = len(self.done)
        found = self.digest(value)
        while len(self.done) > before:
            self.done.popitem()
        return found

    def _tensor(self, tensor: Tensor) -> bytes:
        what = f"tensor {tensor.dtype} {[*tensor.shape]}"
        if id(tensor) in self.without_values:
            return _hash(what)
        if tensor.layout != torch.strided or tensor.is_quantized:
            tensor = tensor.detach().dequantize() if tensor.is_quantized else tensor.to_dense()
        digest = hashlib.sha256(what.encode())
        for part in tensor.detach().resolve_conj().resolve_neg().reshape(-1).split(SLICE):
            digest.update(memoryview(part.cpu().contiguous().view(torch.uint8).numpy()))
        return digest.digest()

    def _function(self, function: FunctionType) -> bytes:
        code, installed = function.__code__, _is_installed(function.__code__.co_filename)
        if installed and hasattr(function, "__wrapped__"):  # by functools, contextlib, torch
            return self._all(f"wrapped by {code.co_name}", [function.__wrapped__])
        cells = [content_of(cell) for cell in function.__closure__ or ()]
        given = [function.__defaults__, function.__kwdefaults__, cells]
        if installed:
            return _hash("function", _installed(function), *map(self.digest, given))
        names, modules = _read(code)
        read = {n: function.__globals__[n] for n in names if n in function.__globals__}
        sources = {name: fingerprint(name) for name in modules}
        own = [value for value in [*read.values(), *cells] if isinstance(value, ModuleType)]
        own += [sys.modules[name] for name in modules if name in sys.modules]
        reached = _reached(own, code)
        return self._all("function", [code, *given, vars(function), read, sources, reached])

    def _code(self, code: CodeType) -> bytes:
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        does = (code.co_code, code.co_exceptiontable, code.co_consts, code.co_names)
        return self._all("code", [counts, *does])

    def _module(self, module: ModuleType) -> bytes:
        name, file = module.__name__, getattr(module, "__file__", None)
        if file is None or _is_installed(file):
            return _hash("module", name.encode(), _version(name))
        # One that was loaded by its path is not found by its name.
        source = fingerprint(name) if exists(name) else sha256(file)
        return self._all("module", [name, source])

    def _class(self, found: type) -> bytes:
        if _is_installed_module(found.__module__):
            return _installed(found)
        # By name: a method may move within its class. Of an enumeration's members and a dataclass's
        # fields, where the order counts, there is a list.
        says = {name: vars(found)[name] for name in sorted({*vars(found)} - INCIDENTAL, key=str)}
        slots = [n for n, value in says.items() if isinstance(value, MemberDescriptorType)]
        says = {name: value for name, value in says.items() if name not in slots}
        return self._all("class", [found.__name__, slots, found.__bases__, says])

    def _object(self, value: Any) -> bytes:
        """An object as pickle sees it, or its type."""
        kind = self.digest(type(value))
        try:
            reduced = value.__reduce_ex__(2)
        except Exception:  # whatever an object's own code raises: it is not for pickling
            return _hash("object", kind)
        if isinstance(reduced, str):  # the name of something global; functools wraps functions so
            wrapped = self.digest(getattr(value, "__wrapped__", None))
            return _hash("object", kind, reduced.encode(), wrapped)
        make, arguments, state, items, pairs = (*reduced, *[None] * 5)[:5]
        if isinstance(value, nn.Module) and isinstance(state, dict):
            state = _with_places_of_hooks(state)
        parts = [make, arguments, state, list(items or ()), dict(pairs or ())]
        return _hash("object", kind, *map(self.digest, parts))


def _hash(what: str, *parts: bytes) -> bytes:
    digest = hashlib.sha256(f"{what} {[len(part) for part in parts]}".encode())
    for part in parts:
        digest.update(part)
    return digest.digest()


def content_of(cell: CellType) -> Any:
    """What a variable that a function took from around it holds, or that it holds nothing."""
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return "empty"


def _with_places_of_hooks(state: dict[str, Any]) -> dict[str, Any]:
    """A module's attributes, with a hook's place in the first dictionary that has it as its number.

    The others (`_forward_hooks_with_kwargs`) say more of it under the same number.
    """
    hooks = {name: state[name] for name in HOOKS if name in state}
    places: dict[Any, tuple[str, int]] = {}
    for name, numbered in hooks.items():
        for place, number in enumerate(numbered):
            places.setdefault(number, (name, place))
    placed = {
        name: [(places[number], hook) for number, hook in numbered.items()]
        for name, numbered in hooks.items()
    }
    return {**state, **placed}


def _handle(handle: RemovableHandle) -> list[Any]:
    """The hooks among which a handle's is, and its place there, if it was not removed."""
    hooks = handle.hooks_dict_ref() or {}
    numbers = [*hooks]
    return [[*hooks.values()], numbers.index(handle.id) if handle.id in numbers else None]


def _codes(code: CodeType) -> Iterable[CodeType]:
    """A function's code and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _read(code: CodeType) -> tuple[list[str], list[str]]:
    """The names that a function reads of its module, and the modules that it imports; sorted."""
    steps = [step for inner in _codes(code) for step in get_instructions(inner)]
    names = {s.argval for s in steps if s.opname in READS}
    modules = {s.argval for s in steps if s.opname == "IMPORT_NAME" and s.argval}
    return sorted(names), sorted(modules)


def _reached(modules: Iterable[ModuleType], code: CodeType) -> dict[str, dict[str, Any]]:
    """What a function may read of these modules and those in them that are the user's own: the
    attributes that have a name which the function reads of anything."""
    used = {name for inner in _codes(code) for name in inner.co_names}
    found: dict[str, dict[str, Any]] = {}
    waiting = [*modules]
    while waiting:
        module = waiting.pop()
        name, file = module.__name__, getattr(module, "__file__", None)
        if name in found or _is_installed_module(name) or (file and _is_installed(file)):
            continue
        found[name] = {a: vars(module)[a] for a in sorted(used & {*vars(module)})}
        waiting += [value for value in found[name].values() if isinstance(value, ModuleType)]
    return dict(sorted(found.items()))


@cache
def _is_installed(file: str) -> bool:
    """Whether code is of an installed package or of Python; of this package it never is."""
    if file.startswith("<frozen"):
        return True
    if file.startswith("<"):  # typed into a console
        return False
    path = Path(file).resolve()
    if path.is_relative_to(FOLDER.resolve()):
        return False
    return bool(INSTALLED & {*path.parts}) or any(map(path.is_relative_to, STANDARD))


def _is_installed_module(module: str) -> bool:
    """Whether what a module defines is known by its name; parts of an extension have no file."""
    for name in (module, module.partition(".")[0]):
        if file := getattr(sys.modules.get(name), "__file__", None):
            return _is_installed(file)
    return module in sys.builtin_module_names


def _installed(value: Any) -> bytes:
    """A function or class of a package: its name, and the package's version."""
    module = getattr(value, "__module__", None) or ""
    return _hash("installed", f"{module}.{value.__qualname__}".encode(), _version(module))


def _version(module: str) -> bytes:
    package = sys.modules.get(module.partition(".")[0])
    return str(getattr(package, "__version__", "")).encode()
