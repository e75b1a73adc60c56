"""Print every mask as it comes: python examples/subscribe.py tcp://127.0.0.1:5570"""

import sys

from streamseg import subscribe

with subscribe(sys.argv[1]) as masks:
    for mask in masks:
        print(
            mask.stream, mask.seq, mask.label_set, mask.labels.shape, f"{masks.age_s(mask):.3f} s", flush=True
        )
