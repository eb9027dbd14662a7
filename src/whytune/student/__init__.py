"""The student: a base model and an adapter that learns lessons and answers with probabilities."""
