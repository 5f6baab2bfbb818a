"""Hydra files, found by verl through the plugin; a package, since Hydra asks for one."""
