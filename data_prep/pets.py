"""Cats and dogs: Oxford-IIIT Pet, 37 breeds, half of them held out.

    python data_prep/pets.py --data-root ROOT --out data/pets

ROOT is the folder with images/ and annotations/ (trainval.txt, test.txt), or holds it as oxford-iiit-pet or
oxford_pets. It writes train.parquet, val_base.parquet and val_new.parquet (with --setting few-shot or all:
train.parquet and val.parquet), classes.json and set.json. If CoOp's split_zhou_OxfordPets.json
lies there, it is followed.
`divek prepare pets` is the same command; its code is divek_verl/prepare/.
"""

import sys

from divek_verl.cli import run

if __name__ == "__main__":
    raise SystemExit(run(["prepare", "pets", *sys.argv[1:]]))
