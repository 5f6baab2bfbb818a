"""Several prepared sets as one of mixed domains.

    python data_prep/mix.py data/cub data/cars --per-class 4 --out data/mixed

It writes the parquet files that the sets have, and classes.json and set.json with a part for each data set. Each row
keeps its own set's class list, wording and prompt; validation files are merged whole.
`divek prepare mix` is the same command; its code is divek_verl/prepare/.
"""

import sys

from divek_verl.cli import run

if __name__ == "__main__":
    raise SystemExit(run(["prepare", "mix", *sys.argv[1:]]))
