"""Speed and exactness, against the plain notebook that everyone writes; `python -m benchmarks --help`."""

import cifarlib._torchvision  # noqa: F401 - where torchvision imports only with its help, the peer's does too
