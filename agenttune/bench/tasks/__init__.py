"""The trainings of the benchmark, each a class in one file, and the faults that are done to them.

The only part of the benchmark with torch; `bench/catalog.py` knows their names and figures without it.
"""
