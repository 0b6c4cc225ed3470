"""``python -m xpcap train``: the same as the ``xpcap`` command."""

from xpcap.cli import main

if __name__ == "__main__":
    main()
