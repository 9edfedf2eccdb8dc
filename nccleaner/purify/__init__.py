"""From corrected similarities to decisions.

In: scores of the pool and of trusted pairs. Out: clean probabilities, estimates with intervals,
cut-offs. Memory depends on the number of bins, never on the number of pairs.
"""
