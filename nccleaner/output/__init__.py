"""What a purge leaves behind: manifests, FAISS indexes, subset files, the summary."""
