"""Training: warm-up, the bilevel step, and two networks that purify each other's pool.

In: features and pairs as tensors, networks, plain numbers. Out: trained networks and one report an
epoch. What decides which pairs are clean comes in as a function.
"""
