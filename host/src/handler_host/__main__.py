"""``python -m handler_host``: the same as ``handler-host``."""

import sys

from handler_host.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
