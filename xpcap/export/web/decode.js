// Beam search for one picture, as xpcap's Beam: the likeliest beginnings of a caption go on.

const LONGEST_STUTTER = 3; // words

// log(softmax(row)) of rows of V scores, in place.
export function normalise(scores, V) {
  for (let start = 0; start < scores.length; start += V) {
    const row = scores.subarray(start, start + V);
    let most = -Infinity;
    for (let i = 0; i < V; i++) if (row[i] > most) most = row[i];
    let sum = 0;
    for (let i = 0; i < V; i++) sum += Math.exp(row[i] - most);
    const shift = most + Math.log(sum);
    for (let i = 0; i < V; i++) row[i] -= shift;
  }
  return scores;
}

// Candidates of one picture, the best score first.
//
// next(words, parents): the log-probabilities (n * V) of the word after `words` (n), of hypotheses
// that continue those numbered `parents` (n) of the call before; null in the first call.
// special: ids of null, start, end. policy: width, length_penalty, max_length, forbid, no_stutter.
// Each candidate has words, without END, probabilities of them, and its log_probability.
export async function search(next, V, special, policy) {
  const slots = Array.from({ length: policy.width }, () => newHypothesis());
  let alive = [newHypothesis()]; // before the first word there is one
  let places = slots.map((_, k) => k); // the slots that the step fills
  let parents = null;
  for (let t = 0; t < policy.max_length; t++) {
    const words = alive.map(({ ids }) => (t ? ids[t - 1] : special.start));
    const logs = await next(words, parents);
    const found = choose(logs, V, alive, policy, places.length);
    const continued = found.map(({ parent, word, total }) => {
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
    continued.forEach((one, k) => (slots[places[k]] = one));
    places = places.filter((slot) => !slots[slot].ended);
    if (places.every((slot) => slots[slot].total === -Infinity)) break; // no word was left
    alive = places.map((slot) => slots[slot]);
    parents = alive.map(({ parent }) => parent);
  }
  return candidatesOf(slots, special, policy);
}

function newHypothesis() {
  return { ids: [], probabilities: [], total: 0, ended: false, parent: 0 };
}

// The best continuations of all hypotheses; ties go to the first of them, then to the first word.
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
  return entries.sort((one, other) => order(other.total, one.total)).slice(0, count);
}

// Negative if x is below y, as `sort` wants it; -Infinity equals itself.
export const order = (x, y) => (x === y ? 0 : x - y);

// Places of the k largest numbers, falling; of equals the first.
function largest(row, k) {
  const places = [];
  for (let i = 0; i < row.length; i++) {
    const x = row[i];
    if (places.length === k && !(x > row[places[k - 1]])) continue;
    let at = places.length;
    while (at && x > row[places[at - 1]]) at--;
    places.splice(at, 0, i);
    if (places.length > k) places.pop();
  }
  return places;
}

// Words that would make the last one to three words stand twice in a row.
function stuttering(ids) {
  const words = [];
  const t = ids.length;
  for (let n = 1; n <= LONGEST_STUTTER; n++) {
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
    .sort((one, other) => {
      const power = policy.length_penalty;
      return order(score(other, power), score(one, power));
    });
  const candidates = new Map();
  for (const { ids, probabilities, total } of ranked) {
    const words = ids.filter((id) => id !== special.end && id !== special.null);
    const one = { words, probabilities: probabilities.slice(0, words.length), photo: -1 };
    const key = words.join(" ");
    candidates.set(key, { ...(candidates.get(key) ?? one), log_probability: total });
  }
  return [...candidates.values()];
}
