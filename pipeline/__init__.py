"""From files on disk to batches of training images.

Reading order:

1. `errors.py`, `files.py`, `cache.py`, `sizes.py`, `compiled.py`, `children.py`, `optional.py`: used everywhere; look
   them up when you meet them.
2. `dataset/`: which images there are, and where their bytes are; `remote/`: shards that are fetched first.
3. `plan.py`: the order of an epoch, and each image's random crop, flip and lighting; `window.py`: orders for remote
   shards that do not all fit on the disk.
4. `geometry.py`: which rectangle of the source a crop is.
5. `augment.py`: the whole treatment in plain numpy, the reference that everything faster is tested against.
6. `decode/`: from bytes to pixels with DALI, surviving bad images.
7. `treatment.py`: from pixels to what the network sees; `squares.py`: images without augmentation; `loader.py`:
   batches to train on.
8. `encode.py`, `pack.py`: a data set down-sampled once, into shards.

Beside the flow: `bench/` measures the loader, `machine/` examines this machine, `synthetic/` draws data sets.
"""
