"""What all data_prep scripts and ``divek prepare`` share: from an official folder to a prepared set.

A prepared set is a folder with train.parquet, val_base.parquet and val_new.parquet (or val.parquet), classes.json and
set.json. Image paths in its rows start from a folder that set.json records, or else from the set's own folder.
"""

from divek_verl.prepare.classes import Classes
from divek_verl.prepare.examples import Example, Split
from divek_verl.prepare.folder import new_folder
from divek_verl.prepare.rows import SCHEMA, Row
from divek_verl.prepare.run import run_script
from divek_verl.prepare.write import Policy, write_set

__all__ = ["SCHEMA", "Classes", "Example", "Policy", "Row", "Split", "new_folder", "run_script", "write_set"]
