"""The jobs behind the commands, one file for each."""

import os

# Ray would start a cluster of its own for whoever asks it anything after it was shut down. Read when it is imported.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
