"""Indexes, plans, decoding and augmentation."""
