"""Any image-classification set of the library datasets: a folder, a parquet file, or a name on the hub.

    python data_prep/hf.py PATH --out data/mine

It writes train.parquet, val_base.parquet and val_new.parquet (with --setting few-shot or all: train.parquet and
val.parquet), classes.json and set.json. The images are copied into the set.
`divek prepare hf` is the same command; its code is divek_verl/prepare/.
"""

from divek_verl.commands.prepare import huggingface as main
from divek_verl.prepare import run_script

if __name__ == "__main__":
    run_script(main)
