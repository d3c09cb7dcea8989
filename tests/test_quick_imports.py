"""What a command imports is left out of collections, and what it makes later is not."""

import subprocess
import sys

PROGRAM = """
import gc
import weakref

from alexnet.console.imports import quick_imports

with quick_imports():
    assert not gc.isenabled()
    import xml.dom.minidom

frozen = gc.get_freeze_count()
assert gc.isenabled()
assert frozen > 1000

class Ring:
    def __init__(self):
        self.itself = self

ring = weakref.ref(Ring())
with quick_imports():
    import xml.dom.minidom  # nothing new
gc.collect()
assert ring() is None
try:
    with quick_imports():
        import there_is_no_such_module
except ModuleNotFoundError:
    assert gc.isenabled()
"""


def test_imports_are_frozen_and_garbage_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
