"""Data sets as uint8 tensors, partitions as client indices, augmentation on the device.

dataset      prepare a data set once (`prepare`), map it into memory afterwards (`load`)
sources/     the originals that `prepare` knows, one module each
partition/   who holds which image (`make_partition`, `load_partition`), by generator or split
facts, store   what the sources share: facts about images, files larger than memory
subset       a seeded, class-balanced part of the images, for what all would cost too much
augment      crops, flips and normalisation inside the training step
"""
