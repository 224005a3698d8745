"""From counts to features: sums by gene, the preparation learnt from them, and batches."""
