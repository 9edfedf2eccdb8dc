"""nccleaner: learns which image-caption pairs are mismatched, and purges them."""
