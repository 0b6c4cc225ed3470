"""Run xpcap from its folder: ``python cli.py train``. The same as the ``xpcap`` command once installed."""

from xpcap.cli import main

if __name__ == "__main__":
    main()
