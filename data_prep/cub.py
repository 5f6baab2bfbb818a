"""Birds: CUB-200-2011, 200 species, half of them held out.

    python data_prep/cub.py --data-root ROOT --out data/cub

ROOT is the official folder CUB_200_2011 (images.txt, image_class_labels.txt, train_test_split.txt, classes.txt,
images/) or holds it. It writes train.parquet, val_base.parquet and val_new.parquet (with --setting few-shot or
all: train.parquet and val.parquet), classes.json and set.json. A fifth of the official training images of each
class is held out to validate on; --eval-split test validates on the official test images.
`divek prepare cub` is the same command; its code is divek_verl/prepare/.
"""

from divek_verl.commands.prepare import cub as main
from divek_verl.prepare import run_script

if __name__ == "__main__":
    run_script(main)
