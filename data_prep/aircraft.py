"""Aircraft: FGVC-Aircraft, 100 variants, half of them held out.

    python data_prep/aircraft.py --data-root ROOT --out data/aircraft

ROOT is the official fgvc-aircraft-2013b, its folder data (images/, variants.txt, images_variant_*.txt), or
CoOp's fgvc_aircraft, or holds one of them. It writes train.parquet, val_base.parquet and val_new.parquet (with
--setting few-shot or all: train.parquet and val.parquet), classes.json and set.json.
`divek prepare aircraft` is the same command; its code is divek_verl/prepare/.
"""

import sys

from divek_verl.cli import run

if __name__ == "__main__":
    raise SystemExit(run(["prepare", "aircraft", *sys.argv[1:]]))
