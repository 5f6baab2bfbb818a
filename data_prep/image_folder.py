"""Your own images: each sub-folder is a class.

    python data_prep/image_folder.py --data-root ROOT --thing mushroom --kind species --out data/mine

ROOT holds a folder of images for each class, or train, val and test folders that do. --thing and --kind say what
the questions ask about and for. It writes train.parquet, val_base.parquet and val_new.parquet (with --setting
few-shot or all: train.parquet and val.parquet), classes.json and set.json.
`divek prepare image_folder` is the same command; its code is divek_verl/prepare/.
"""

import sys

from divek_verl.cli import run

if __name__ == "__main__":
    raise SystemExit(run(["prepare", "image_folder", *sys.argv[1:]]))
