"""``python -m xpcap.course``: make a small data set for the course's notebooks."""

from xpcap.exercise.write_data import main

if __name__ == "__main__":
    main()
