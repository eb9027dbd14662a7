"""From raw replies to verdicts, and from verdicts to lessons."""
