"""Several prepared sets as one of mixed domains.

    python data_prep/mix.py data/cub data/cars --per-class 4 --out data/mixed

writes the parquet files that the sets have, classes.json by data set and set.json. Each row keeps its own set's
class list, noun and prompt; validation files are merged whole.
`divek prepare mix` is the same command; its code is divek_verl/prepare/.
"""

from divek_verl.commands.prepare import mix as main
from divek_verl.prepare import run_script

if __name__ == "__main__":
    run_script(main)
