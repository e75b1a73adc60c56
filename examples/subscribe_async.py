"""Print every mask as it comes, in asyncio: python examples/subscribe_async.py tcp://127.0.0.1:5570"""

import asyncio
import sys

from streamseg.client import subscribe_async


async def main() -> None:
    async with subscribe_async(sys.argv[1]) as masks:
        async for mask in masks:
            print(mask.stream, mask.seq, mask.labels.shape, f"{masks.age_s(mask):.3f} s", flush=True)


asyncio.run(main())
