"""A gateway in a process of its own, with the small engine: `python gateway_process.py SETTINGS_AS_JSON`. It prints
"ready" and serves until its input ends."""

from __future__ import annotations

import asyncio
import json
import logging
import sys

from dispatch_studio import Studio

from diptych.core.errors import DiptychError
from diptych.settings import Settings


async def main() -> None:
    async with Studio(Settings(**json.loads(sys.argv[1]))):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    try:
        asyncio.run(main())
    except DiptychError as error:
        sys.exit(error.message)
