"""Runs inside verl: the parts that its configuration names."""
