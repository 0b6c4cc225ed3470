// Reranks candidates by the training photos most similar to a picture, like xpcap's Reranker.

import { order } from "./decode.js";

const SAME_PHOTO = 0.999; // cosine above which two photos count as the same
const NEGLIGIBLE = 1e-6;
const RETRIEVED_FROM = 10; // nearest photos whose captions may become candidates
const MIN_SHARE = 1e-6;
const RARE = Math.fround(1e-3);
const ORDERS = 4; // n-grams of 1 to 4 words
const SIGMA = 6;
const FACTOR = 0x9e3779b97f4a7c15n;
const MAX_REPEATED = 3; // words

export class Reranker {
  // tensors: those of reranking.safetensors, by name. settings: those of the manifest.
  constructor(tensors, settings, special) {
    Object.assign(this, settings);
    this.unk = special.unk;
    this.tensors = tensors;
    this.directions = halves(tensors.directions.data);
    this.predictor = halves(tensors.predictor.data);
    this.V = tensors.predictor.shape[1];
    this.firsts = sums(tensors.counts.data); // the first caption of each photo
    this.starts = sums(tensors.lengths.data); // the first word of each caption
    this.pairs = pairsOf(tensors, this.V);
  }

  captions(photo) {
    const captions = [];
    for (let k = this.firsts[photo]; k < this.firsts[photo + 1]; k++) {
      captions.push([...this.tensors.words.data.subarray(this.starts[k], this.starts[k + 1])]);
    }
    return captions;
  }

  // Candidates with their scores, best first.
  //
  // projected: (d), output of start.onnx; norm: that of the centred feature, if start.onnx gives it.
  // logLikelihood(captions): the log-probabilities of the words and END of each caption.
  // allowed(words): whether a neighbour's caption may be a candidate.
  async rerank(projected, norm, made, logLikelihood, allowed) {
    const direction = unit(projected);
    const near = this.nearest(direction, norm === undefined ? 1 : length(projected) / norm);
    const candidates = [...made, ...(await this.retrieve(near, made, logLikelihood, allowed))];
    const consensus = this.consensus(near, candidates);
    const scored = candidates.map((candidate, i) => {
      const { words, photo } = candidate;
      const features = {
        log_probability: candidate.log_probability / (words.length + 1),
        consensus: consensus[i],
        words: this.lift(direction, words),
        length: words.length,
        unseen: this.unseen(words),
        repeats: Number(repeats(words)),
        borrowed: Number(photo >= 0),
      };
      const parts = Object.entries(features).map(([name, x]) => this.weights[name] * x);
      return { ...candidate, score: parts.reduce((sum, part) => sum + part, 0) };
    });
    return scored.sort((a, b) => order(b.score, a.score));
  }

  // The photos nearest to a direction, with their cosines, nearest first. share: fraction of the
  // feature's norm that the projection keeps; cosine * share is the cosine of the features.
  nearest(direction, share) {
    const d = direction.length;
    const similar = [];
    for (let photo = 0; photo < this.photos; photo++) {
      let cosine = 0;
      const start = photo * d;
      for (let i = 0; i < d; i++) cosine += direction[i] * this.directions[start + i];
      cosine = Math.fround(cosine);
      if (cosine > 0 && cosine * share < SAME_PHOTO) similar.push({ photo, cosine });
    }
    similar.sort((a, b) => b.cosine - a.cosine);
    const nearest = similar.slice(0, this.neighbours);
    const weights = nearest.map(({ cosine }) => {
      return Math.exp((cosine - nearest[0].cosine) / this.bandwidth);
    });
    const total = Math.max(weights.reduce((sum, weight) => sum + weight, 0), MIN_SHARE);
    return nearest.map((neighbour, i) => ({ ...neighbour, weight: weights[i] / total }));
  }

  // The neighbours' captions with the highest consensus, as candidates.
  async retrieve(near, made, logLikelihood, allowed) {
    if (!this.retrieved) return [];
    const known = new Set(made.map(({ words }) => words.join(" ")));
    const offered = [];
    for (const { photo } of near.slice(0, RETRIEVED_FROM)) {
      for (const words of this.captions(photo)) {
        const key = words.join(" ");
        if (!words.length || words.includes(this.unk) || known.has(key)) continue;
        known.add(key);
        if (allowed(words)) offered.push({ words, log_probability: 0, photo });
      }
    }
    const consensus = this.consensus(near, offered);
    const byConsensus = offered.map((_, i) => i);
    byConsensus.sort((i, j) => order(consensus[j], consensus[i]));
    const chosen = byConsensus.slice(0, this.retrieved).map((i) => offered[i]);
    if (!chosen.length) return [];
    const logs = await logLikelihood(chosen.map(({ words }) => words));
    return chosen.map((candidate, i) => ({
      ...candidate,
      probabilities: logs[i].slice(0, -1).map(Math.exp),
      log_probability: logs[i].reduce((sum, log) => sum + log, 0),
    }));
  }

  // Mean CIDEr-D of each candidate with the neighbours' captions as references, weighted by nearness.
  consensus(near, candidates) {
    const references = near.flatMap(({ photo, weight }) => {
      const captions = this.captions(photo).map((words) => words.filter((w) => w !== this.unk));
      return captions.map((words) => ({
        photo,
        weight: weight / captions.length,
        vector: this.vector(words),
      }));
    });
    return candidates.map(({ words, photo }) => {
      const vector = this.vector(words);
      const mean = (captions) => {
        return captions.reduce((sum, caption) => {
          return sum + caption.weight * similarity(vector, caption.vector);
        }, 0);
      };
      if (photo < 0) return mean(references);
      // A caption is not compared with the captions of its photo
      const share = near.find((neighbour) => neighbour.photo === photo)?.weight ?? 0;
      const others = references.filter((reference) => reference.photo !== photo);
      return mean(others) / Math.max(1 - share, MIN_SHARE);
    });
  }

  // The n-grams of a sentence with count times idf, and their norm for each order.
  vector(words) {
    const grams = new Map();
    for (let n = 0; n < ORDERS; n++) {
      for (let i = 0; i + n < words.length; i++) {
        let gram = 0n;
        for (let k = i; k <= i + n; k++) gram = join(this.tensors.hashes.data[words[k]], gram);
        const known = grams.get(gram);
        if (known) known.times += 1;
        else grams.set(gram, { times: 1, order: n });
      }
    }
    const squares = new Float64Array(ORDERS);
    for (const [gram, entry] of grams) {
      entry.value = entry.times * this.idf(gram);
      squares[entry.order] += entry.value ** 2;
    }
    const norms = squares.map((square) => Math.sqrt(square > 0 ? square : 1));
    return { grams, norms, length: Math.max(words.length - 1, 0) };
  }

  idf(gram) {
    const { grams, times } = this.tensors;
    let low = 0;
    let high = grams.data.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (grams.data[middle] < gram) low = middle + 1;
      else high = middle;
    }
    const frequency = grams.data[low] === gram ? times.data[low] : 1;
    return Math.log(Math.max(this.photos, 1)) - Math.log(frequency);
  }

  // Mean over words of log(expected share of captions with the word / its share in training captions).
  lift(direction, words) {
    if (!words.length) return 0;
    const d = direction.length;
    let sum = 0;
    for (const word of words) {
      const prior = this.predictor[d * this.V + word];
      let expected = prior;
      for (let i = 0; i < d; i++) expected += direction[i] * this.predictor[i * this.V + word];
      sum += Math.log(Math.max(expected, 0) + RARE) - Math.log(prior + RARE);
    }
    return sum / words.length;
  }

  // Share of pairs of words, including the last word and the end, that no training caption contains.
  unseen(words) {
    const follows = [...words.slice(1), this.V];
    const missing = words.filter((word, i) => !this.pairs.has(word * (this.V + 1) + follows[i]));
    return missing.length / Math.max(words.length, 1);
  }
}

const join = (number, other) => BigInt.asUintN(64, number + other * FACTOR);

// CIDEr-D of a sentence with a reference, both as vectors.
function similarity(sentence, reference) {
  let sum = 0;
  for (const [gram, { value, order: n }] of sentence.grams) {
    const theirs = reference.grams.get(gram)?.value;
    if (theirs !== undefined) {
      sum += (Math.min(value, theirs) * theirs) / (sentence.norms[n] * reference.norms[n]);
    }
  }
  const gap = sentence.length - reference.length;
  return (10 / ORDERS) * sum * Math.exp(-(gap ** 2) / (2 * SIGMA ** 2));
}

// True if one to three words are repeated immediately.
export function repeats(words) {
  for (let n = 1; n <= MAX_REPEATED; n++) {
    for (let i = 0; i + 2 * n <= words.length; i++) {
      if (words.slice(i, i + n).every((word, k) => word === words[i + n + k])) return true;
    }
  }
  return false;
}

function length(x) {
  return Math.sqrt(x.reduce((sum, number) => sum + number * number, 0));
}

function unit(projected) {
  const norm = length(projected);
  return projected.map((x) => (norm > NEGLIGIBLE ? x / norm : 0));
}

function sums(numbers) {
  const out = new Uint32Array(numbers.length + 1);
  numbers.forEach((number, i) => (out[i + 1] = out[i] + number));
  return out;
}

// Pairs of words that follow each other in a training caption; V stands for the end.
function pairsOf({ words, lengths, ends }, V) {
  const pairs = new Set();
  let at = 0;
  for (const length of lengths.data) {
    for (let i = 1; i < length; i++) {
      pairs.add(words.data[at + i - 1] * (V + 1) + words.data[at + i]);
    }
    at += length;
  }
  for (const word of ends.data) pairs.add(word * (V + 1) + V);
  return pairs;
}

// ---- Files

const ARRAYS = {
  F16: Uint16Array,
  U16: Uint16Array,
  U32: Uint32Array,
  U64: BigUint64Array,
};

// The tensors of a safetensors file, as {data, shape} by name; float16 tensors as bits.
export function readTensors(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + size)));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(header)) {
    const content = bytes.slice(8 + size + start, 8 + size + end); // aligned
    tensors[name] = { shape, data: new ARRAYS[dtype](content.buffer) };
  }
  return tensors;
}

// float16 bits as numbers.
export function halves(bits) {
  const table = new Float32Array(1 << 16);
  for (let i = 0; i < 1 << 15; i++) {
    const [exponent, fraction] = [i >> 10, i & 1023];
    table[i] = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction;
    table[i | (1 << 15)] = -table[i];
  }
  return Float32Array.from(bits, (pattern) => table[pattern]);
}
