"""``python -m xpcap.grading.handout``: write a folder to hand out."""

from xpcap.exercise.handout import main

if __name__ == "__main__":
    main()
