"""The networks and their losses: pure torch, no files, no configuration objects.

In: frozen features or tokens of a batch. Out: parts, similarity vectors, corrected similarities,
losses. Shapes use b (batch), f (feature width), d (joint width), s (similarity-vector width).
"""
