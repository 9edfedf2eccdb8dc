"""What people use instead of nccleaner, each small, on the features that nccleaner has itself."""
