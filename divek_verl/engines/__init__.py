"""Whatever answers a question outside of verl: vLLM in this process, or a server.

Nothing is imported here, so that a command's help answers without loading an engine.
"""
