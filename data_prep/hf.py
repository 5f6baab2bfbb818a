"""Any image-classification set of the library datasets: a folder, a parquet file, or a name on the hub.

    python data_prep/hf.py PATH --thing mushroom --kind species --out data/mine

It writes train.parquet, val_base.parquet and val_new.parquet (with --setting few-shot or all: train.parquet and
val.parquet), classes.json and set.json. The images are copied into the set. --thing and --kind say what the
questions ask about and for.
`divek prepare hf` is the same command; its code is divek_verl/prepare/.
"""

import sys

from divek_verl.cli import run

if __name__ == "__main__":
    raise SystemExit(run(["prepare", "hf", *sys.argv[1:]]))
