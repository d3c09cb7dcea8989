"""Shards that are elsewhere: listed where they are, fetched whole, verified, and kept within bounds on a local disk.

Reading order: `urls.py` (which DATA is a URL), `errors.py` (what a failed request means), `store.py` (files behind
URLs, by fsspec, with patience), `shard_cache.py` (the bounded folder that the processes of a machine share),
`shards.py` (the shards of a data set: read through the cache, fetched ahead of need).

`dataset/remote.py` makes a `Dataset` of them. Nothing here is imported for local data but `urls.py`, and fsspec only
once there is a URL to read.
"""
