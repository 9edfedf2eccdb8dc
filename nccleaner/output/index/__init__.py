"""FAISS indexes of the kept pairs: which kind, built with flat memory, checked when opened."""
