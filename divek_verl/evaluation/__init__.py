"""Evaluation: both steps on prepared data, statistics with intervals, comparison of two runs, pages and tables."""
