"""Evidence to scores, and scores to decisions.

In: features of the pool and of trusted pairs. Out: beliefs, a scorer, scores, estimates with
intervals, cut-offs. What is fitted to the pool holds its features; what decides holds bins alone.
"""
