"""Train a run: from a recipe to a complete folder that can be resumed. Open train.py first.

plan.py decides what is trained before anything is written, start.py starts from another run,
saver.py writes the files of the folder, reranking.py fits the reranker, and ranks.py checks that
ranks agree.
"""
