"""The same as test_worker_chromium.py in a second engine: LiveKit's e2ee worker in headless Firefox ESR.

`make interop` installs Firefox. It takes no loopback interface for a call, so the tests run in a network namespace of
their own, where there is another one with a default route: worker_in_firefox.py has what happens in there.
"""

from pathlib import Path

import pytest

from frameseal.tools.meet.worker import load_worker
from interop.browsers import FIREFOX
from interop.namespace import HAVE, run_in_namespace

CALLS = Path(__file__).with_name("worker_in_firefox.py")


@pytest.mark.timeout(400)
@pytest.mark.skipif(not (HAVE and FIREFOX), reason="needs Firefox ESR and root on Linux: make interop")
def test_the_worker_in_firefox():
    load_worker()  # is in the cache from now on: the namespace has no way to a registry
    network = ["addr add 10.77.0.1/24 dev near", "route add default via 10.77.0.2"]
    run_in_namespace(CALLS, *network, timeout=390)
