"""From an official folder or your own pictures to a prepared set, for ``divek prepare``.

A prepared set is a folder with train.parquet, val_base.parquet and val_new.parquet (or val.parquet), classes.json and
set.json. Image paths in its rows start from a folder that set.json records, or else from the set's own folder.
"""

from divek_verl.prepare.folder import new_folder
from divek_verl.prepare.rows import SCHEMA, Example, Row, Split
from divek_verl.prepare.source import Classes
from divek_verl.prepare.write import write_set

__all__ = ["SCHEMA", "Classes", "Example", "Row", "Split", "new_folder", "write_set"]
