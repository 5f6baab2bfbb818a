"""One file for each sub-command of `divek`."""
