"""Several devices: ranks that share the batch (dp) times ranks that share the network (mp).

Reading order. Who is there: `environment.py` (what a launcher left), `ranks.py` (how the ranks meet), `launch.py` (who
starts them), `devices.py` (on which devices). How they talk: `dims.py` (dp x mp), `axis.py` (the ranks along one of the
two), `mesh.py` (all of them). What they share: `split.py` (the network), `tower_loader.py` (the images).
"""
