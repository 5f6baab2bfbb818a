"""Your own images: each sub-folder is a class.

    python data_prep/image_folder.py --data-root ROOT --out data/mine

ROOT holds a folder of images for each class; or train, val and test folders with a folder for each class, which
are followed. It writes train.parquet, val_base.parquet and val_new.parquet (with --setting few-shot or all:
train.parquet and val.parquet), classes.json and set.json.
`divek prepare image_folder` is the same command; its code is divek_verl/prepare/.
"""

from divek_verl.commands.prepare import image_folder as main
from divek_verl.prepare import run_script

if __name__ == "__main__":
    run_script(main)
