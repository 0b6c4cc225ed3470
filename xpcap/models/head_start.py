"""Parameters of a model with more words, from those of a trained one."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from xpcap.backend import Array, asarray, get_array_module, to_numpy
from xpcap.decoding.logits import normalise
from xpcap.layers.vocabulary_loss import blocks
from xpcap.memory import fresh
from xpcap.models.batch import prepare_batch
from xpcap.models.captioning_rnn import CaptioningRNN
from xpcap.models.network import forward
from xpcap.models.parameters import Parameters
from xpcap.threads import in_turn

OF_WORDS = ("W_embed", "W_vocab", "b_vocab")
UNSEEN = 0.5  # occurrences that the bias of a word without any is fitted to

Captioned = tuple[Array, np.ndarray]  # features (N, D) or (N, P, D), captions (N, T+1) int


@in_turn
def with_new_words(
    model: CaptioningRNN, unk: int, new: int, batches: Callable[[], Iterable[Captioned]]
) -> Parameters:
    """The parameters of a model of V words, and `new` more with the ids V, V+1, ...

    A new word begins as the words that the model expects in its place. p is the mean of the
    predicted probabilities (V,) over its n occurrences in the captions, where new words before it
    are UNK to the model:

        W_embed[word] = p @ W_embed;  W_vocab[:, word] = W_vocab @ p
        b_vocab[word]: such that its predicted odds, summed over all words of the captions, are n

    Of a word without occurrences, p is 1 for UNK, and n 1/2. All other parameters are the model's.

    Parameters
    ----------
    unk : id of ``<UNK>``
    batches : returns the captions to learn from, with the ids of the larger vocabulary; called
        twice

    Returns
    -------
    Parameters, of the model's dtype and device; the order of batches decides their rounding
    """
    params, V = model.params, model.config.vocabulary
    config = replace(model.config, vocabulary=V + new, dropout=0.0)
    xp = get_array_module(params.flat)
    larger = Parameters.empty(config.shapes(), model.dtype, xp)
    for name, value in params.items():
        if name not in OF_WORDS:
            larger[name] = value
    W_embed, W_vocab, b_vocab = (larger[name] for name in OF_WORDS)
    old = params["W_embed"], params["W_vocab"], params["b_vocab"]
    W_embed[:V], W_vocab[:, :V], b_vocab[:V] = old
    # As inputs new words are UNK until all hidden states are known
    W_embed[V:], W_vocab[:, V:], b_vocab[V:] = old[0][unk], old[1][:, unk, None], old[2][unk]

    def hidden_states() -> Iterator[tuple[Array, np.ndarray]]:
        """Blocks of hidden states (n, H), and the words (n,) to predict from them."""
        for features, captions in batches():
            null, buffer = model.word_to_idx["<NULL>"], fresh(params.flat)
            (part,) = prepare_batch(
                "with_new_words", config, params.flat, null, features, captions, [buffer]
            )
            hidden, targets = forward(config, inputs, part, buffer).hidden, part.packed.targets
            for rows in blocks(len(targets), V + new, hidden):
                yield hidden[rows], to_numpy(targets[rows])

    inputs = larger.copy()
    # Sums over the occurrences of each new word, on the host, where their order is fixed
    W, rows = model.config.wordvec, np.zeros((new, model.config.wordvec + model.config.hidden + 1))
    counts = np.zeros(new)
    for h, words in hidden_states():
        (at,) = np.nonzero(words >= V)
        p = xp.exp(normalise(h[asarray(at, like=h)] @ old[1] + old[2]))
        expected = xp.concatenate([p @ old[0], p @ old[1].T, (p @ old[2])[:, None]], axis=1)
        np.add.at(rows, words[at] - V, to_numpy(expected))
        np.add.at(counts, words[at] - V, 1)
    seen = counts > 0
    rows[seen] /= counts[seen, None]
    unknown = to_numpy(xp.concatenate([old[0][unk], old[1][:, unk], old[2][unk, None]]))
    rows[~seen] = unknown
    rows = asarray(rows.astype(model.dtype), like=W_embed)
    W_embed[V:], W_vocab[:, V:], b_vocab[V:] = rows[:, :W], rows[:, W:-1].T, rows[:, -1]

    # Their odds so far; at most 1 for each word, since a mean of scores is below their log-sum-exp
    odds = np.zeros(new)
    for h, _ in hidden_states():
        scores = h @ W_vocab + b_vocab
        scores -= scores[:, :V].max(axis=1, keepdims=True)
        scores -= xp.log(xp.exp(scores[:, :V]).sum(axis=1, keepdims=True))
        odds += to_numpy(xp.exp(scores[:, V:]).sum(axis=0, dtype=np.float64))
    shift = np.log(np.where(seen, counts, UNSEEN) / np.maximum(odds, np.finfo(model.dtype).tiny))
    b_vocab[V:] += asarray(shift.astype(model.dtype), like=b_vocab)
    return larger
