"""Flowers: Oxford Flowers 102, half of the species held out.

    python data_prep/flowers.py --data-root ROOT --out data/flowers

ROOT is the folder with jpg/, imagelabels.mat, setid.mat and, from CoOp, cat_to_name.json and
split_zhou_OxfordFlowers.json, or holds it as oxford_flowers. It writes train.parquet, val_base.parquet and
val_new.parquet (with --setting few-shot or all: train.parquet and val.parquet), classes.json and set.json.
CoOp's split is followed if it lies there, else setid.mat. Without both, --seed divides each class into half, a
fifth and the rest.
`divek prepare flowers` is the same command; its code is divek_verl/prepare/.
"""

import sys

from divek_verl.cli import run

if __name__ == "__main__":
    raise SystemExit(run(["prepare", "flowers", *sys.argv[1:]]))
