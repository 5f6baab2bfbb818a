"""Birds: CUB-200-2011, 200 species, half of them held out.

    python data_prep/cub.py --data-root ROOT --out data/cub

ROOT is the official folder CUB_200_2011 (images.txt, image_class_labels.txt, train_test_split.txt, classes.txt,
images/) or holds it. It writes train.parquet, val_base.parquet and val_new.parquet (with --setting few-shot or
all: train.parquet and val.parquet), classes.json and set.json. A fifth of the official training images of each
class validates; --eval-split test validates on the official test images.
`divek prepare cub` is the same command; its code is divek_verl/prepare/.
"""

import sys

from divek_verl.cli import run

if __name__ == "__main__":
    raise SystemExit(run(["prepare", "cub", *sys.argv[1:]]))
