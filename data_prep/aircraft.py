"""Aircraft: FGVC-Aircraft, 100 variants, half of them held out.

    python data_prep/aircraft.py --data-root ROOT --out data/aircraft

ROOT is the official fgvc-aircraft-2013b, its folder data (images/, variants.txt, images_variant_*.txt), or
CoOp's fgvc_aircraft, or holds one of them. It writes train.parquet, val_base.parquet and val_new.parquet (with
--setting few-shot or all: train.parquet and val.parquet), classes.json and set.json.
`divek prepare aircraft` is the same command; its code is divek_verl/prepare/.
"""

from divek_verl.commands.prepare import aircraft as main
from divek_verl.prepare import run_script

if __name__ == "__main__":
    run_script(main)
