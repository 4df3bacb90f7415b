"""From a program that was read to one that is trained: batches, the prepared program, the loop, checkpoints.

It may import everything above it down to `guides`; the verbs of `infer` stand on it.
"""
