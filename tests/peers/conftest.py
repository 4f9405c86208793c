"""Tests against other packages, which need an environment of their own.

``make test-peers`` makes it and runs them; no other run collects them. Where it does,
a package that is missing is an error.
"""

import os

collect_ignore_glob = [] if os.environ.get("SKLEARN_CCX_PEERS") else ["*.py"]
