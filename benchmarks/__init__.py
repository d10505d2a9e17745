"""Commands that measure; what they write is in results/."""
