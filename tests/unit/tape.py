"""A graph without a GPU: `from tape import Tape`.

A CUDA graph repeats kernels on fixed memory; whatever the host computed while it was recorded is
frozen. `Tape` does the same on any device: it takes down every operation on tensors, and repeats
them, and nothing else.
"""

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

FROM_THE_HOST = ("aten.lift_fresh", "aten._local_scalar_dense", "aten.equal", "aten.nonzero")


class Tape(TorchDispatchMode):
    """Operations on tensors, taken down without effect, then repeated on the same tensors."""

    def __init__(self):
        super().__init__()
        self.operations, self.before = [], {}

    def record(self, branches):
        try:
            with self:
                for branch in branches:
                    branch()
        finally:
            for storage, bytes_before in self.before.values():
                storage.copy_(bytes_before)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not str(func).startswith(FROM_THE_HOST), f"{func} cannot be in a graph"
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for tensor in flat((args, kwargs)):
                storage = tensor.untyped_storage()
                self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, result))
        return result

    def replay(self):
        for func, args, kwargs, kept in self.operations:
            given = {t.untyped_storage().data_ptr() for t in flat((args, kwargs))}
            for old, new in zip(flat(kept), flat(func(*args, **kwargs)), strict=True):
                if old.untyped_storage().data_ptr() not in given:  # neither a view nor in place
                    old.copy_(new)


class Addresses(Tape):
    """Knows where a recording reads and writes, as a CUDA graph does, and keeps nothing alive."""

    def record(self, branches):
        super().record(branches)
        given, made = {}, set()
        for _, args, kwargs, result in self.operations:
            for tensor in flat((args, kwargs)):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in made:
                    given[storage.data_ptr()] = StorageWeakRef(storage)
            made |= {tensor.untyped_storage().data_ptr() for tensor in flat(result)} - given.keys()
        self.given = list(given.values())
        self.operations, self.before = [], {}

    def replay(self):
        assert not any(storage.expired() for storage in self.given)


def flat(values):
    """The tensors in nested tuples, lists and dictionaries."""
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, dict):
        values = tuple(values.values())
    return [t for v in values for t in flat(v)] if isinstance(values, tuple | list) else []
