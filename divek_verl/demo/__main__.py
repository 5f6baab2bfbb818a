"""Entry point of ``python -m divek_verl.demo``."""

import typer

from divek_verl.demo.run import main

typer.run(main)
