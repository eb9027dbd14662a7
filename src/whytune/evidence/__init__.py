"""What was measured: figures with intervals, paired comparisons, baselines. Needs no torch."""
