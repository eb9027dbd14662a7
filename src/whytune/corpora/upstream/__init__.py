"""Readers of upstream releases in their own formats, one module each."""
