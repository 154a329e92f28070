"""Our own suite runs on the pinned local servers, also where a Docker API answers.

They are what the expected results were checked on; the container path has tests of its own. A URL that
is given still comes first, and ``--esembed-engine`` or ``ESEMBED_ENGINE`` overrule this.
"""

import os

if not any(os.environ.get(f"ESEMBED_{kind}_URL") for kind in ("OPENSEARCH", "ELASTICSEARCH")):
    os.environ.setdefault("ESEMBED_ENGINE", "local")
