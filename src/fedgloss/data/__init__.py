"""Datasets as uint8 tensors, partitions as client indices, augmentation on the device.

datasets    prepare a dataset once (`prepare`), map it into memory afterwards (`load`)
digits, cifar, folder, landmarks   the sources `prepare` knows
facts, images, store   what they share: facts about images, decoding, files larger than memory
partitions  who holds which image (`make_partition`, `load_partition`); generators, splits: how
augment     crops, flips and normalisation inside the training step
"""
