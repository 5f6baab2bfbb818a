"""Votes mined outside a training run, and the engines that mining, evaluation and prediction ask.

Nothing is imported here: ``divek mine --help`` answers without loading an engine.
"""
