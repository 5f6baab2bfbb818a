"""Cars: Stanford Cars, 196 makes, models and years, half of them held out.

    python data_prep/cars.py --data-root ROOT --out data/cars

ROOT is the folder with cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat, or holds it as
stanford_cars. It writes train.parquet, val_base.parquet and val_new.parquet (with --setting few-shot or all:
train.parquet and val.parquet), classes.json and set.json. If CoOp's split_zhou_StanfordCars.json
lies there, it is followed.
`divek prepare cars` is the same command; its code is divek_verl/prepare/.
"""

import sys

from divek_verl.cli import run

if __name__ == "__main__":
    raise SystemExit(run(["prepare", "cars", *sys.argv[1:]]))
