"""What was measured: figures with intervals, paired comparisons, baselines, and, with torch, the lens and
weight changes."""
