"""p(any variables given any others), from a network of conditionals that was trained on all orders.

It may import everything above it down to `evaluate`.
"""
