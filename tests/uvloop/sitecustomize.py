"""Make uvloop the event loop of every Python process that has this directory in its PYTHONPATH (see `make uvloop`)."""

import asyncio

import uvloop

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
