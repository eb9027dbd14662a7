"""The grid of runs, and what is shown of it: tables, pictures, the page."""
