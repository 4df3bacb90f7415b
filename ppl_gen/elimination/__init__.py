"""Finite choices that are not drawn: those of the model alone are summed out, those of the guide may be enumerated.

Both try values and combine the tables that these give. It may import `program` and what is above it.
"""
