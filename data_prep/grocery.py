"""Groceries: the Grocery Store Dataset, 81 products in groups of look-alikes, half of them held out.

    python data_prep/grocery.py --data-root GroceryStoreDataset --out data/grocery --eval-split test

The folder is a clone of https://github.com/marcusklasson/GroceryStoreDataset (MIT licence), or its folder `dataset`
with classes.csv, train.txt, val.txt and test.txt. It writes train.parquet, val_base.parquet and val_new.parquet (with
--setting few-shot or all: train.parquet and val.parquet; with --setting pretrain-shots also pretrain.parquet),
classes.json and set.json. The validation part shows 60 of the classes, so --eval-split test is the better measure.
`divek prepare grocery` is the same command; its code is divek_verl/prepare/.
"""

import sys

from divek_verl.cli import run

if __name__ == "__main__":
    raise SystemExit(run(["prepare", "grocery", *sys.argv[1:]]))
