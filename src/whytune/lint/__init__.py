"""What can be said about texts, labels and explanations before anyone is taught.

Pure functions over texts and counts; each finding is verified, none is only estimated. Knows
nothing of files, tokenizers or students.
"""
