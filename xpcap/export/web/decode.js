// Beam search for a picture, the same as xpcap's Beam.

const MAX_REPEATED = 3; // words

// log(softmax(row)) of rows of V scores, in place.
export function normalise(scores, V) {
  for (let start = 0; start < scores.length; start += V) {
    const row = scores.subarray(start, start + V);
    let max = -Infinity;
    for (let i = 0; i < V; i++) if (row[i] > max) max = row[i];
    let sum = 0;
    for (let i = 0; i < V; i++) sum += Math.exp(row[i] - max);
    const shift = max + Math.log(sum);
    for (let i = 0; i < V; i++) row[i] -= shift;
  }
  return scores;
}

// The candidates of a picture, best score first.
//
// next(words, parents): the log-probabilities (n * V) of the next word after `words` (n), where `parents`
// (n) are the numbers of the hypotheses of the previous call that they continue; null in the first call.
// special: ids of null, start, end. policy: width, length_penalty, max_length, forbid, no_stutter.
// Each candidate has words, without END, their probabilities, and its log_probability.
export async function search(next, V, special, policy) {
  const slots = Array.from({ length: policy.width }, () => newHypothesis());
  let alive = [newHypothesis()]; // a single one before the first word
  let open = slots.map((_, k) => k); // numbers of the slots of hypotheses that have not ended
  let parents = null;
  for (let t = 0; t < policy.max_length; t++) {
    const words = alive.map(({ ids }) => (t ? ids[t - 1] : special.start));
    const logs = await next(words, parents);
    const choices = choose(logs, V, alive, policy, open.length);
    const continued = choices.map(({ parent, word, total }) => {
      const { ids, probabilities } = alive[parent];
      const exists = total > -Infinity;
      const chosen = exists ? word : special.null;
      const log = logs[parent * V + chosen];
      return {
        ids: [...ids, chosen],
        probabilities: [...probabilities, Math.exp(log)],
        total,
        ended: chosen === special.end,
        parent,
      };
    });
    continued.forEach((hypothesis, k) => (slots[open[k]] = hypothesis));
    open = open.filter((slot) => !slots[slot].ended);
    if (open.every((slot) => slots[slot].total === -Infinity)) break; // no word is allowed
    alive = open.map((slot) => slots[slot]);
    parents = alive.map(({ parent }) => parent);
  }
  return candidatesOf(slots, special, policy);
}

function newHypothesis() {
  return { ids: [], probabilities: [], total: 0, ended: false, parent: 0 };
}

// The best continuations of all hypotheses; ties go to the first hypothesis, then to the first word.
function choose(logs, V, alive, policy, count) {
  const entries = [];
  alive.forEach(({ ids, total }, parent) => {
    const row = logs.slice(parent * V, (parent + 1) * V);
    for (const word of policy.forbid) row[word] = -Infinity;
    if (policy.no_stutter) for (const word of stuttering(ids)) row[word] = -Infinity;
    for (const word of largest(row, policy.width)) {
      entries.push({ parent, word, total: Math.fround(total + row[word]) });
    }
  });
  while (entries.length < count) entries.push({ parent: 0, word: 0, total: -Infinity });
  return entries.sort((a, b) => order(b.total, a.total)).slice(0, count);
}

// Comparison for `sort`: negative if x < y, and 0 for two -Infinity.
export const order = (x, y) => (x === y ? 0 : x - y);

// Indices of the k largest numbers, largest first; ties go to the first.
function largest(row, k) {
  const indices = [];
  for (let i = 0; i < row.length; i++) {
    const x = row[i];
    if (indices.length === k && !(x > row[indices[k - 1]])) continue;
    let at = indices.length;
    while (at && x > row[indices[at - 1]]) at--;
    indices.splice(at, 0, i);
    if (indices.length > k) indices.pop();
  }
  return indices;
}

// Words that would repeat the last one to three words.
function stuttering(ids) {
  const words = [];
  const t = ids.length;
  for (let n = 1; n <= MAX_REPEATED; n++) {
    if (t < 2 * n - 1) break;
    const [before, last] = [ids.slice(t - 2 * n + 1, t - n), ids.slice(t - n + 1)];
    if (before.every((id, i) => id === last[i])) words.push(ids[t - n]);
  }
  return words;
}

const score = ({ ids, total }, power) => total / Math.max(ids.length, 1) ** power;

function candidatesOf(slots, special, policy) {
  const ranked = slots
    .filter(({ total }) => total > -Infinity)
    .sort((a, b) => {
      const power = policy.length_penalty;
      return order(score(b, power), score(a, power));
    });
  const candidates = new Map();
  for (const { ids, probabilities, total } of ranked) {
    const words = ids.filter((id) => id !== special.end && id !== special.null);
    const candidate = { words, probabilities: probabilities.slice(0, words.length), photo: -1 };
    const key = words.join(" ");
    candidates.set(key, { ...(candidates.get(key) ?? candidate), log_probability: total });
  }
  return [...candidates.values()];
}
