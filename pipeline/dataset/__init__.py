"""Which images a data set holds, and where their bytes are: from a folder to a `Dataset`.

Reading order: `images.py` (the `Dataset` itself), `regular.py` (only regular files are opened), `names.py` (what file
names say), `classes.py` (class names and their order), `labels.py` (labels of a validation set without class folders),
`archive.py` (members of tar archives), `walk.py` (images below a folder), `index.py` (the list of images, kept in a
file), `record.py` (what a pack says of itself), `shards.py` (WebDataset), `parquet.py` (files that are packed before
use), `splits.py` (where the two splits are), `layouts.py` (which of the known layouts it is), `remote.py` (shards
behind a URL), `selection.py` (which of the images are wanted), `class_list.py` (a person's list of classes),
`numbers.py` (a number for each image, from its name), `choose.py` (the wanted images, by these), `open.py` (all of it
together: `open_dataset`).
"""
