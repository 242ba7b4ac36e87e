"""What a GPU would run, without one: `python compiled.py "NETWORK PRECISION BATCH [STAGES]" ...`.

Compiles the fused kernels that multiply matrices for a GPU of compute capability 9.0 (Hopper) as
far as Triton's own representation, and prints a line for each operand of a product that its loop
may overwrite while the product still reads it. Hopper's products are asynchronous: a loop starts
one, waits for the one before it, and loads the tiles of a later round. STAGES: of all tiles.

Another line names what is loaded number by number: where a product wants a tile's columns together
and memory has its rows so, no two neighbours can be copied at once.
"""

import re
import sys

import torch
import torch.nn.functional as F
from torch import nn
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource, compile

from fedgloss.engine.backends.fused import FusedGradients
from fedgloss.models import build_model

NETWORKS = {
    "cnn": (lambda: build_model("cnn", (3, 32, 32), 10), (3, 32, 32)),
    "linear": (lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), (64,)),
}
TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
TYPES |= {torch.uint8: "*u8", torch.int64: "*i64"}


class Reached(Exception):
    """The representation in which it is decided what waits for what."""


def as_far_as_needed(self, stages, options, language, complete=CUDABackend.add_stages):
    def stop(module, metadata):
        raise Reached(str(module))

    complete(self, stages, options, language)
    stages["llir"] = stop


def launches(network, precision, batch, **changes):
    """Each launch of a gradient of 5 models: name, kernel, arguments, constants."""
    build, shape = NETWORKS[network]
    gradients, found = FusedGradients(build(), F.cross_entropy, precision), []
    gradients.tiles = {name: {**tile, **changes} for name, tile in gradients.tiles.items()}
    gradients._run = lambda name, grid, *arguments, **constants: found.append(
        (name, gradients.kernels[name], arguments, constants)
    )
    with torch.device("meta"):
        W, x = torch.empty(5, gradients.P), torch.empty(5, batch, *shape)
        y, counts = (torch.empty(*s, dtype=torch.int64) for s in ((5, batch), (5,)))
    gradients(W, x, y, counts)
    return found


def compiled(kernel, arguments, constants):
    """A launch's kernel as Triton's representation for GPUs."""
    signature, known, aligned = {}, {}, {}
    options = {key: constants[key] for key in ("num_warps", "num_stages")}
    for i, parameter in enumerate(kernel.arg_names):
        value = arguments[i] if i < len(arguments) else constants[parameter]
        if isinstance(value, torch.Tensor):
            signature[parameter] = TYPES[value.dtype]
        elif i < len(arguments) and value != 1:
            signature[parameter] = "i32"
        else:
            signature[parameter], known[(i,)] = "constexpr", value
        if i < len(arguments) and (isinstance(value, torch.Tensor) or value % 16 == 0):
            aligned[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=known, attrs=aligned)
    try:
        compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    except Reached as reached:
        return str(reached)


VIEW = re.compile(r"(%\S+) = ttg\.memdesc_(?:index|trans|reinterpret) (%\w+)")
WRITE = re.compile(r"(?:async_copy_global_to_local|local_store) %\S+, (%\w+)")
SLOTS = re.compile(r"(%\S+) = ttg\.local_alloc : \(\) -> !ttg\.memdesc<(\d+)x")
PRODUCT = re.compile(
    r"ttng\.warp_group_dot (%\w+), (%\w+),.*isAsync = true[^}]*} : (!ttg\.memdesc|tensor)<"
)


def overwritten(text):
    """Operands that may be written too early, and why."""
    views, slots = dict(VIEW.findall(text)), dict(SLOTS.findall(text))

    def buffer(view):
        while view in views:
            view = views[view]
        return view

    for loop in re.finditer(r"scf\.for .*?scf\.yield", text, re.DOTALL):
        body, before = loop.group(), text[: loop.start()]
        if not any(map(int, re.findall(r"pendings = (\d+)", body))):
            continue  # each product is waited for
        for left, right, kind in PRODUCT.findall(body):
            if kind == "tensor":
                yield f"{left}: its registers are used again"
            for home in {buffer(left), buffer(right)} & set(map(buffer, WRITE.findall(body))):
                ahead = sum(buffer(view) == home for view in WRITE.findall(before))
                if int(slots[home]) <= ahead:
                    yield f"{home}: room for {slots[home]} tiles, {ahead} are loaded ahead"


LAYOUT = re.compile(r"(#\w+) = #ttg\.(blocked|nvmma_shared|swizzled_shared)<\{(.*?)\}>")
COPY = re.compile(r"async_copy_global_to_local %(\w+).* : tensor<\S+, (#\w+)> -> <\S+, (#\w+),")


def scattered(text):
    """Tiles whose neighbours in memory do not lie together in what is multiplied."""
    columns_together = {
        name: "order = [0, 1]" in what or "transposed = true" in what
        for name, _, what in LAYOUT.findall(text)
    }
    for tile, memory, multiplied in COPY.findall(text):
        if columns_together[memory] != columns_together[multiplied]:
            yield re.sub(r"_\d+$", "", tile)


if __name__ == "__main__":
    CUDABackend.add_stages = as_far_as_needed
    for case in sys.argv[1:]:
        network, precision, batch, *stages = case.split()
        changes = {"num_stages": int(stages[0])} if stages else {}
        products = 0
        for name, kernel, arguments, constants in launches(
            network, precision, int(batch), **changes
        ):
            if "PRECISION" in constants:
                text = compiled(kernel, arguments, constants)
                products += len(PRODUCT.findall(text))
                for found in overwritten(text):
                    print(f"{case}: {name} {found}")
                for tile in {*scattered(text)}:
                    print(f"{case}: {name} loads {tile} number by number")
        print(f"{case}: {products} asynchronous products")
