"""Nouns to tensors: the preprocessing contract, augmentations that keep labels true, and batches."""
