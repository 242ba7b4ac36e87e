"""Triton kernels for the gradients of R models at once, each on its own mini-batch.

A convolution is a matrix product whose left operand, the patches, is never written down: a tile of
it is gathered from the images as it is needed. Images are channels-last, [R, B, H, W, C]; a patch
in the order row, column, channel then consists of KERNEL runs of KERNEL * C neighbouring numbers.

Bias, pooling and ReLU happen on the tile before it is stored. Of a pooled window only its largest
value is kept, and a code: which position it came from, or DEAD where the ReLU cut it off. Sums over
all positions of a mini-batch (the weights' gradients) are split into a fixed number of parts, which
are added in a fixed order: the same bits in every run.

Operands are stored in the type that the images have (float32, float16, bfloat16); sums are float32.
PRECISION says how float32 operands are multiplied: "tf32", "tf32x3" or "ieee".

What a loop loads for a product must have no other reader in that loop: sums of gradients have a
loop of their own. A Hopper GPU computes a product while it loads the tiles of a later one. Where a
tile has a second reader, Triton 3.6 to 3.9 makes room for one tile too few
(https://github.com/triton-lang/triton/issues/6691): a tile can be overwritten while a product reads
it, and then the result depends on timing.
"""
