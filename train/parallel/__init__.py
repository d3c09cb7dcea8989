"""Several devices: ranks that share the batch (dp) times ranks that share the network (mp).

Reading order. Who is there: `environment.py` (what the launcher set), `ranks.py` (how the ranks meet), `launch.py` (how
they start), `devices.py` (on which devices). How they talk: `dims.py` (dp x mp), `axis.py` (along one of the two),
`mesh.py` (all ranks). What they share: `split.py` (the network), `tower_loader.py` (the images).
"""
