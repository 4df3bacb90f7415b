"""What operations do to marks: which elements of a result may depend on which elements of the operands.

It may import what its backend may.
"""
