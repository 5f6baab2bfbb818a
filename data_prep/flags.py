"""Demo data: look-alike national flags, one drawing style and half of the classes held out.

    python data_prep/flags.py --out data/flags

It writes train.parquet (base classes, training drawings), val_base.parquet and val_new.parquet (the held-out
drawing style) and classes.json. The drawings are npm packages:
divek_verl/prepare/flag_drawings.py names their versions and licences.
`divek prepare flags` is the same command; its code is divek_verl/prepare/.
"""

import sys

from divek_verl.cli import run

if __name__ == "__main__":
    raise SystemExit(run(["prepare", "flags", *sys.argv[1:]]))
