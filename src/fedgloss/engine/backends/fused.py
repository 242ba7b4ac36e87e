"""The gradients of K models at once on a GPU: a small convolutional network as Triton kernels.

It takes what `stacked.py` takes, as long as the network is blocks (blocks.py), under the
cross-entropy. Everything from the images' gather to the flat gradient [K, P] is Triton kernels.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedgloss.engine.backends.blocks import (
    MOST_OUTPUTS,
    Block,
    blocks_of,
    most_samples,
    power_of_two,
)
from fedgloss.engine.cohort import Cohort, Counts, Seeds
from fedgloss.engine.flat import parameter_shapes
from fedgloss.errors import InputError

STORAGE = {
    "float32": (torch.float32, "ieee"),
    "tf32x3": (torch.float32, "tf32x3"),
    "tf32": (torch.float32, "tf32"),
    "float16": (torch.float16, "tf32"),
    "bfloat16": (torch.bfloat16, "tf32"),
}
"""For each precision: how operands are stored, and how those of float32 are multiplied."""
SHIFT = 6
"""float16: the largest element of the outputs' gradient is brought to 2^6 of at most 2^16."""


def _tile(M: int, N: int, K: int, warps: int, stages: int) -> dict[str, int]:
    return dict(BLOCK_M=M, BLOCK_N=N, BLOCK_K=K, num_warps=warps, num_stages=stages)


TILES = {
    2: {
        "convolution_forward": _tile(256, 64, 64, 8, 3),
        "convolution_forward, thin": _tile(256, 64, 32, 4, 2),
        "convolution_input_gradient": _tile(128, 64, 64, 4, 3),
        "convolution_weight_gradient": _tile(64, 128, 64, 4, 3),
        "convolution_weight_gradient, thin": _tile(64, 128, 128, 4, 1),
        "linear_forward": _tile(64, 16, 128, 4, 3),
        "linear_input_gradient": _tile(64, 64, 32, 4, 3),
        "linear_weight_gradient": _tile(64, 128, 64, 4, 2),
    },
    4: {
        "convolution_forward": _tile(256, 64, 32, 8, 3),
        "convolution_forward, thin": _tile(256, 64, 32, 4, 2),
        "convolution_input_gradient": _tile(256, 64, 32, 8, 3),
        "convolution_weight_gradient": _tile(64, 256, 32, 8, 2),
        "convolution_weight_gradient, thin": _tile(64, 128, 64, 4, 1),
        "linear_forward": _tile(64, 16, 128, 4, 3),
        "linear_input_gradient": _tile(64, 64, 32, 4, 3),
        "linear_weight_gradient": _tile(64, 64, 64, 4, 2),
    },
}
"""How each kernel is cut into programs, by the bytes of a stored number: the fastest of those that
benchmarks/gpu.py tried on an H200, at the paper's CNN. Of the convolutions that was with kernels
before these, and weight gradients of four bytes and the thin forward one have tiles that no GPU has
timed: chosen for a Hopper's registers and memory, so that two programs fit a multiprocessor.
"""
IN_STEPS = {
    "convolution_forward, thin": _tile(128, 64, 32, 8, 3),
    "convolution_weight_gradient, thin": _tile(64, 64, 32, 8, 1),
}
"""Those of float32 that is not multiplied in one step, but exactly or as three products of TF32:
with the tiles above, a thread's numbers would not fit its registers."""
PROGRAMS = 264
"""Two for each multiprocessor of an H100: how finely sums over positions are split."""


class FusedGradients:
    """As `cohort.Gradients` says, for networks that `can_fuse`. Images come from `read_images`."""

    lazy = True
    """The methods' own arithmetic is fused too (elementwise.py)."""

    def __init__(self, model: nn.Module, loss: Callable, precision: str = "tf32") -> None:
        from fedgloss.engine.backends.kernels import batch_last, convolution, linear  # need Triton

        self.kernels = {**vars(convolution), **vars(batch_last), **vars(linear)}
        self.loss, self.precision = loss, precision
        self.dtype, self.multiply = STORAGE[precision]
        blocks = blocks_of(model)
        if blocks is None:
            raise InputError("backend: the fused kernels do not know this model; use 'stacked'")
        self.blocks, self.tiles = blocks, dict(TILES[self.dtype.itemsize])
        if self.multiply != "tf32":
            self.tiles |= IN_STEPS
        self.offsets, start = {}, 0
        for name, shape in parameter_shapes(model).items():
            self.offsets[name] = start
            start += shape.numel()
        self.P = start
        self.most_samples = most_samples(blocks[-1].linear.out_features)
        self.align = next(a for a in (4, 2, 1) if self.P % a == 0)
        self.constants: dict[Any, Tensor] = {}

    def clients_at_once(self, cohort: Cohort) -> int:
        """All of them."""
        return len(cohort.ids[0])

    def read_images(self, images: Tensor, index: Tensor, draws: Tensor | None, pipeline) -> Tensor:
        """uint8 images [N, C, H, W], index [R, B], draws [R, B, 3] -> [R, B, channels, H, W].

        The memory is channels-last, and there may be more channels than the images have.
        """
        (R, B), (_, C, H, W) = index.shape, images.shape
        channels = self._channels(C)
        index = index if index.stride(1) == 1 else index.contiguous()
        if draws is not None and draws.stride()[1:] != (3, 1):
            draws = draws.contiguous()
        out = torch.empty(R, B, H, W, channels, dtype=self.dtype, device=images.device)
        key = pipeline.mean, pipeline.std, images.device
        if key not in self.constants:  # made before any graph is recorded
            self.constants[key] = torch.tensor([*key[0], *key[1]], device=images.device)
        augmented = draws is not None
        block = min(1024, power_of_two(H * W * channels))
        self._run(
            "gather_images",
            (R, B, -(-H * W * channels // block)),
            images, index, index if draws is None else draws, self.constants[key], out,
            index.stride(0), 0 if draws is None else draws.stride(0),
            B=B, C=C, H=H, W=W, CHANNELS=channels, PADDING=pipeline.padding, AUGMENT=augmented,
            BLOCK=block,
        )  # fmt: skip
        return out.permute(0, 1, 4, 2, 3)

    @torch.no_grad()
    def __call__(
        self, W: Tensor, x: Tensor, y: Tensor, counts: Counts, seeds: Seeds = None
    ) -> Tensor:
        """W [R, P], x [R, B, C, H, W] or [R, B, I], y [R, B] -> [R, P]."""
        W = W.contiguous()
        x = self._as_stored(x)
        if not isinstance(counts, Tensor):
            counts = torch.tensor(counts, device=W.device)
        counts, y = counts.contiguous(), y.contiguous()  # the kernels count on neighbouring numbers
        out = torch.empty_like(W)
        kept: list[tuple[Tensor, tuple[Tensor, Tensor] | None]] = []  # inputs; of convolutions more
        for i, block in enumerate(self.blocks):
            if block.is_convolution:
                last = not self.blocks[i + 1].is_convolution
                made, code, turned = self._convolve(block, W, x, last, need_input=i > 0)
                kept.append((x, (code, turned)))
                x = made.flatten(2) if last else made
            else:
                kept.append((x, None))
                x = self._linear(block, W, x, last=i + 1 == len(self.blocks))
        d, scale = self._output_gradient(x, y, counts)
        for i in reversed(range(len(self.blocks))):
            block, (x, saved) = self.blocks[i], kept[i]
            before = self.blocks[i - 1] if i else None
            mask = before is not None and before.relu and before.pool == 1
            if saved:
                (code, turned), last = saved, not self.blocks[i + 1].is_convolution
                d = self._convolution_weights(block, x, d, code, scale, out, last, need_input=i > 0)
                d = self._convolution_inputs(block, x, d, turned, mask) if i else d
            else:
                self._linear_weights(block, x, d, scale, out)
                d = self._linear_inputs(block, W, x, d, mask) if i else d
        return out

    def _channels(self, C: int) -> int:
        """Images of few channels are padded to a multiple of 4, for reads of 8 or 16 bytes."""
        return -(-C // 4) * 4 if self.blocks[0].is_convolution else C

    def _as_stored(self, x: Tensor) -> Tensor:
        """Channels last, padded, in the stored type; images of `read_images` are so already."""
        if not self.blocks[0].is_convolution:
            return x.flatten(2).to(self.dtype).contiguous()
        x = x.permute(0, 1, 3, 4, 2).to(self.dtype)
        return F.pad(x, (0, self._channels(x.shape[-1]) - x.shape[-1])).contiguous()

    def _run(self, name: str, grid: tuple[int, int, int], *arguments: Any, **constants: Any):
        self.kernels[name][grid](*arguments, **constants)

    def _tile(self, name: str, thin: bool = False, **wanted: int) -> dict[str, int]:
        """The kernel's tile, cut down to what there is to do; thin: images of few channels."""
        tile = dict(self.tiles[f"{name}, thin" if thin else name])
        for key, size in wanted.items():
            tile[key] = max(16, min(tile[key], power_of_two(size)))
        return tile

    def _convolve(
        self, block: Block, W: Tensor, x: Tensor, channels_first: bool, need_input: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs, where in its window each came from, and the kernels [R, C, k * k, O]."""
        layer = block.convolution
        (R, B, H, Wd, C), O = x.shape, layer.out_channels
        k, pad = layer.kernel_size[0], int(layer.padding[0])
        packed = torch.empty(R, O, k * k, C, dtype=self.dtype, device=W.device)
        turned = torch.empty_like(packed).view(R, C, k * k, O) if need_input else packed
        flat = {"ALIGN": self.align}
        stride = self.P // self.align
        self._run(
            "pack_weights", (-(-O * k * k * C // 1024), R, 1),
            W, packed, turned, self.offsets[f"{block.prefix}.weight"], stride,
            C=layer.in_channels, CHANNELS=C, O=O, TAPS=k * k, TURNED=need_input, BLOCK=1024,
            **flat,
        )  # fmt: skip
        HP, WP = ((side + 2 * pad - k + 1) // block.pool for side in (H, Wd))
        shape = (R, B, O, HP, WP) if channels_first else (R, B, HP, WP, O)
        y = torch.empty(shape, dtype=self.dtype, device=W.device)
        pooled = block.pool > 1
        code = torch.empty(shape, dtype=torch.uint8, device=W.device) if pooled else y
        tile = self._tile("convolution_forward", C < 16, BLOCK_N=O, BLOCK_K=k * k * C)
        positions = B * HP * WP * block.pool**2
        self._run(
            "convolution_forward",
            (-(-positions // tile["BLOCK_M"]), R, -(-O // tile["BLOCK_N"])),
            x, packed, W, y, code, self.offsets.get(f"{block.prefix}.bias", 0), stride,
            B=B, H=H, W=Wd, C=C, O=O, KERNEL=k, PAD=pad, POOL=block.pool, RELU=block.relu,
            BIAS=layer.bias is not None, CHANNELS_FIRST=channels_first, PRECISION=self.multiply,
            **flat, **tile,
        )  # fmt: skip
        return y, code, turned

    def _convolution_weights(
        self, block: Block, x: Tensor, d: Tensor, code: Tensor, scale: Tensor, out: Tensor,
        channels_first: bool, need_input: bool,
    ) -> Tensor:  # fmt: skip
        """Writes them into `out`; with `need_input` returns d [R, B, HO, WO, O] before pooling."""
        layer, pool = block.convolution, block.pool
        (R, B, H, Wd, C), O = x.shape, layer.out_channels
        k, pad = layer.kernel_size[0], int(layer.padding[0])
        HO, WO = (side + 2 * pad - k + 1 for side in (H, Wd))
        if channels_first and need_input and pool == 1:
            d = d.view(R, B, O, HO, WO).permute(0, 1, 3, 4, 2).contiguous()
            channels_first = False
        dense, unpool = d, pool > 1 and need_input
        if unpool:
            dense = torch.empty(R, B, HO, WO, O, dtype=self.dtype, device=x.device)
        pooled = dict(B=B, HO=HO, WO=WO, O=O, POOL=pool, CHANNELS_FIRST=channels_first)
        name, given = "convolution_weight_gradient", [x, dense, code]
        if self.dtype == torch.float32:
            name = "weight_gradient_batch_last"
            given = [*self._turn(x, d, code, dense, unpool, pooled), dense, code]
        elif unpool:
            grid = (-(-HO * WO * O // 1024), R, B)
            self._run("unpool", grid, d, code, dense, BLOCK=1024, **pooled)
        if unpool:
            pool, channels_first = 1, False
        tile = self._tile("convolution_weight_gradient", C < 16, BLOCK_M=O, BLOCK_N=k * k * C)
        positions = B * (HO // pool) * (WO // pool) * pool**2
        tiles = (-(-k * k * C // tile["BLOCK_N"]), -(-O // tile["BLOCK_M"]))
        if pool > 1:  # the operand is computed in registers, which a second stage would use again
            tile["num_stages"] = 1
        programs = tile.pop("PROGRAMS", PROGRAMS)
        splits = max(1, min(programs // (tiles[0] * tiles[1] * R), positions // (4 * 32)))
        splits = max(splits, min(4, -(-positions // 32)))
        sums = torch.empty(R, splits, O, k * k * C, device=x.device)
        bias_sums = torch.empty(R, splits, O, device=x.device)
        self._run(
            name, (tiles[0], splits, R * tiles[1]), *given, sums, bias_sums,
            B=B, H=H, W=Wd, C=C, O=O, KERNEL=k, PAD=pad, POOL=pool, CHANNELS_FIRST=channels_first,
            SPLITS=splits, BIAS=layer.bias is not None, PRECISION=self.multiply, **tile,
        )  # fmt: skip
        size = max(256, power_of_two(O))
        self._run(
            "add_weight_gradients", (-(-O * k * k * C // size) + 1, R, 1),
            sums, bias_sums, scale, out, self.offsets[f"{block.prefix}.weight"],
            self.offsets.get(f"{block.prefix}.bias", 0), self.P // self.align,
            ALIGN=self.align, C=layer.in_channels, CHANNELS=C, O=O, TAPS=k * k, SPLITS=splits,
            BIAS=layer.bias is not None, BLOCK=size,
        )  # fmt: skip
        return dense

    def _turn(
        self, x: Tensor, d: Tensor, code: Tensor, dense: Tensor, unpool: bool, pooled: dict
    ) -> list[Tensor]:
        """x, d and code with the images of a mini-batch last; `unpool` fills `dense` on the way."""
        turned = [torch.empty_like(x), torch.empty_like(dense)]
        turned.append(code if unpool or pooled["POOL"] == 1 else torch.empty_like(code))
        (R, B), size, outputs = x.shape[:2], x[0, 0].numel(), dense[0, 0].numel()
        images = min(64, power_of_two(B))
        block = 4096 // images
        self._run(
            "turn_batches", (-(-size // block) + -(-outputs // block), R, -(-B // images)),
            x, turned[0], d, code, dense, *turned[1:],
            SIZE=size, UNPOOL=unpool, BLOCK_S=block, BLOCK_B=images, **pooled,
        )  # fmt: skip
        return turned

    def _convolution_inputs(
        self, block: Block, x: Tensor, d: Tensor, turned: Tensor, mask: bool
    ) -> Tensor:
        layer, dx = block.convolution, torch.empty_like(x)
        (R, B, H, Wd, C), O = x.shape, layer.out_channels
        tile = self._tile("convolution_input_gradient", BLOCK_N=C, BLOCK_K=O)
        self._run(
            "convolution_input_gradient",
            (-(-B * H * Wd // tile["BLOCK_M"]), R, -(-C // tile["BLOCK_N"])),
            d, turned, x, dx,
            B=B, H=H, W=Wd, C=C, O=O, KERNEL=layer.kernel_size[0], PAD=int(layer.padding[0]),
            MASK=mask, PRECISION=self.multiply, **tile,
        )  # fmt: skip
        return dx

    def _linear(self, block: Block, W: Tensor, x: Tensor, last: bool) -> Tensor:
        R, B, I = x.shape
        O = block.linear.out_features
        dtype = torch.float32 if last else self.dtype
        y = torch.empty(R, B, O, dtype=dtype, device=x.device)
        tile = self._tile("linear_forward", BLOCK_M=B, BLOCK_N=O, BLOCK_K=I)
        self._run(
            "linear_forward", (-(-O // tile["BLOCK_N"]), -(-B // tile["BLOCK_M"]), R),
            x, W, y, *self._places(block),
            ALIGN=self.align, B=B, I=I, O=O, RELU=block.relu, BIAS=block.linear.bias is not None,
            PRECISION=self.multiply, **tile,
        )  # fmt: skip
        return y

    def _linear_weights(
        self, block: Block, x: Tensor, d: Tensor, scale: Tensor, out: Tensor
    ) -> None:
        (R, B, I), O = x.shape, block.linear.out_features
        tile = self._tile("linear_weight_gradient", BLOCK_M=O, BLOCK_N=I, BLOCK_K=B)
        self._run(
            "linear_weight_gradient", (-(-I // tile["BLOCK_N"]), -(-O // tile["BLOCK_M"]), R),
            x, d, scale, out, *self._places(block),
            ALIGN=self.align, B=B, I=I, O=O, BIAS=block.linear.bias is not None,
            PRECISION=self.multiply, **tile,
        )  # fmt: skip

    def _linear_inputs(self, block: Block, W: Tensor, x: Tensor, d: Tensor, mask: bool) -> Tensor:
        (R, B, I), O = x.shape, block.linear.out_features
        dx = torch.empty_like(x)
        tile = self._tile("linear_input_gradient", BLOCK_M=B, BLOCK_N=I, BLOCK_K=O)
        offset, _, stride = self._places(block)
        self._run(
            "linear_input_gradient", (-(-I // tile["BLOCK_N"]), -(-B // tile["BLOCK_M"]), R),
            d, W, x, dx, offset, stride,
            ALIGN=self.align, B=B, I=I, O=O, MASK=mask, PRECISION=self.multiply, **tile,
        )  # fmt: skip
        return dx

    def _places(self, block: Block) -> tuple[int, int, int]:
        """Where a layer's weights and bias begin in a row of W, and the rows' distance / ALIGN."""
        weight, bias = f"{block.prefix}.weight", f"{block.prefix}.bias"
        return self.offsets[weight], self.offsets.get(bias, 0), self.P // self.align

    def _output_gradient(self, z: Tensor, y: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        R, B, N = z.shape
        rows, columns = power_of_two(B), power_of_two(N)
        if most_samples(N) < B:
            raise InputError(
                f"backend: the fused kernels take at most {MOST_OUTPUTS} outputs of a mini-batch,"
                f" this has {rows * columns}; use 'stacked'"
            )
        d = torch.empty(R, B, N, dtype=self.dtype, device=z.device)
        scale = torch.empty(R, device=z.device)
        self._run(
            "cross_entropy_gradient", (R, 1, 1), z, y, counts, d, scale, y.stride(0),
            B=B, N=N, SCALED=self.dtype == torch.float16, SHIFT=SHIFT, BLOCK_B=rows,
            BLOCK_N=columns,
        )  # fmt: skip
        return d, scale
